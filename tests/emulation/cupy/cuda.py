"""`cupy.cuda`: streams, the device, its memory pool, pinned memory, the runtime's questions."""

from types import SimpleNamespace
from typing import Any

from tests.emulation.cupy.kernels import CompileException
from tests.emulation.cupy.pointers import (
    MemoryPointer,
    PinnedMemoryPointer,
    UnownedMemory,
    alloc_pinned_memory,
    own_memory,
    set_allocator,
    using_allocator,
)
from tests.emulation.cupy.streams import STATE, Event, Graph, Stream, finish_all, refuse
from tests.emulation.memory import DEVICE, OutOfMemory

# As an H100 has them
ATTRIBUTES = {
    "MultiProcessorCount": 132,
    "MaxSharedMemoryPerBlockOptin": 227 << 10,
    "MaxSharedMemoryPerMultiprocessor": 228 << 10,
    "MaxThreadsPerMultiProcessor": 2048,
    "L2CacheSize": 50 << 20,
}


class Device:
    """The one device there is."""

    id = 0
    compute_capability = "90"
    attributes = ATTRIBUTES

    def __init__(self, device: Any = None) -> None:
        pass

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def use(self) -> "Device":
        return self

    def synchronize(self) -> None:
        refuse("waiting for the device")
        finish_all()

    @property
    def mem_info(self) -> tuple[int, int]:
        return DEVICE.total - DEVICE.used, DEVICE.total


class MemoryPool:
    """What is in use counts; nothing is held free."""

    def used_bytes(self) -> int:
        return DEVICE.used

    def total_bytes(self) -> int:
        return DEVICE.used

    def free_bytes(self) -> int:
        return 0

    def malloc(self, size: int) -> MemoryPointer:
        return own_memory(size)

    def free_all_blocks(self, stream: Any = None) -> None:
        refuse("freeing memory")

    def get_limit(self) -> int:
        return 0 if DEVICE.total == 1 << 40 else DEVICE.total

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        """More than this raises OutOfMemoryError; 0 takes the limit away."""
        DEVICE.total = size or 1 << 40


POOL = MemoryPool()


def get_default_memory_pool() -> MemoryPool:
    return POOL


def get_default_pinned_memory_pool() -> Any:
    return SimpleNamespace(n_free_blocks=lambda: 0, free_all_blocks=lambda: None)


def get_current_stream() -> Stream:
    return STATE.stream


def get_elapsed_time(start: Event, end: Event) -> float:
    """Milliseconds, which say nothing of a GPU."""
    return (end.time - start.time) * 1e3


def is_available() -> bool:
    return True


def device_synchronize() -> None:
    Device().synchronize()


runtime = SimpleNamespace(
    streamCaptureModeGlobal=0,
    streamCaptureModeThreadLocal=1,
    streamCaptureModeRelaxed=2,
    getDeviceCount=lambda: 1,
    deviceSynchronize=device_synchronize,
    runtimeGetVersion=lambda: 13000,
    driverGetVersion=lambda: 13000,
    memGetInfo=lambda: Device().mem_info,
    getDeviceProperties=lambda device: {
        "name": b"emulated",
        "multiProcessorCount": 132,
        "totalGlobalMem": DEVICE.total,
    },
)
memory = SimpleNamespace(OutOfMemoryError=OutOfMemory, MemoryPointer=MemoryPointer, UnownedMemory=UnownedMemory)
compiler = SimpleNamespace(CompileException=CompileException)

__all__ = [
    "Device",
    "Event",
    "Graph",
    "MemoryPointer",
    "MemoryPool",
    "PinnedMemoryPointer",
    "Stream",
    "UnownedMemory",
    "alloc_pinned_memory",
    "compiler",
    "get_current_stream",
    "get_elapsed_time",
    "is_available",
    "memory",
    "runtime",
    "set_allocator",
    "using_allocator",
]
