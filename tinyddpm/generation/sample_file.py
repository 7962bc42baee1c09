"""Many samples in one file, so that drawing them for hours and scoring them can be done apart."""

import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinyddpm.errors import InputError, MissingDataError
from tinyddpm.files import write_atomically


@dataclass(frozen=True)
class Samples:
    """Images (N, H, W, C) uint8, the labels (N,) int64 that they were drawn for or None, and how they were drawn."""

    images: np.ndarray
    labels: np.ndarray | None
    about: str


def save_samples(path: str | os.PathLike[str], samples: Samples) -> None:
    """Writes a .npz of the arrays images, labels (if any) and about. Raises OSError that names path."""
    arrays = {"images": samples.images, "about": np.array(samples.about)}
    if samples.labels is not None:
        arrays["labels"] = samples.labels
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomically(path, buffer.getvalue())


def load_samples(path: str | os.PathLike[str]) -> Samples:
    """Reads what `save_samples` wrote, or any .npz with `images`, uint8, and perhaps `labels` for all of them.

    Raises MissingDataError where there is no file, InputError for one of other arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingDataError(f"no samples at {path}; give a .npz file that `evaluate --save` wrote")
    try:
        with np.load(path, allow_pickle=False) as file:
            images, about = file["images"], str(file["about"]) if "about" in file else path.name
            labels = file.get("labels")
    except (ValueError, KeyError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} is no .npz with the array images ({reason}); use one of `evaluate --save`") from error
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise InputError(f"{path}: images must be uint8 of shape (N, H, W, C), got {images.dtype} {images.shape}")
    if labels is not None and (labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]):
        raise InputError(f"{path}: labels must be {len(images)} integers, got {labels.dtype} {labels.shape}")
    return Samples(images, None if labels is None else labels.astype(np.int64), about)


def joined(parts: list[Samples]) -> Samples:
    """All samples of several files, in order. Raises InputError where sizes differ, or only some have labels."""
    sizes = {part.images.shape[1:] for part in parts}
    if len(sizes) > 1:
        raise InputError(f"samples of one score must be of one size, got {', '.join(map(str, sorted(sizes)))}")
    labels = [part.labels for part in parts if part.labels is not None]
    if len(labels) not in (0, len(parts)):
        raise InputError("some of the samples were drawn for labels and some were not; score them apart")
    return Samples(
        np.concatenate([part.images for part in parts]),
        np.concatenate(labels) if labels else None,
        "; ".join(dict.fromkeys(part.about for part in parts)),
    )
