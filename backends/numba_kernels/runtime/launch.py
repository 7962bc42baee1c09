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

from backends.numba_kernels.runtime.addresses import ACTIVE, start_of
from backends.numba_kernels.runtime.compilation import compiled
from backends.numba_kernels.runtime.team import run_steps


class PlanType:
    """A record of int64 fields: addresses, sizes, byte strides.

    names: in one string. optional: those that may be left out of a plan, and are 0 then.
    """

    def __init__(self, names, optional=""):
        required = names.split()
        self.places = {name: i for i, name in enumerate((*required, *optional.split()))}
        self.required = frozenset(required)
        assert len(self.places) == len(required) + len(optional.split()), "a field is named twice"
        self.record = np.dtype([(name, np.int64) for name in self.places])

    def template(self, **fields):
        """Some fields, to be completed: what plans for arrays of the same shapes share."""
        return Template(self, fields)


class Template:
    """A plan of which some fields are given. Raises TypeError for a field that the type does not have."""

    def __init__(self, plan_type, fields):
        self.places = plan_type.places
        self.missing = plan_type.required.difference(fields)
        self.values = self.put(np.zeros(len(self.places), np.int64), fields)

    def __getitem__(self, name):
        return int(self.values[self.places[name]])

    def plan(self, **fields):
        """The whole record, an array of int64.

        Raises TypeError that names fields which are missing: a worker would take an address or a size of 0 for them.
        """
        if not self.missing <= fields.keys():
            raise TypeError(f"the plan lacks {', '.join(sorted(self.missing.difference(fields)))}")
        return self.put(self.values.copy(), fields)

    def put(self, values, fields):
        for name, value in fields.items():
            if name not in self.places:
                raise TypeError(f"the plan has no field {name}; it has {', '.join(self.places)}")
            values[self.places[name]] = value
        return values


class CFunction:
    """A function that returns nothing, compiled when its address is first read.

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

    def __init__(self, function, plan_type, options):
        super().__init__(function, (types.int64, types.CPointer(from_dtype(plan_type.record))), options)
        self.name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
        self.template = plan_type.template
        self.nothing = plan_type.template()

    @property
    def address(self):
        """Address of the machine code. Raises TypeError for a field that the plan's type does not have."""
        try:
            return super().address
        except KeyError as error:
            field = error.args[0]
            if field in self.nothing.places:
                raise
            fields = ", ".join(self.nothing.places)
            raise TypeError(f"{self.name} reads plan.{field}, which its PlanType lacks; it has {fields}") from error

    def plan(self, **fields):
        """The record that the kernel reads, an array of int64: see `Template.plan`."""
        return self.nothing.plan(**fields)

    def run(self, parts, plan):
        """Call the kernel with part = 0 ... parts - 1 on all threads. The caller keeps the plan's arrays
        alive."""
        run_steps(np.array([[self.address, parts, start_of(plan)]]))
        if ACTIVE.recording is not None:
            ACTIVE.recording.note(self, parts, plan)


def worker(plan_type, **options):
    """Decorator for kernels: see the module's text. options: of `numba.cfunc`."""
    return lambda function: Worker(function, plan_type, options)
