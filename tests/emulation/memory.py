"""Device arrays: NumPy arrays in memory that starts as NaNs and ends at guard pages."""

import math
import weakref
from typing import Any, ClassVar

import numpy as np

from tests.emulation.compiler import machine

# As CuPy's pool rounds them
UNIT = 512


class OutOfMemory(MemoryError):
    """More than the device was said to have."""


class Device:
    """How much memory is in use, and how much there is."""

    def __init__(self) -> None:
        self.used, self.total = 0, 1 << 40

    def take(self, size: int) -> int:
        """The bytes that an allocation of this size takes. Raises OutOfMemory."""
        rounded = -(-size // UNIT) * UNIT
        if self.used + rounded > self.total:
            raise OutOfMemory(
                f"Out of memory allocating {rounded:,} bytes (allocated so far: {self.used:,} bytes, "
                f"limit set to: {self.total:,} bytes)."
            )
        self.used += rounded
        return rounded


DEVICE = Device()


class Memory:
    """One allocation; the arrays made of it keep it alive."""

    live: ClassVar["weakref.WeakValueDictionary[int, Memory]"] = weakref.WeakValueDictionary()

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.rounded = 0
        size = math.prod(shape) * dtype.itemsize
        self.rounded = DEVICE.take(size)
        self.free = machine().emulation_free
        self.pointer, self.size = machine().emulation_allocate(max(size, 1)), size
        Memory.live[self.pointer] = self
        self.__array_interface__ = {
            "shape": shape,
            "typestr": dtype.str,
            "data": (self.pointer, False),
            "version": 3,
        }

    def __del__(self) -> None:
        DEVICE.used -= self.rounded
        if self.rounded:
            self.free(self.pointer)


def empty(shape: int | tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """A fresh array in device memory, full of 0xff bytes: NaNs."""
    shape = (shape,) if isinstance(shape, int | np.integer) else tuple(int(side) for side in shape)
    return np.asarray(Memory(shape, np.dtype(dtype)))


def upload(a: Any, dtype: Any = None) -> np.ndarray:
    """A copy in device memory."""
    a = np.asarray(a, dtype)
    out = empty(a.shape, a.dtype)
    out[...] = a
    return out


def owner(a: np.ndarray) -> np.ndarray:
    """The array that holds the allocation: of a view what it is a view of, of a place in an arena the arena."""
    while True:
        within = getattr(a.base, "arena", a.base)
        if not isinstance(within, np.ndarray):
            return a
        a = within


def allocation(a: np.ndarray) -> Any:
    """What goes when an array's memory is freed, also where something else manages places in it."""
    whole = owner(a)
    if isinstance(whole.base, Memory):
        return whole.base
    at = whole.ctypes.data
    return next((m for m in list(Memory.live.values()) if m.pointer <= at < m.pointer + max(m.size, 1)), whole)
