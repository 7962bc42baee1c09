"""Arrays whose memory is used again: a fresh large array costs a page fault for each 4 KiB at its first use.

`Pool.empty` hands out an ordinary array; when it and all views of it are gone, its place serves for others. So
a training step after the second allocates nothing large, and nobody frees by hand.
"""

import math
import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

ALIGNMENT = 64
SMALLEST = 1 << 14
# Of address space: a page of it becomes memory when it is first written to
CHUNK = 1 << 27


@dataclass
class Chunk:
    """Memory from the system between two addresses, of which what lies below `top` was handed out at some time."""

    memory: np.ndarray
    first: int
    top: int
    last: int


class Pool:
    """Places in a few chunks of memory, each cut from the smallest free one that holds it (best fit).

    used: bytes handed out; peak: the most that were at once, since it was last set. Arrays of fewer bytes than
    `smallest` are NumPy's own.
    """

    def __init__(self, smallest: int = SMALLEST) -> None:
        self.smallest = smallest
        self.used = self.peak = 0
        self.chunks: list[Chunk] = []
        # Free places below the tops, no two of them adjacent: end by start, and start by end
        self.ends: dict[int, int] = {}
        self.starts: dict[int, int] = {}
        self.alive: dict[int, weakref.ref[np.ndarray]] = {}
        self.returned: deque[tuple[int, int]] = deque()

    @property
    def held(self) -> int:
        """Bytes that the pool has taken from the system for good: all that was ever handed out."""
        return sum(chunk.top - chunk.first for chunk in self.chunks)

    def empty(self, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
        """An array like `np.empty`, aligned to 64 bytes. Contents are whatever was left there."""
        dtype = np.dtype(dtype)
        count = math.prod(shape)
        if count == 0 or count * dtype.itemsize < self.smallest:
            return np.empty(shape, dtype)
        size = -(-count * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        self.take_back()
        start = self.take(size)
        memory = next(chunk.memory for chunk in self.chunks if chunk.first <= start < chunk.last)
        # The array's base is no array, so that views of views keep this one alive, not the chunk behind it
        owner = np.frombuffer(memory.data, dtype, count, start - memory.ctypes.data)
        # A plain reference with a callback: weakref.finalize costs ten times as much. It may be called at any moment,
        # in the middle of `take` too, so it only leaves a note.
        self.alive[start] = weakref.ref(owner, lambda _: self.returned.append((start, size)))
        self.used += size
        self.peak = max(self.peak, self.used)
        return owner.reshape(shape)

    def take(self, size: int) -> int:
        """The address of so many bytes, cut off the front of the smallest free place that holds them."""
        fitting = [(end - start, start) for start, end in self.ends.items() if end - start >= size]
        if not fitting:
            self.extend(size)
            return self.take(size)
        start = min(fitting)[1]
        end = self.ends.pop(start)
        del self.starts[end]
        if start + size < end:
            self.release(start + size, end)
        return start

    def take_back(self) -> None:
        """Makes free again what arrays that are gone have left."""
        while self.returned:
            start, size = self.returned.popleft()
            del self.alive[start]
            self.used -= size
            self.release(start, start + size)

    def release(self, start: int, end: int) -> None:
        """Adds a free place, joined to those beside it."""
        start, end = self.starts.pop(start, start), self.ends.pop(end, end)
        self.ends[start], self.starts[end] = end, start

    def extend(self, size: int) -> None:
        """Makes a free place of so many bytes at the top of a chunk, with what is free just below it."""
        for chunk in self.chunks:
            end = self.starts.get(chunk.top, chunk.top) + size
            if end <= chunk.last:
                break
        else:
            memory = np.empty(max(CHUNK, size + 2 * ALIGNMENT), np.uint8)
            first = -(-memory.ctypes.data // ALIGNMENT) * ALIGNMENT
            # Short of its end, where the next chunk may follow: no place may span two
            chunk = Chunk(memory, first, first, memory.ctypes.data + memory.size - ALIGNMENT)
            self.chunks.append(chunk)
            end = first + size
        start, chunk.top = chunk.top, end
        self.release(start, end)

    def clear(self) -> None:
        """Lets go of the chunks of which nothing is in use."""
        self.take_back()
        for chunk in list(self.chunks):
            if self.ends.get(chunk.first) == chunk.top:
                del self.ends[chunk.first], self.starts[chunk.top]
                self.chunks.remove(chunk)


POOL = Pool()
