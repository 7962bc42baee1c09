"""One parallel loop for all kernels, and calls through addresses.

Numba would compile a `prange` around each kernel three times over (the kernel, the loop's body, the caller).
Here a kernel is compiled once, as a C function, and the loop once for all of them: `@worker(RECORD) def
kernel(part, plans)` does one share of the work, `plans` pointing to a record of integers (addresses and
sizes).

The loop takes a list of steps, a kernel with its parts and plan each: one where a kernel is called by itself, some
hundreds where `recording` runs a whole network again.
"""

import threading
from ctypes import addressof, c_char
from functools import cache, partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cfunc, from_dtype, njit, prange, types
from numba.extending import intrinsic

from backends.numba_kernels.compilation import compiled
from backends.processors import limit_numba

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


call2, call4, call5, call6, call10, call11 = (_caller(arity) for arity in (2, 4, 5, 6, 10, 11))


@cache
def _pointer(kind):
    """An intrinsic that makes an address a pointer to numbers of this type."""

    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(types.CPointer(kind)))

    return intrinsic(lambda typingctx, address: (types.CPointer(kind)(types.int64), codegen))


floats, doubles, longs = _pointer(types.float32), _pointer(types.float64), _pointer(types.int64)


# Loops of several Python threads take turns: together they would run more threads than were asked for, and Numba's
# layer "workqueue" ends the process
RUNNING = threading.Lock()


def _call_all(steps):
    for i in range(steps.shape[0]):
        function, parts, plan = steps[i, 0], steps[i, 1], steps[i, 2]
        if parts == 1:
            call2(function, np.int64(0), plan)
        else:
            for part in prange(parts):
                call2(function, np.int64(part), plan)


@cache
def _loop():
    """The loop, compiled; now Numba launches its threads."""
    limit_numba()
    return compiled(_call_all, partial(njit, "void(int64[:, ::1])", parallel=True, nogil=True))


def run_steps(steps):
    """Runs kernels one after the other. steps: (n, 3) int64 of a kernel's address, its number of parts and the address
    of its plan, all of which the caller keeps alive."""
    loop = _loop()
    with RUNNING:
        loop(steps)


class Watch(threading.local):
    """What this Python thread records, if anything: see `recording`."""

    recording: Any = None


WATCH = Watch()
# Arrays that live as long as the process and never change
FIXED: list[np.ndarray] = []


def fixed(array):
    """Registers an array that lives as long as the process and never changes; returns it."""
    FIXED.append(array)
    return array


@cache
def constants(*values):
    """These numbers as a float32 array, the same one at every call."""
    return fixed(np.array(values, np.float32))


class CFunction:
    """A function that returns nothing, compiled when its address is first asked for.

    arguments: their types; options: of `numba.cfunc`.
    """

    def __init__(self, function, arguments, options):
        self.function, self.options, self.compiled = function, options, None
        self.signature = types.void(*arguments)

    @property
    def address(self):
        if self.compiled is None:
            self.compiled = compiled(self.function, partial(cfunc, self.signature, **self.options))
        return self.compiled.address


def c_function(function):
    """Decorator for functions of integers, to be called through their `address`."""
    return CFunction(function, [types.int64] * function.__code__.co_argcount, {})


class Worker(CFunction):
    """A kernel for the loop."""

    def __init__(self, function, record, options):
        super().__init__(function, (types.int64, types.CPointer(from_dtype(record))), options)
        self.name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
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
        run_steps(np.array([[self.address, parts, _start(plan)]]))
        if WATCH.recording is not None:
            WATCH.recording.note(self, parts, plan)


def address(array):
    """Where an array starts, in bytes; 0 for None. Raises NotRecordableError if a recording must not hold that."""
    if array is None:
        return 0
    if WATCH.recording is not None:
        WATCH.recording.check(array)
    return _start(array)


def _start(array):
    try:
        # A quarter of the time of the line below, and a step asks some thousands of times
        return addressof(c_char.from_buffer(array))
    except (TypeError, ValueError):
        # Read-only, with gaps, or empty
        return array.__array_interface__["data"][0]


def worker(record, **options):
    """Decorator for kernels: see the module's text. options: of `numba.cfunc`."""
    return lambda function: Worker(function, record, options)
