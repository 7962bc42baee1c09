"""One parallel loop for all kernels, and calls through addresses.

Numba would compile a `prange` around each kernel three times over (the kernel, the loop's body, the caller).
Here a kernel is compiled once, as a C function, and the loop once for all of them: `@worker(RECORD) def
kernel(part, plans)` does one share of the work, `plans` pointing to a record of integers (addresses and
sizes).
"""

import hashlib
from ctypes import addressof, c_char
from functools import lru_cache
from pathlib import Path

import numpy as np
from llvmlite import ir
from numba import cfunc, from_dtype, njit, prange, types
from numba.extending import intrinsic

INDEX = ir.IntType(64)


def plan_type(names):
    """A record of int64 fields, named in one string."""
    return np.dtype([(name, np.int64) for name in names.split()])


def _caller(arity):
    """An intrinsic that calls the C function at address `function` with `arity` integers."""

    def codegen(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.VoidType(), [INDEX] * arity)
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    names = ", ".join(f"a{i}" for i in range(arity))
    scope = {"result": (types.void(*[types.int64] * (arity + 1)), codegen)}
    exec(f"def call(typingctx, function, {names}):\n    return result", scope)
    return intrinsic(scope["call"])


call2, call4, call5, call10, call11 = (_caller(arity) for arity in (2, 4, 5, 10, 11))


@njit("void(int64, int64, int64)", parallel=True, cache=True)
def _run(function, parts, plan):
    for part in prange(parts):
        call2(function, np.int64(part), plan)


@lru_cache(maxsize=1)
def _sources_digest():
    """A name for the present text of this folder's modules.

    Numba's disk cache looks only at the file of the function that it compiles; a kernel's code comes from
    several.
    """
    text = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return hashlib.sha256(text).hexdigest()[:12]


class CFunction:
    """A function of integers that returns nothing, compiled when its address is first asked for."""

    def __init__(self, function, signature):
        self.function, self.signature, self.compiled = function, signature, None

    @property
    def address(self):
        if self.compiled is None:
            self.function.__qualname__ += "_" + _sources_digest()
            self.compiled = cfunc(self.signature, cache=True)(self.function)
        return self.compiled.address


class Worker(CFunction):
    """A kernel for `_run`."""

    def __init__(self, function, record):
        super().__init__(function, types.void(types.int64, types.CPointer(from_dtype(record))))
        self.places = {name: i for i, name in enumerate(record.names)}

    def plan(self, base=None, **fields):
        """The record as an array of int64; a field that is not given is as in `base`, another plan, or 0."""
        plan = np.zeros(len(self.places), np.int64) if base is None else base.copy()
        for name, value in fields.items():
            plan[self.places[name]] = value
        return plan

    def run(self, parts, plan):
        """Call the kernel with part = 0 ... parts - 1 on Numba's threads. The caller keeps the plan's arrays
        alive."""
        _run(self.address, parts, address(plan))


def address(array):
    """Where an array starts, in bytes; 0 for None."""
    if array is None:
        return 0
    try:
        # Four times as fast as what follows, but only for memory that may be written to
        return addressof(c_char.from_buffer(array))
    except (TypeError, ValueError):
        return array.__array_interface__["data"][0]


def worker(record):
    """Decorator for kernels: see the module's text."""
    return lambda function: Worker(function, record)
