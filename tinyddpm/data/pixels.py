"""Pixel values: bytes for storage, [-1, 1] for the model; grey or colour."""

import numpy as np
from PIL import Image

from tinyddpm.errors import InputError


def to_unit(images: np.ndarray) -> np.ndarray:
    """Bytes to the model's range: x = b / 127.5 - 1 (Ho et al. 2020, section 3.3).

    images: uint8 of any shape. Returns float32 of that shape in [-1, 1]. Raises InputError for another dtype.
    """
    if images.dtype != np.uint8:
        raise InputError(f"images are {images.dtype}; to_unit takes uint8, values 0 … 255")
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(x: np.ndarray) -> np.ndarray:
    """The model's range to bytes: b = round((x + 1) · 127.5), with x first clipped to [-1, 1].

    x: floating point of any shape. Returns uint8 of that shape; `to_uint8(to_unit(b)) == b` for every byte.
    Raises InputError for integers, and for NaN, which no byte stands for.
    """
    if not np.issubdtype(x.dtype, np.floating):
        raise InputError(f"x is {x.dtype}; to_uint8 takes floating point numbers in [-1, 1]")
    nans = int(np.isnan(x).sum())
    if nans:
        raise InputError(f"x has {nans} NaN among its {x.size} values; to_uint8 takes numbers in [-1, 1]")
    return np.rint((np.clip(x, -1, 1) + 1) * 127.5).astype(np.uint8)


def to_grey(images: np.ndarray) -> np.ndarray:
    """RGB to grey by ITU-R BT.601 luma, as Pillow rounds it: (N, H, W, 3) uint8 to (N, H, W, 1) uint8."""
    n, height, width, _ = images.shape
    tall = Image.fromarray(images.reshape(n * height, width, 3))
    return np.array(tall.convert("L")).reshape(n, height, width, 1)


def to_colour(images: np.ndarray) -> np.ndarray:
    """Grey to RGB, the value repeated: (N, H, W, 1) uint8 to (N, H, W, 3) uint8."""
    return np.repeat(images, 3, axis=-1)
