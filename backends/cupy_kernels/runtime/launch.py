"""A kernel as Python sees it: its template instances, its arguments, its grid."""

import math
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import numpy as np

from backends.cupy_kernels.runtime.compilation import compiled, cupy

Template = tuple[Any, ...]

# Element types in C++ by the arrays' dtype, and how many make 16 bytes, the widest access
ELEMENTS = {"float32": "float", "bfloat16": "bf16"}
WIDE = {"float": 4, "bf16": 8}
# What every kernel that moves vectors comes as: 16 bytes at once, or one element
VECTORS: tuple[Template, ...] = tuple((t, n) for t, wide in WIDE.items() for n in (wide, 1))

# Threads of a block, and blocks on each multiprocessor, of a kernel that walks over elements with the grid's stride
THREADS, BLOCKS = 256, 8
# Without asking for more, dynamic shared memory ends here
PLAIN_SHARED = 48 << 10


class Active(threading.local):
    """What is captured in this thread, if anything is (`graphs.Capture`): kernels show it their arrays.

    first: whether a function runs for the first time, before it is captured.
    """

    capture: Any = None
    first: bool = False


ACTIVE = Active()


class Kernel:
    """A __global__ function of a source.

    instances: every template that may run, each the parameters in their order; `((),)` for a kernel that is no
    template. Others are refused, so that all that may run can be compiled ahead (`every`). threads: of a block, a
    number or a function of the template's parameters. shared: bytes of dynamic shared memory, such a function; where
    every launch says its own, those of a usual one, by which `python -m benchmarks instances` judges the kernel.
    target: the only one it runs on, such as `sm_90a`.
    """

    # All kernels that were ever made
    every: ClassVar[list["Kernel"]] = []

    def __init__(
        self,
        source: str,
        name: str,
        instances: tuple[Template, ...] = ((),),
        threads: int | Callable[..., int] = THREADS,
        shared: Callable[..., int] | None = None,
        target: str = "",
    ) -> None:
        self.target = target
        self.source, self.name = source, name
        self.expressions = {template: expression(name, template) for template in instances}
        self.threads = threads if callable(threads) else lambda *template: threads
        self.shared = shared or (lambda *template: 0)
        Kernel.every.append(self)

    def run(
        self,
        grid: tuple[int, ...],
        *args: Any,
        template: Template = (),
        block: tuple[int, ...] | None = None,
        shared: int | None = None,
    ) -> None:
        """Launches on the current stream; returns at once.

        args: device arrays, None for a null pointer, and scalars, of which a Python int is passed as an int and a
        float as a float. block: `threads` in a row by default. shared: bytes, where the template alone does
        not say. Raises KeyError for an instance that is not declared, OverflowError for an int beyond 32 bits.
        """
        if ACTIVE.capture is not None:
            for a in args:
                if hasattr(getattr(a, "data", None), "ptr"):
                    ACTIVE.capture.check(a)
        module = cupy()
        kernel = compiled(module, self.source, self.expressions[template], self.target)
        shared = self.shared(*template) if shared is None else shared
        if shared > PLAIN_SHARED and kernel.max_dynamic_shared_size_bytes < shared:
            kernel.max_dynamic_shared_size_bytes = shared
        kernel(grid, block or (self.threads(*template),), tuple(as_argument(a) for a in args), shared_mem=shared)


def expression(name: str, template: Template) -> str:
    """C++ for an instance: `join<float, 4, true>`."""
    words = [str(p).lower() if isinstance(p, bool) else str(p) for p in template]
    return f"{name}<{', '.join(words)}>" if words else name


def as_argument(a: Any) -> Any:
    """Numbers as kernels take them: CuPy would pass 64 bits."""
    if isinstance(a, int) and not isinstance(a, bool):
        return np.int32(a)
    return np.float32(a) if type(a) is float else a


class RecordType:
    """A C++ struct of ints, then floats, as one argument: `SIZES = RecordType("n h w c", "eps")`, `SIZES(n=1, …)`."""

    def __init__(self, ints: str = "", floats: str = "") -> None:
        fields = [(name, np.int32) for name in ints.split()] + [(name, np.float32) for name in floats.split()]
        self.dtype = np.dtype(fields)

    def __call__(self, **values: Any) -> np.ndarray:
        """The record as an array (), which CuPy passes by value. Raises TypeError for other fields than its own."""
        names = self.dtype.names or ()
        if values.keys() != set(names):
            raise TypeError(f"a record of {', '.join(names)} got {', '.join(values)}")
        return np.array(tuple(values[name] for name in names), self.dtype)


def element(x: Any) -> str:
    """The C++ type of an array's elements."""
    return ELEMENTS[x.dtype.name]


def vectors(x: Any, length: int, *others: Any) -> Template:
    """(element type, elements in one access): 16 bytes if these divide `length` and every array's address."""
    wide = WIDE[element(x)]
    return element(x), wide if length % wide == 0 and all(a.data.ptr % 16 == 0 for a in (x, *others)) else 1


@cache
def multiprocessors(module: Any) -> int:
    """How many multiprocessors the current device has. module: CuPy."""
    return int(module.cuda.Device().attributes["MultiProcessorCount"])


@cache
def capability(module: Any) -> str:
    """The current device's compute capability, such as "90". module: CuPy."""
    return str(module.cuda.Device().compute_capability)


def grid_over(count: int) -> tuple[int]:
    """Blocks of THREADS for a loop over `count` with the grid's stride: as many as run at once, or as are needed."""
    return (min(ceil(count, THREADS), BLOCKS * multiprocessors(cupy())),)


def ceil(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


def pixels_of(x: Any) -> int:
    """How many pixels an image of x: (N, ..., C) has."""
    return math.prod(x.shape[1:-1])
