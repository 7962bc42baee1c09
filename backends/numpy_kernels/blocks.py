"""How much is worked on at a time."""

import numpy as np

# What is made of a few images stays in the cache that the cores share, and a product with it is long enough for BLAS
BLOCK_BYTES = 4 << 20


def parts(count: int, size: int) -> list[slice]:
    """0 … count in slices about equally long, the first the longest, each of at most BLOCK_BYTES or of one.

    size: bytes of all together.
    """
    number = min(count, -(-size // BLOCK_BYTES))
    step = -(-count // max(1, number))
    return [slice(i, min(i + step, count)) for i in range(0, count, step)]


def image_blocks(x: np.ndarray, width: int) -> list[slice]:
    """Slices of the images (N, ..., C), `width` numbers of which are held for each pixel at a time."""
    return parts(len(x), x.nbytes // x.shape[-1] * width)
