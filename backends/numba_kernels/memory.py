"""Arrays whose memory is used again: a fresh large array costs a page fault for each 4 KiB at its first use.

`Pool.empty` hands out an ordinary array; when it and all views of it are gone, its buffer waits for the next
request of about its size. So a training step after the second allocates nothing large, and nobody frees by hand.
"""

import math
import weakref
from collections import defaultdict
from typing import Any

import numpy as np

ALIGNMENT = 64
SMALLEST = 1 << 14


def size_class(count: int) -> int:
    """Bytes rounded up so that eight classes lie between powers of two: at most an eighth is wasted."""
    step = max(ALIGNMENT, 1 << max(0, count.bit_length() - 4))
    return -(-count // step) * step


class Pool:
    """Buffers by size class. held: bytes handed out or waiting; peak: the most that was handed out at once."""

    def __init__(self) -> None:
        self.waiting: dict[int, list[bytearray]] = defaultdict(list)
        self.alive: dict[int, weakref.ref[np.ndarray]] = {}
        self.held = self.used = self.peak = 0

    def empty(self, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
        """An array like `np.empty`, aligned to 64 bytes. Contents are whatever was left there."""
        dtype = np.dtype(dtype)
        count = math.prod(shape) * dtype.itemsize
        if count < SMALLEST:
            return np.empty(shape, dtype)
        size = size_class(count) + ALIGNMENT
        if self.waiting[size]:
            buffer = self.waiting[size].pop()
        else:
            buffer = bytearray(size)
            self.held += size
        # The array's base is no array, so that views of views keep this one alive, not the buffer behind it
        raw = np.frombuffer(buffer, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        owner = np.frombuffer(buffer, dtype, count // dtype.itemsize, start)
        # A plain reference with a callback: weakref.finalize costs ten times as much
        key = id(buffer)
        self.alive[key] = weakref.ref(owner, lambda _: self.give_back(key, buffer, size))
        self.used += size
        self.peak = max(self.peak, self.used)
        return owner.reshape(shape)

    def give_back(self, key: int, buffer: bytearray, size: int) -> None:
        """Called when an array is gone."""
        del self.alive[key]
        self.used -= size
        self.waiting[size].append(buffer)

    def clear(self) -> None:
        """Lets go of all buffers that wait."""
        self.held -= sum(size * len(buffers) for size, buffers in self.waiting.items())
        self.waiting.clear()


POOL = Pool()
