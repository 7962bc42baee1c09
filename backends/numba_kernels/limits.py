"""What the kernels are written for; here, so that who asks need not load Numba."""

import math
from typing import Any

import numpy as np

# Axes of an array that they copy
AXES = 5
# Channels, on either side of a product: as many zeros stand in for a bias that is missing
CHANNELS = 4096
# Fewer numbers than these are drawn faster by NumPy than a kernel's threads wake up
FEW = 4096


def is_float32(*arrays: Any) -> bool:
    """Whether all arrays are float32."""
    return all(a.dtype == np.float32 for a in arrays)


def is_flat(*arrays: Any) -> bool:
    """Whether all arrays are float32, of one shape and without gaps."""
    return is_float32(*arrays) and all(a.flags.c_contiguous and a.shape == arrays[0].shape for a in arrays)


def is_images(x: Any) -> bool:
    """Whether this is (N, H, W, C) in float32, and not empty."""
    return x.ndim == 4 and min(x.shape) > 0 and is_float32(x)


def multiplies(x: Any, weight: Any, bias: Any = None) -> bool:
    """Whether the fast product takes these; the bias may be None."""
    fits = 2 <= x.ndim <= AXES and x.shape[-1] == weight.shape[0]
    fits = fits and min(x.size, *weight.shape) > 0 and max(weight.shape) <= CHANNELS
    return fits and is_float32(x, weight, *given(bias))


def given(*arrays: Any) -> list[Any]:
    """Those that are not None."""
    return [a for a in arrays if a is not None]


def normalises(x: Any, gamma: Any, beta: Any, groups: int) -> bool:
    """Whether the fast normalisation takes these."""
    channels = gamma.size
    fits = x.ndim >= 2 and min(x.shape) > 0 and gamma.shape == beta.shape == (channels,)
    return fits and is_float32(x, gamma, beta) and groups >= 1 and channels % groups == 0


def convolves_normalised(x: Any, gamma: Any, beta: Any, weight: Any, groups: int, *extras: Any) -> bool:
    """Whether the fast normalisation and convolution take these; extras may be None."""
    fits = weight.shape[:2] == (3, 3) and max(weight.shape) <= CHANNELS
    return fits and normalises(x, gamma, beta, groups) and is_float32(weight, *given(*extras))


def attends(q: Any, k: Any, v: Any, num_heads: int) -> bool:
    """Whether the fast attention takes these."""
    fits = q.ndim == k.ndim == 3 and k.shape == v.shape and (q.shape[0], q.shape[2]) == (k.shape[0], k.shape[2])
    fits = fits and is_float32(q, k, v) and min(*q.shape, *k.shape) > 0
    return fits and num_heads >= 1 and q.shape[2] % num_heads == 0


def takes(table: Any, indices: Any) -> bool:
    """Whether the fast look-up takes these."""
    fits = table.ndim == 2 and indices.ndim == 1 and min(*table.shape, indices.size) > 0
    fits = fits and is_float32(table) and indices.dtype == np.int64 and indices.flags.c_contiguous
    return fits and indices.min() >= 0 and indices.max() < table.shape[0]


def compares(prediction: Any, target: Any) -> bool:
    """Whether the fast losses take these."""
    return is_float32(prediction, target) and prediction.shape == target.shape and prediction.size > 0


def scales(dy: Any, ctx: Any) -> bool:
    """Whether the fast gradient of a loss takes these; dy must be a number, not in memory that may change."""
    return isinstance(dy, int | float | np.floating) and is_float32(ctx) and ctx.size > 0


def draws(shape: tuple[int, ...], seed: int, stream: int, step: int, dtype: Any) -> bool:
    """Whether the fast generator draws these, and they are enough to be worth its threads."""
    in_range = 0 <= seed < 1 << 64 and 0 <= stream < 1 << 32 and 0 <= step < 1 << 32
    return in_range and math.prod(shape) >= FEW and np.dtype(dtype or np.float32) in (np.float32, np.float64)
