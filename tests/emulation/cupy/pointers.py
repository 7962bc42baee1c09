"""Device memory as CuPy sees it: pointers, allocators, and pinned memory of the host."""

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tests.emulation import memory
from tests.emulation.cupy.streams import refuse


class UnownedMemory:
    """Memory that something else owns."""

    def __init__(self, ptr: int, size: int, owner: Any, device_id: int = -1) -> None:
        self.ptr, self.size, self.owner, self.device_id = ptr, size, owner, 0


class MemoryPointer:
    """A place in memory, which it keeps."""

    def __init__(self, mem: Any, offset: int) -> None:
        self.mem, self.offset = mem, offset
        self.ptr, self.device_id = mem.ptr + offset, 0

    def __add__(self, offset: int) -> "MemoryPointer":
        return MemoryPointer(self.mem, self.offset + offset)


class Placed:
    """An array's bytes at a pointer, which they keep."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, pointer: MemoryPointer) -> None:
        self.pointer, self.arena = pointer, pointer.mem.owner
        self.__array_interface__ = {
            "shape": shape,
            "typestr": dtype.str,
            "data": (pointer.ptr, False),
            "version": 3,
        }


def own_memory(size: int) -> MemoryPointer:
    """The default allocator's: fresh, full of NaNs, between guard pages. Not under capture."""
    refuse("an allocation")
    return pointer_to(memory.empty(size, np.uint8))


def pointer_to(a: np.ndarray) -> MemoryPointer:
    """The pointer to an array's first element."""
    whole = memory.owner(a)
    return MemoryPointer(UnownedMemory(whole.ctypes.data, whole.nbytes, whole), a.ctypes.data - whole.ctypes.data)


Allocator = Callable[[int], MemoryPointer]
_allocators: list[Allocator] = [own_memory]


def allocate(shape: tuple[int, ...], dtype: np.dtype, pointer: MemoryPointer | None) -> np.ndarray:
    """An array at the pointer, or where the current allocator says."""
    if pointer is None and _allocators[-1] is own_memory:
        refuse("an allocation")
        return memory.empty(shape, dtype)
    size = math.prod(shape) * dtype.itemsize
    pointer = _allocators[-1](size) if pointer is None else pointer
    if pointer.offset + size > pointer.mem.size:
        raise ValueError(f"an array of {size} bytes at byte {pointer.offset} of {pointer.mem.size}")
    return np.asarray(Placed(shape, dtype, pointer))


def set_allocator(allocator: Allocator | None = None) -> None:
    _allocators[-1] = allocator or own_memory


@contextmanager
def using_allocator(allocator: Allocator | None = None) -> Iterator[None]:
    _allocators.append(allocator or own_memory)
    try:
        yield
    finally:
        _allocators.pop()


class PinnedMemoryPointer(np.ndarray):
    """Bytes of the host that the device copies while the host goes on: np.frombuffer(pointer, dtype, count)."""

    @property
    def ptr(self) -> int:
        return self.ctypes.data


_pinned: dict[int, int] = {}  # addresses and bytes


def alloc_pinned_memory(size: int) -> PinnedMemoryPointer:
    refuse("an allocation of pinned memory")
    memory = np.full(size, 0xFF, np.uint8)
    _pinned[memory.ctypes.data] = size
    weakref.finalize(memory, _pinned.pop, memory.ctypes.data, None)
    return memory.view(PinnedMemoryPointer)


def is_pinned(a: Any) -> bool:
    """Whether a host array lies in pinned memory."""
    at = a.ctypes.data
    return any(base <= at and at + a.nbytes <= base + size for base, size in _pinned.items())
