"""Memory that graphs work in: a replay writes to the addresses of the capture, so nothing else may be given them."""

import threading
from collections import deque
from typing import Any

from backends.cupy_kernels.runtime.compilation import cupy
from backends.cupy_kernels.runtime.launch import ceil

# Every block begins at a multiple of this, as in CuPy's own pool
UNIT = 512
CHUNK = 32 << 20


class ArenaFullError(MemoryError):
    """A capture needs more than is free, and must not allocate; `size`: the bytes that were asked for."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the arena has no {size} bytes left")
        self.size = size


class Chunk:
    """One allocation of CuPy's pool, cut into blocks: the first free place that is long enough."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pointer = cupy().get_default_memory_pool().malloc(size)
        self.free = [(0, size)]  # where free places begin and end, in order
        self.in_graphs = False  # whether replays write to it, so that it must stay even where it is free
        # Given back by whichever thread, or by the garbage collector in the midst of `take`
        self.returned: deque[tuple[int, int]] = deque()

    def take(self, size: int) -> int | None:
        """Where a block of this size begins; None where there is no place."""
        self.settle()
        for i, (begin, end) in enumerate(self.free):
            if end - begin >= size:
                self.free[i : i + 1] = [(begin + size, end)] if end - begin > size else []
                return begin
        return None

    def settle(self) -> None:
        """Puts what was given back among the free places."""
        while self.returned:
            self.merge(*self.returned.popleft())

    def merge(self, begin: int, end: int) -> None:
        """Takes a place back, and joins it with free neighbours."""
        before = [place for place in self.free if place[1] <= begin]
        after = self.free[len(before) :]
        if before and before[-1][1] == begin:
            begin = before.pop()[0]
        if after and after[0][0] == end:
            end = after.pop(0)[1]
        self.free = [*before, (begin, end), *after]

    def holds(self, address: int) -> bool:
        return 0 <= address - self.pointer.ptr < self.size


class Block:
    """A place in a chunk, free again when the last array in it is gone."""

    def __init__(self, chunk: Chunk, begin: int, size: int) -> None:
        self.chunk, self.begin, self.size = chunk, begin, size

    def __del__(self) -> None:
        self.chunk.returned.append((self.begin, self.begin + self.size))


class Arena:
    """An allocator for `cupy.cuda.using_allocator`.

    Within a capture, places that were freed are given out again: all of a graph runs in the order of one stream, and
    so do all graphs of one arena, one after the other.
    """

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.capturing = threading.local()
        self.touched: set[Chunk] = set()  # by the capture that is made

    def grow(self, size: int) -> Chunk:
        """Another chunk, of at least this size. Raises CuPy's OutOfMemoryError."""
        self.chunks.append(Chunk(max(ceil(size, UNIT) * UNIT, CHUNK)))
        return self.chunks[-1]

    def allocate(self, size: int) -> Any:
        """A pointer to memory of this many bytes. Raises ArenaFullError where that would need a new chunk in a
        capture."""
        size = ceil(max(size, 1), UNIT) * UNIT
        for chunk in self.chunks:
            begin = chunk.take(size)
            if begin is not None:
                self.touched.add(chunk)
                return self.pointer(chunk, begin, size)
        if getattr(self.capturing, "now", False):
            raise ArenaFullError(size)
        chunk = self.grow(size)
        begin = chunk.take(size)
        assert begin is not None
        return self.pointer(chunk, begin, size)

    def pointer(self, chunk: Chunk, begin: int, size: int) -> Any:
        cuda = cupy().cuda
        memory = cuda.UnownedMemory(chunk.pointer.ptr + begin, size, Block(chunk, begin, size))
        return cuda.MemoryPointer(memory, 0)

    def keep(self) -> None:
        """After a capture: its graph will write to these chunks again."""
        for chunk in self.touched:
            chunk.in_graphs = True

    def trim(self) -> None:
        """Gives chunks back to CuPy's pool that nothing lies in and no graph writes to."""
        self.touched.clear()
        for chunk in self.chunks:
            chunk.settle()
        self.chunks = [c for c in self.chunks if c.in_graphs or c.free != [(0, c.size)]]

    def holds(self, address: int) -> bool:
        """Whether this is an address in the arena."""
        return any(chunk.holds(address) for chunk in self.chunks)
