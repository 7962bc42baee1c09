"""Arrays whose memory is used again: a fresh large array costs a page fault for each 4 KiB at its first use.

`Pool.empty` hands out an ordinary array; when it and all views of it are gone, its buffer waits for the next
request of about its size. So a training step after the second allocates nothing large, and nobody frees by hand.
"""

import ctypes
import math
import weakref
from collections import defaultdict
from typing import Any

import numpy as np

ALIGNMENT = 64
SMALLEST = 1 << 14
FLOAT32 = np.dtype(np.float32)


def size_class(count: int) -> int:
    """Bytes rounded up so that eight classes lie between powers of two: at most an eighth is wasted."""
    step = max(ALIGNMENT, 1 << max(0, count.bit_length() - 4))
    return -(-count // step) * step


class Buffer:
    """Memory of one size class, and where in it the first cache line starts."""

    def __init__(self, size: int) -> None:
        self.size, self.bytes = size, bytearray(size + ALIGNMENT)
        self.start = -ctypes.addressof(ctypes.c_char.from_buffer(self.bytes)) % ALIGNMENT


class Pool:
    """Buffers by size class. held: bytes handed out or waiting; peak: the most that was handed out at once."""

    def __init__(self) -> None:
        self.waiting: dict[int, list[Buffer]] = defaultdict(list)
        self.alive: dict[int, tuple[weakref.ref[np.ndarray], Buffer]] = {}
        self.held = self.used = self.peak = 0

    def empty(self, shape: tuple[int, ...], dtype: Any = FLOAT32) -> np.ndarray:
        """An array like `np.empty`, aligned to 64 bytes. Contents are whatever was left there."""
        count = math.prod(shape) * np.dtype(dtype).itemsize
        if count < SMALLEST:
            return np.empty(shape, dtype)
        size = size_class(count)
        waiting = self.waiting[size]
        if waiting:
            buffer = waiting.pop()
        else:
            buffer = Buffer(size)
            self.held += size
        # Its base is no array, so that views of views keep this array alive, not the buffer behind it
        array = np.ndarray(shape, dtype, buffer.bytes, buffer.start)
        # A plain reference with a callback: weakref.finalize costs ten times as much
        reference = weakref.ref(array, self.give_back)
        self.alive[id(reference)] = reference, buffer
        self.used += size
        if self.used > self.peak:
            self.peak = self.used
        return array

    def give_back(self, reference: weakref.ref[np.ndarray]) -> None:
        """Called when an array is gone."""
        _, buffer = self.alive.pop(id(reference))
        self.used -= buffer.size
        self.waiting[buffer.size].append(buffer)

    def clear(self) -> None:
        """Lets go of all buffers that wait."""
        self.held -= sum(size * len(buffers) for size, buffers in self.waiting.items())
        self.waiting.clear()


POOL = Pool()
