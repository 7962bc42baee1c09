"""Bringing images to one size: by padding, which keeps every pixel, or by scaling and cropping."""

from typing import TypeAlias

import numpy as np
from PIL import Image, ImageOps

from tinyddpm.checks import both_sides
from tinyddpm.errors import InputError

# A side, or (height, width)
Size: TypeAlias = int | tuple[int, int]

# "auto" pads 28 -> 32 and 8 -> 16, the next sizes that halve down to 4; with more, the border would dominate.
MOST_PADDING = 8


def resize_images(images: np.ndarray, size: Size, mode: str) -> np.ndarray:
    """Bring a whole set to one size, (height, width) or one number for both.

    images: (N, H, W, C) uint8, C = 1 or 3. mode: "pad" or "fit", as the functions of these names do it.
    Returns (N, height, width, C) uint8.
    """
    channels, sides = images.shape[3], both_sides(size)
    if images.shape[1:3] == sides:
        return images
    if mode == "pad":
        return pad(images, size)
    fitted = np.empty((len(images), *sides, channels), np.uint8)
    for i, image in enumerate(images):
        picture = Image.fromarray(image[..., 0] if channels == 1 else image)
        fitted[i] = np.asarray(fit(picture, size)).reshape(*sides, channels)
    return fitted


def pad(images: np.ndarray, size: Size) -> np.ndarray:
    """Centre images on a black ground of that size, (height, width) or one number for both.

    images: (…, H, W, C) uint8, no larger. Returns (…, height, width, C) uint8; if the border is odd, the
    extra row is below and the extra column on the right. Raises InputError if an image is too large.
    """
    *lead, height, width, channels = images.shape
    check_pad(height, width, size)
    sides = both_sides(size)
    top, left = (sides[0] - height) // 2, (sides[1] - width) // 2
    padded = np.zeros((*lead, *sides, channels), np.uint8)
    padded[..., top : top + height, left : left + width, :] = images
    return padded


def check_pad(height: int, width: int, size: Size) -> None:
    """Raise InputError unless an image of height x width can be padded to that size."""
    sides = both_sides(size)
    if height > sides[0] or width > sides[1]:
        seen, least = (sides[0], max(height, width)) if sides[0] == sides[1] else (sides, (height, width))
        raise InputError(
            f"an image of {width}x{height} (width x height) cannot be padded to image_size={seen}; "
            f'give image_size of at least {least}, or resize="fit" to shrink it'
        )


def fit(image: Image.Image, size: Size) -> Image.Image:
    """Scale an image by a Lanczos filter until it just covers `size`, and crop its centre to that.

    image: of mode L or RGB; so is the result. size: (height, width), or the side of a square.
    """
    height, width = both_sides(size)
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def unpad(images: np.ndarray, size: Size) -> np.ndarray:
    """Undoes `pad`: cuts out the centre of that size, (height, width) or one number for both.

    images: (…, H, W, C) uint8. Raises InputError unless `pad`, as "auto" does it, leads from that size to theirs.
    """
    *_, height, width, _ = images.shape
    sides = both_sides(size)
    top, left = height - sides[0], width - sides[1]
    if min(top, left) < 0 or max(top, left) > MOST_PADDING:
        raise InputError(f"images of {height}x{width} are none of {sides[0]}x{sides[1]} on a wider ground")
    return images[..., top // 2 : top // 2 + sides[0], left // 2 : left // 2 + sides[1], :]
