"""RawModule and RawKernel: g++ in place of NVRTC, the emulation in place of the GPU."""

import itertools
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np

from tests.emulation.compiler import CompileError
from tests.emulation.cupy.arrays import devices, ndarray
from tests.emulation.cupy.streams import Stream, loose, submit
from tests.emulation.launch import Module

# What NVRTC knows of options
OPTION = re.compile(
    r"-I.*|--include-path=.*|-D.*|--define-macro=.*|-?-std=c\+\+\d+|--?use_fast_math|--?lineinfo|--generate-line-info"
    r"|--ptxas-options=.*|--?maxrregcount=.*|--extra-device-vectorization|-G|--device-debug|--restrict"
    r"|-default-device|--device-as-default-execution-space|-arch=sm_90a|--fmad=.*|--ftz=.*|--prec-div=.*|--prec-sqrt=.*"
)
DEFAULT_SHARED, MOST_SHARED = 48 << 10, 227 << 10


class CompileException(RuntimeError):
    """A source that does not compile; `get_message` has the compiler's words."""

    def get_message(self) -> str:
        return str(self)


class Way:
    """How kernels run: by default unchecked, each launch in another order of threads."""

    def __init__(self) -> None:
        self.checked = False
        self.seeds: Iterator[int] = itertools.count()


WAY = Way()


@contextmanager
def running(checked: bool = False, seed: int | None = None) -> Iterator[None]:
    """Kernels run in checked mode or not, in the order of threads of one seed or each in another."""
    before = WAY.checked, WAY.seeds
    WAY.checked = checked
    WAY.seeds = itertools.count() if seed is None else itertools.repeat(seed)
    try:
        yield
    finally:
        WAY.checked, WAY.seeds = before


class RawModule:
    """CuPy's. name_expressions: the template instances wanted."""

    def __init__(
        self,
        *,
        code: str | None = None,
        path: str | None = None,
        options: tuple[str, ...] = (),
        backend: str = "nvrtc",
        translate_cucomplex: bool = False,
        name_expressions: Any = None,
        jitify: bool = False,
    ) -> None:
        if code is None or path is not None:
            raise TypeError("the stand-in compiles code=; path= is for what is compiled already")
        if not isinstance(options, tuple):
            raise TypeError(f"Argument 'options' has incorrect type (expected tuple, got {type(options).__name__})")
        for option in options:
            if not OPTION.fullmatch(option):
                raise CompileException(f"nvrtc: error: unrecognized option {option} found")
        if name_expressions and not any("std=c++" in option for option in options):
            raise ValueError("need to specify C++ standard for compiling template code")
        self.code, self.options, self.names = code, options, tuple(name_expressions or ())

    def compile(self, log_stream: Any = None) -> None:
        _ = self.fast

    def compiled(self, checked: bool) -> Module:
        def those(*prefixes: str) -> list[str]:
            return [o.removeprefix(p) for o in self.options for p in prefixes if o.startswith(p)]

        try:
            return Module(
                self.code, self.names, those("-I", "--include-path="), those("-D", "--define-macro="), checked=checked
            )
        except CompileError as error:
            raise CompileException(str(error)) from None

    @cached_property
    def fast(self) -> Module:
        return self.compiled(checked=False)

    @cached_property
    def checked(self) -> Module:
        return self.compiled(checked=True)

    def get_function(self, name: str) -> "RawKernel":
        if name not in self.fast.types:
            raise RuntimeError(f"CUDA_ERROR_NOT_FOUND: named symbol not found: {name}; there are {self.fast.names}")
        return RawKernel._of(self, name)


class RawKernel:
    """A kernel: `kernel(grid, block, args, shared_mem=…, stream=…)`."""

    def __init__(self, code: str, name: str, options: tuple[str, ...] = (), **_: Any) -> None:
        self.module, self.name = RawModule(code=code, options=options), name
        self.types = self.module.get_function(name).types
        self.shared_limit = DEFAULT_SHARED

    @classmethod
    def _of(cls, module: RawModule, name: str) -> "RawKernel":
        self = cls.__new__(cls)
        self.module, self.name, self.types = module, name, module.fast.types[name]
        self.shared_limit = DEFAULT_SHARED
        return self

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self.shared_limit

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, value: int) -> None:
        if not 0 <= value <= MOST_SHARED:
            raise RuntimeError(f"CUDA_ERROR_INVALID_VALUE: {value} bytes of shared memory; there are {MOST_SHARED}")
        self.shared_limit = int(value)

    def __call__(
        self, grid: tuple, block: tuple, args: tuple, *, shared_mem: int = 0, stream: Stream | None = None, **_: Any
    ) -> None:
        if not (isinstance(grid, tuple) and isinstance(block, tuple)):
            raise TypeError("grid and block must be tuples")
        grid, block = ((*map(int, sizes), 1, 1)[:3] for sizes in (grid, block))
        if shared_mem > self.shared_limit:
            raise RuntimeError(
                f"CUDA_ERROR_INVALID_VALUE: {self.name} with {shared_mem} bytes of shared memory; "
                f"max_dynamic_shared_size_bytes is {self.shared_limit}"
            )
        if math.prod(block) > 1024 or min(grid + block) < 1 or max(grid[1:]) > 65535 or block[2] > 64:
            raise RuntimeError(f"CUDA_ERROR_INVALID_VALUE: {self.name} with grid {grid} and block {block}")
        if len(args) != len(self.types):
            raise TypeError(f"{self.name} takes {len(self.types)} arguments ({', '.join(self.types)}), not {len(args)}")
        words = [self.argument(i, kind, a) for i, (kind, a) in enumerate(zip(self.types, args, strict=True))]
        module, seed = self.module.checked if WAY.checked else self.module.fast, next(WAY.seeds)

        def run() -> None:
            module.launch(self.name, grid, block, words, shared_mem, seed)

        submit(run, devices(list(args)), stream, late=True)

    def argument(self, i: int, kind: str, a: Any) -> Any:
        """The argument as the kernel takes it. Raises TypeError where a GPU would read something else."""

        def no(why: str) -> TypeError:
            return TypeError(f"{self.name}, argument {i} ({kind}): {why}")

        if kind.startswith("*"):
            if a is None:
                return None
            if not isinstance(a, ndarray):
                raise no(f"wants an array on the device, got {type(a).__name__}")
            if not is_of_type(a, kind.removeprefix("*").removeprefix("const ")):
                raise no(f"got {a.dtype}")
            if not a.flags.c_contiguous:
                raise no(f"got strides {a.strides} of shape {a.shape}; make it contiguous")
            return loose(a._a)
        if isinstance(a, ndarray):
            raise no("is passed by value, got an array on the device")
        if kind.startswith("s"):
            # CuPy passes a NumPy array of one element by value, and refuses numpy.void
            if not isinstance(a, np.ndarray) or a.size != 1 or a.nbytes != int(kind[1:]):
                size = f" of {a.nbytes}" if hasattr(a, "nbytes") else ""
                raise no(f"wants a NumPy array of one record of {kind[1:]} bytes, got {type(a).__name__}{size}")
            return np.array(a)
        if isinstance(a, bool | int) and kind[0] in "iu":  # CuPy passes 8 bytes, of which the kernel takes the low ones
            limits = np.iinfo(kind)
            if not limits.min <= a <= limits.max:
                raise no(f"{a} does not fit")
            return np.dtype(kind).type(a)
        if isinstance(a, float) and not isinstance(a, np.floating) and kind != "f8":
            raise no("a Python float is passed as a double; use numpy.float32")
        if isinstance(a, np.generic) and code_of(a.dtype) != kind:
            raise no(f"got {a.dtype}")
        if not isinstance(a, np.generic | float):
            raise no(f"got {type(a).__name__}")
        return np.array(a)


def code_of(dtype: np.dtype) -> str:
    """A NumPy type as signatures name it."""
    return dtype.str[1:].replace("b1", "u1")


def is_of_type(a: ndarray, element: str) -> bool:
    """Whether the array's elements are what a pointer points to, or records of such a size may lie in it."""
    if not element.startswith("s"):
        return code_of(a.dtype) == element
    size = int(element[1:])
    return a.dtype.itemsize == size or (size >= 8 and a.nbytes % size == 0)
