"""Bringing images to one square size: by padding, which keeps every pixel, or by scaling and cropping."""

import numpy as np
from PIL import Image, ImageOps

from tinyddpm.errors import InputError

# "auto" pads 28 -> 32 and 8 -> 16, the next sizes that halve down to 4; with more, the border would dominate.
MOST_PADDING = 8


def resize_images(images: np.ndarray, size: int, mode: str) -> np.ndarray:
    """Bring a whole set to size x size.

    images: (N, H, W, C) uint8, C = 1 or 3. mode: "pad" or "fit", as the functions of these names do it.
    Returns (N, size, size, C) uint8.
    """
    _, height, width, channels = images.shape
    if height == width == size:
        return images
    if mode == "pad":
        return pad(images, size)
    fitted = np.empty((len(images), size, size, channels), np.uint8)
    for i, image in enumerate(images):
        picture = Image.fromarray(image[..., 0] if channels == 1 else image)
        fitted[i] = np.asarray(fit(picture, size)).reshape(size, size, channels)
    return fitted


def pad(images: np.ndarray, size: int) -> np.ndarray:
    """Centre images on a black ground of size x size.

    images: (…, H, W, C) uint8 with H, W <= size. Returns (…, size, size, C) uint8; if the border is odd, the
    extra row is below and the extra column on the right. Raises InputError if an image is too large.
    """
    *lead, height, width, channels = images.shape
    check_pad(height, width, size)
    top, left = (size - height) // 2, (size - width) // 2
    padded = np.zeros((*lead, size, size, channels), np.uint8)
    padded[..., top : top + height, left : left + width, :] = images
    return padded


def check_pad(height: int, width: int, size: int) -> None:
    """Raise InputError unless an image of height x width can be padded to size x size."""
    if max(height, width) > size:
        raise InputError(
            f"an image of {width}x{height} (width x height) cannot be padded to image_size={size}; "
            f'give image_size of at least {max(height, width)}, or resize="fit" to shrink it'
        )


def fit(image: Image.Image, size: int) -> Image.Image:
    """Scale an image so that its short side is `size`, by a Lanczos filter, and crop its centre square.

    image: of mode L or RGB; so is the result.
    """
    return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
