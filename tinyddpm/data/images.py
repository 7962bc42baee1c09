"""Image files to arrays: which are readable, which belong to a split, what their pixels are."""

import stat
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from tinyddpm.data.resize import check_pad, fit, pad
from tinyddpm.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")

# Nothing else is let in under a false name: Pillow hands PostScript, for one, to an outside program.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")

# Pillow brings 2-bit and 4-bit grey to 8 bits by these factors, but leaves the transparent value as it was.
_GREY_FACTORS = {"L;2": 85, "L;4": 17}

_SIDEWAYS = (5, 6, 7, 8)
_FEWEST_TO_SPLIT = 20
_EVERY = 10


@dataclass(frozen=True)
class ImageFile:
    """What an image file's header tells: its (height, width) as displayed, whether it has colour; its size in bytes."""

    path: Path
    shape: tuple[int, int]
    colour: bool
    size: int


class SpecialFileError(OSError):
    """A pipe, socket or device, which must not be opened: reading it may never end."""


@dataclass(frozen=True)
class Skipped:
    """A file that gives no image, and the error that tells why; None for a file of another suffix."""

    path: Path
    reason: Exception | None = None


@dataclass(frozen=True)
class Pixels:
    """Decoded files: images (N, H, W, C) uint8, the file of each, and the files that could not be decoded."""

    images: np.ndarray
    files: list[ImageFile]
    broken: list[Skipped]


def read_headers(paths: Sequence[Path]) -> tuple[list[ImageFile], list[Skipped]]:
    """Open each file without decoding it. Returns the readable images, in order, and the other files."""
    files, broken = [], []
    with _quiet_decoders():
        for path in paths:
            try:
                files.append(_read_header(path))
            except Exception as error:  # a decoder may raise nearly anything on a broken file; the caller counts it
                broken.append(Skipped(path, error))
    return files, broken


def _read_header(path: Path) -> ImageFile:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise SpecialFileError(f"{path} is a pipe, socket or device")
    with Image.open(path, formats=_FORMATS) as image:
        width, height = image.size
        # The base class's method: PNG's own would decode the whole image to look behind the pixels.
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
        shape = (width, height) if orientation in _SIDEWAYS else (height, width)
        return ImageFile(path, shape, _has_colour(image), status.st_size)


@contextmanager
def _quiet_decoders() -> Iterator[None]:
    # Pillow warns of odd EXIF data, common in photographs; nothing in it but the orientation matters here. It also
    # warns, without their names, of pictures of more than half its limit of pixels, which load all the same.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def in_split(files: Sequence[ImageFile], split: str, what: str) -> list[ImageFile]:
    """The files of a split: every tenth (the 10th, 20th, …) is for "test", all others are for "train".

    A set of fewer than 20 files is too small to set any aside: all are for "train", and "test" is an
    InputError. `what` names the set in that error.
    """
    if len(files) < _FEWEST_TO_SPLIT:
        if split == "test":
            raise InputError(
                f"{what} has {len(files)} images, too few for a test split; give at least {_FEWEST_TO_SPLIT}"
            )
        return list(files)
    return [file for i, file in enumerate(files) if (i % _EVERY == _EVERY - 1) == (split == "test")]


def native_shape(files: Sequence[ImageFile], what: str) -> tuple[int, int]:
    """The (height, width) that all files share. Raises InputError naming the sizes if they differ."""
    return _one_shape([file.shape for file in files], what)


def _one_shape(shapes: Sequence[tuple[int, int]], what: str) -> tuple[int, int]:
    sizes = Counter(shapes)
    if len(sizes) > 1:
        seen = ", ".join(f"{width}x{height} ({n} images)" for (height, width), n in sizes.most_common(3))
        more = f" and {len(sizes) - 3} more" if len(sizes) > 3 else ""
        raise InputError(
            f"{what} has images of {len(sizes)} sizes (width x height): {seen}{more}; "
            "give image_size=…, for example image_size=32, to bring all to one"
        )
    return shapes[0]


def read_pixels(
    files: Sequence[ImageFile], *, shape: tuple[int, int], colour: bool, resize: str | None, what: str
) -> Pixels:
    """Decode files.

    shape: (height, width) of the result.
    colour: RGB or grey. resize: "fit", "pad" (see `tinyddpm.data.resize`), or None for images that have the
    shape. The orientation in a photograph's EXIF data is applied, transparency is put on white, 16-bit grey
    is scaled to 8 bits, and of an animation the first picture is taken.
    Raises InputError if an image is too large to be padded, or does not have the shape when `resize` is None.
    """
    if resize == "pad":
        for file in files:
            check_pad(*file.shape, shape)
    images = np.empty((len(files), *shape, 3 if colour else 1), np.uint8)
    kept: list[ImageFile] = []
    broken: list[Skipped] = []
    for file in files:
        try:
            with _quiet_decoders():
                pixels = _decode(file.path, colour, shape if resize == "fit" else None)
        except Exception as error:  # as in read_headers
            broken.append(Skipped(file.path, error))
            continue
        if resize is None:
            # An orientation stored behind the pixels shows only now.
            _one_shape([shape, pixels.shape[:2]], what)
        images[len(kept)] = pad(pixels, shape) if resize == "pad" else pixels
        kept.append(file)
    return Pixels(images[: len(kept)], kept, broken)


def _decode(path: Path, colour: bool, fit_to: tuple[int, int] | None) -> np.ndarray:
    """The pixels of a file, (H, W, C) uint8 with C = 3 or 1; `fit_to` as in `tinyddpm.data.resize.fit`."""
    with Image.open(path, formats=_FORMATS) as image:
        if fit_to is not None:
            # JPEG decodes to 1/2, 1/4 or 1/8 much faster; twice the final size still feeds the filter well.
            image.draft(None, (2 * fit_to[1], 2 * fit_to[0]))
        _bring_transparent_value_to_eight_bits(image)
        upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):
        sixteen_bit = np.asarray(upright).clip(0, 65535).astype(np.uint32)
        eight_bit = ((sixteen_bit * 255 + 32767) // 65535).astype(np.uint8)
        if "transparency" in upright.info:
            eight_bit[sixteen_bit == upright.info["transparency"]] = 255
        upright = Image.fromarray(eight_bit)
    if upright.has_transparency_data:
        white = Image.new("RGBA", upright.size, "white")
        white.alpha_composite(upright.convert("RGBA"))
        upright = white
    picture = upright.convert("RGB" if colour else "L")
    if fit_to is not None:
        picture = fit(picture, fit_to)
    return np.asarray(picture).reshape(picture.height, picture.width, 3 if colour else 1)


def _bring_transparent_value_to_eight_bits(image: Image.Image) -> None:
    """Mends a PNG whose pixels Pillow brings to 8 bits; 16-bit grey stays as it is until `_decode` does so."""
    value = image.info.get("transparency")
    tiles = getattr(image, "tile", None)
    stored = tiles[0].args if tiles else None
    if isinstance(value, int) and stored in _GREY_FACTORS:
        image.info["transparency"] = value * _GREY_FACTORS[stored]
    elif isinstance(value, tuple) and stored == "RGB;16B":
        # Pillow keeps the high bytes of the pixels, so that colours which differ in the low ones are alike.
        image.info["transparency"] = tuple(channel >> 8 for channel in value)


def _has_colour(image: Image.Image) -> bool:
    if image.mode in ("P", "PA"):
        palette = np.array(image.getpalette("RGB")).reshape(-1, 3)
        return bool((palette != palette[:, :1]).any())
    return image.mode not in ("1", "L", "LA") and not image.mode.startswith("I")


def broken_note(broken: Sequence[Skipped], root: Path) -> tuple[str, ...]:
    """Notes that count the files skipped, by what they are, and name the first of them; none if there are none."""
    huge = [each.path for each in broken if isinstance(each.reason, Image.DecompressionBombError)]
    special = [each.path for each in broken if isinstance(each.reason, SpecialFileError)]
    others = [each.path for each in broken if each.path not in {*huge, *special}]
    most = f"{2 * (Image.MAX_IMAGE_PIXELS or 0):,}"
    notes = []
    for paths, one, many in (
        (others, "1 file that is not a readable image", "{} files that are not readable images"),
        (huge, f"1 picture of more than {most} pixels", f"{{}} pictures of more than {most} pixels"),
        (special, "1 pipe, socket or device", "{} pipes, sockets or devices"),
    ):
        if paths:
            notes.append(f"skipped {one if len(paths) == 1 else many.format(len(paths))}: {names(paths, root)}")
    return tuple(notes)


def cropped_note(files: Sequence[ImageFile], shape: tuple[int, int], resize: str | None) -> tuple[str, ...]:
    """A note that counts the images of which `resize` "fit" cuts something off to bring them to the shape."""
    cropped = sum(file.shape[0] * shape[1] != file.shape[1] * shape[0] for file in files)
    if resize != "fit" or cropped == 0:
        return ()
    form = "square" if shape[0] == shape[1] else f"of the form {shape[1]}x{shape[0]} (width x height)"
    return (f"{cropped:,} of {len(files):,} images are not {form}: only their centre is used",)


def names(paths: Sequence[Path], root: Path) -> str:
    """The first few paths, relative to `root` and sorted, for a message."""
    shown = ", ".join(printable(path.relative_to(root).as_posix()) for path in sorted(paths)[:5])
    return shown + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")


def printable(name: str) -> str:
    """A file name with question marks for bytes that are not UTF-8 and could not be printed."""
    return name.encode("utf-8", "replace").decode("utf-8")
