"""What stands in for CuPy on a machine without a GPU: device arrays over NumPy, kernels run by the emulation.

Read `streams` (work that is given to the device, and captured), `arrays`, `kernels`, `cuda` (device, pools, pinned
memory). This module is the namespace: what is not defined here is NumPy's function, on device arrays.

It is stricter than CuPy where a GPU would go wrong in silence:

- NumPy does not take a device array, nor a device function a host array, unasked;
- a kernel's arguments are checked in number, type and contiguity against its compiled signature, and an int out of
  range or a Python float for a `float` (CuPy passes a double) is refused;
- asynchronous copies arrive as late as they may, and until then there are NaNs; launches on a stream of one's own run
  as late;
- a capture refuses what a GPU refuses: allocation (but from an allocator of one's own), copies to and from the host,
  waiting, products and reductions by libraries;
- a graph does not keep its arrays alive: a replay after one was freed raises.
"""

from types import ModuleType
from typing import Any

import numpy as np

from tests.emulation.cupy import arrays, cuda
from tests.emulation.cupy.arrays import (
    Namespace,
    array,
    asarray,
    ascontiguousarray,
    asnumpy,
    empty,
    empty_like,
    lift,
    ndarray,
)
from tests.emulation.cupy.cuda import get_default_memory_pool, get_default_pinned_memory_pool
from tests.emulation.cupy.kernels import RawKernel, RawModule

__version__ = "14.2.0"


def get_array_module(*args: Any) -> ModuleType:
    import sys

    return sys.modules[__name__] if any(isinstance(a, ndarray) for a in args) else np


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return lift(getattr(np, name))


__all__ = [
    "Namespace",
    "RawKernel",
    "RawModule",
    "array",
    "arrays",
    "asarray",
    "ascontiguousarray",
    "asnumpy",
    "cuda",
    "empty",
    "empty_like",
    "get_array_module",
    "get_default_memory_pool",
    "get_default_pinned_memory_pool",
    "ndarray",
]
