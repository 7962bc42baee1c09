"""Images seen as rows: what belongs to each channel, repeated along a row, meets them in long innermost loops.

NumPy's loop over the last axis is short where that holds the channels only, and starting it costs more than running it.
"""

import numpy as np


def rows_of(x: np.ndarray) -> np.ndarray:
    """(n, ..., W, C) -> (n, R, W C); (n, C) -> (n, 1, C)."""
    pixels = x.shape[-2] if x.ndim > 2 else 1
    return x.reshape(len(x), -1, pixels * x.shape[-1])


def along(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values of each image and channel, (n, C), or of each channel, (C,), repeated as they meet the rows."""
    n, channels = values.size // values.shape[-1], values.shape[-1]
    pixels = rows.shape[2] // channels
    return np.broadcast_to(values.reshape(n, 1, channels), (n, pixels, channels)).reshape(n, 1, rows.shape[2])


def add_to_pixels(y: np.ndarray, values: np.ndarray) -> None:
    """Adds (n, C) or (C,) to every pixel of y: (n, ..., C), contiguous."""
    rows = rows_of(y)
    rows += along(rows, values)


def sum_pixels(rows: np.ndarray, channels: int) -> np.ndarray:
    """Sum over the pixels: (n, R, W C) -> (n, C)."""
    return rows.sum(axis=1).reshape(len(rows), -1, channels).sum(axis=1)


def sum_products(a: np.ndarray, b: np.ndarray, channels: int) -> np.ndarray:
    """Sum of a b over the pixels: (n, R, W C) -> (n, C)."""
    return np.einsum("nrk,nrk->nk", a, b).reshape(len(a), -1, channels).sum(axis=1)
