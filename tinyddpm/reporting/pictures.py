"""Pictures of samples and of the denoising. Images are uint8 (N, H, W, C), C = 1 or 3."""

import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tinyddpm.checks import check_whole
from tinyddpm.errors import InputError
from tinyddpm.files import write_atomically
from tinyddpm.reporting.captions import add_captions

GAP = 2
SMALLEST_SIDE = 512


def grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """The images in rows with a dark gap between them: (H', W', C) uint8.

    columns: by default the nearest to a square. Raises InputError for an empty batch, or fewer than one column.
    """
    n, h, w, c = images.shape
    if n == 0:
        raise InputError("a grid needs at least one image, got none")
    columns = int(np.ceil(np.sqrt(n))) if columns is None else check_whole("columns", columns)
    rows = -(-n // columns)
    sheet = np.full((rows * (h + GAP) + GAP, columns * (w + GAP) + GAP, c), 48, np.uint8)
    for i, image in enumerate(images):
        y, x = GAP + i // columns * (h + GAP), GAP + i % columns * (w + GAP)
        sheet[y : y + h, x : x + w] = image
    return sheet


def to_pillow(image: np.ndarray, smallest_side: int = 0) -> Image.Image:
    """(H, W, C) as a Pillow image, enlarged by a whole factor so that its sides reach smallest_side."""
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    factor = max(1, -(-smallest_side // min(picture.size)))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def save_grid(
    path: str | os.PathLike[str],
    images: np.ndarray,
    columns: int | None = None,
    captions: Sequence[str] | None = None,
) -> None:
    """Writes a PNG of all images, small ones enlarged without smoothing.

    columns: as of `grid`. captions: a text under each image.
    """
    write_atomically(path, grid_bytes(images, columns, captions))


def grid_bytes(images: np.ndarray, columns: int | None = None, captions: Sequence[str] | None = None) -> bytes:
    """The PNG that `save_grid` writes."""
    sheet = grid(images, columns)
    picture = to_pillow(sheet, SMALLEST_SIDE)
    if captions is not None:
        factor = picture.width // sheet.shape[1]
        height, width = images.shape[1:3]
        picture = add_captions(picture, captions, height * factor, width * factor, GAP * factor)
    return png_bytes(picture)


def save_png(path: str | os.PathLike[str], picture: Image.Image, flush: bool = True) -> None:
    """Writes a Pillow image as PNG. flush: as of `write_atomically`."""
    write_atomically(path, png_bytes(picture), flush)


def png_bytes(picture: Image.Image) -> bytes:
    """A Pillow image as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def numbered(folder: str | os.PathLike[str]) -> list[Path]:
    """The pictures of `save_each` in folder, in the order of their names."""
    return sorted(path for path in Path(folder).glob("*.png") if re.fullmatch(r"\d{5,}", path.stem))


def save_each(folder: str | os.PathLike[str], images: np.ndarray, first: int = 0) -> None:
    """Writes every image at its own size as a PNG in folder, numbered from `first` on.

    `files.flush_all` is to follow.
    """
    for i, image in enumerate(images, first):
        save_png(os.path.join(folder, f"{i:05d}.png"), to_pillow(image), flush=False)


def save_gif(path: str | os.PathLike[str], frames: Iterable[np.ndarray], columns: int | None = None) -> None:
    """Writes a GIF of batches, each a `grid` of these columns, 20 frames a second; the last stands for two seconds."""
    pictures = [to_pillow(grid(frame, columns), SMALLEST_SIDE // 2) for frame in frames]
    durations = [50] * (len(pictures) - 1) + [2000]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=True
    )
    write_atomically(path, buffer.getvalue())


def save_array(path: str | os.PathLike[str], images: np.ndarray) -> None:
    """Writes the batch as a .npy array of uint8."""
    buffer = io.BytesIO()
    np.save(buffer, images, allow_pickle=False)
    write_atomically(path, buffer.getvalue())
