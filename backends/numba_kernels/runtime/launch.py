"""Kernels, and calls through addresses.

Numba would compile a `prange` around each kernel three times over (the kernel, the loop's body, the caller).
Here a kernel is compiled once, as a C function, and one loop (`desk`) calls them all: `@worker(RECORD) def
kernel(part, plans)` does one share of the work, `plans` pointing to a record of integers (addresses and
sizes).

The loop takes a list of steps, a kernel with its parts and plan each: one where a kernel is called by itself, some
hundreds where `recording` runs a whole network again.
"""

from functools import partial

import numpy as np
from numba import cfunc, from_dtype, types

from backends.numba_kernels.runtime.addresses import WATCH, start_of
from backends.numba_kernels.runtime.compilation import compiled
from backends.numba_kernels.runtime.team import run_steps


def plan_type(names):
    """A record of int64 fields, named in one string."""
    return np.dtype([(name, np.int64) for name in names.split()])


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
        """Call the kernel with part = 0 ... parts - 1 on all threads. The caller keeps the plan's arrays
        alive."""
        run_steps(np.array([[self.address, parts, start_of(plan)]]))
        if WATCH.recording is not None:
            WATCH.recording.note(self, parts, plan)


def worker(record, **options):
    """Decorator for kernels: see the module's text. options: of `numba.cfunc`."""
    return lambda function: Worker(function, record, options)
