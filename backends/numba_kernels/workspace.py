"""Buffers that are kept between calls: fresh large arrays cost a page fault for each 4 KiB at every use."""

import math

import numpy as np


def aligned_empty(shape, dtype=np.float32):
    """An array that starts at a cache line, so that no 64-byte vector straddles two of them."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


class Workspace:
    """Arrays by key. `get` returns the same memory each time; contents are whatever was left there."""

    def __init__(self):
        self._arrays = {}

    def get(self, key, shape, dtype=np.float32):
        """An array of `shape`, aligned to 64 bytes; it stays valid until the key is asked for with a larger
        size."""
        size = math.prod(shape)
        kept = self._arrays.get(key)
        if kept is None or kept.size < size or kept.dtype != dtype:
            kept = aligned_empty((size,), dtype)
            kept[:] = 0
            self._arrays[key] = kept
        return kept[:size].reshape(shape)
