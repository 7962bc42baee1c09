"""Arrays whose memory is used again: a fresh large array costs a page fault for each 4 KiB at its first use.

`Pool.empty` hands out an ordinary array; when it and all views of it are gone, its place serves for others. So
a training step after the second allocates nothing large, and nobody frees by hand.

Not done, and why: the best fit is found by looking at every free place, though an ordered list would be faster. There
are few to look at: in the first step of the default U-Net for 32x32 images, 1,211 allocations, 10 on average and 19 at
most.
"""

import math
import threading
import weakref
from collections import deque
from typing import Any, Protocol

import numpy as np

from backends.numba_kernels.runtime.forks import hold_during_fork

ALIGNMENT = 64
SMALLEST = 1 << 14
# Reserved address space; a page costs memory only once written to
CHUNK = 1 << 28


class Chunk:
    """A stretch of memory, whose part below `top` was handed out at some time. Places are counted in bytes."""

    def __init__(self, size: int) -> None:
        memory = np.empty(size + ALIGNMENT, np.uint8)
        self.memory = memory[-memory.ctypes.data % ALIGNMENT :][:size]
        self.top = 0
        # Free places below the top, no two of them adjacent: end by start, and start by end
        self.ends: dict[int, int] = {}
        self.starts: dict[int, int] = {}
        self.alive: dict[int, weakref.ref[np.ndarray]] = {}

    def take(self, size: int) -> int | None:
        """The start of `size` bytes, cut off the smallest free place that holds them (best fit), else off the top."""
        fitting = [(end - start, start) for start, end in self.ends.items() if end - start >= size]
        if not fitting:
            start = self.starts.get(self.top, self.top)
            if start + size > self.memory.size:
                return None
            old, self.top = self.top, start + size
            self.release(old, self.top)
            return self.take(size)
        start = min(fitting)[1]
        end = self.ends.pop(start)
        del self.starts[end]
        if start + size < end:
            self.release(start + size, end)
        return start

    def release(self, start: int, end: int) -> None:
        """Makes a place free and joins it to the free ones beside it."""
        start, end = self.starts.pop(start, start), self.ends.pop(end, end)
        self.ends[start], self.starts[end] = end, start


class Memory(Protocol):
    """What hands out arrays: a pool, or a recording."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """As of `Pool.empty`."""


class ThreadOverride(threading.local):
    """What hands them out to this Python thread instead, or None."""

    pool: Memory | None = None


class Pool:
    """Memory in a few chunks, the oldest first.

    used: bytes handed out; peak: the most that were at once, since it was last set. Arrays of fewer bytes than
    `smallest` are NumPy's own. override.pool: what serves this Python thread in place of this one.
    """

    def __init__(self, smallest: int = SMALLEST) -> None:
        self.smallest = smallest
        self.override = ThreadOverride()
        self.used = self.peak = 0
        self.chunks: list[Chunk] = []
        self.returned: deque[tuple[Chunk, int, int]] = deque()
        # Threads allocate one at a time
        self.lock = threading.Lock()

    @property
    def held(self) -> int:
        """High-water mark in bytes: what was ever handed out, none of which returns to the system before `clear`."""
        return sum(chunk.top for chunk in self.chunks)

    def empty(self, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
        """An array like `np.empty`, aligned to 64 bytes. Contents are whatever was left there."""
        if self.override.pool is not None:
            return self.override.pool.empty(shape, dtype)
        dtype = np.dtype(dtype)
        count = math.prod(shape)
        if count == 0 or count * dtype.itemsize < self.smallest:
            return np.empty(shape, dtype)
        size = -(-count * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        with self.lock:
            self.take_back()
            chunk, start = self.take(size)
        # The array's base is no array, so that views of views keep this one alive, not the chunk behind it
        owner = np.frombuffer(chunk.memory.data, dtype, count, start)
        # A plain reference with a callback: weakref.finalize costs ten times as much. It may be called at any moment,
        # in the middle of `take` too, so it only leaves a note.
        chunk.alive[start] = weakref.ref(owner, lambda _: self.returned.append((chunk, start, size)))
        self.used += size
        self.peak = max(self.peak, self.used)
        return owner.reshape(shape)

    def take(self, size: int) -> tuple[Chunk, int]:
        """A chunk and where in it `size` bytes start."""
        for chunk in self.chunks:
            if (start := chunk.take(size)) is not None:
                return chunk, start
        self.chunks.append(Chunk(max(CHUNK, self.held, size)))
        return self.take(size)

    def holds(self, address: int) -> bool:
        """Whether this address is in memory of the pool."""
        return any(0 <= address - chunk.memory.ctypes.data < chunk.memory.size for chunk in self.chunks)

    def take_back(self) -> None:
        """Returns the memory of dead arrays to the free places."""
        while self.returned:
            chunk, start, size = self.returned.popleft()
            del chunk.alive[start]
            self.used -= size
            chunk.release(start, start + size)

    def clear(self) -> None:
        """Lets go of the chunks of which nothing is in use."""
        with self.lock:
            self.take_back()
            self.chunks = [chunk for chunk in self.chunks if chunk.alive]


POOL = Pool()
hold_during_fork(POOL.lock)


def aligned_empty(shape, dtype=np.float32):
    """An array that starts at a cache line, so that no 64-byte vector straddles two of them."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)
