"""Buffers that are kept between calls: fresh large arrays cost a page fault for each 4 KiB at every use."""

import math

import numpy as np

from backends.numba_kernels.memory import POOL


def aligned_empty(shape, dtype=np.float32):
    """An array that starts at a cache line, so that no 64-byte vector straddles two of them."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


class Workspace:
    """Scratch arrays by key, from the pool of memory; their places are free again when the workspace is gone."""

    def __init__(self):
        self._arrays = {}

    def get(self, key, shape, dtype=np.float32):
        """An array of `shape`, aligned to 64 bytes, contents whatever was left there. It stays valid until the key is
        asked for again."""
        self._arrays[key] = POOL.empty(shape, dtype)
        return self._arrays[key]
