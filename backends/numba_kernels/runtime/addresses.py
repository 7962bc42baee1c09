"""Memory by its address: of arrays in Python, and of numbers and functions in compiled code."""

import threading
from ctypes import addressof, c_char
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from backends.numba_kernels.runtime.signatures import numbered, with_parameters

INDEX, FLOAT = ir.IntType(64), ir.FloatType()


def _caller(count):
    """An intrinsic that calls the C function at address `function` with `count` integers."""

    def codegen(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.VoidType(), [INDEX] * count)
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    result = types.void(*[types.int64] * (count + 1)), codegen
    before = "typingctx", "function"
    return intrinsic(with_parameters("call", numbered(count), "return result", {"result": result}, before))


call0, call2, call4, call5, call6, call10, call11 = (_caller(count) for count in (0, 2, 4, 5, 6, 10, 11))


@cache
def _pointer(kind):
    """An intrinsic that makes an address a pointer to numbers of this type."""

    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(types.CPointer(kind)))

    return intrinsic(lambda typingctx, address: (types.CPointer(kind)(types.int64), codegen))


floats, doubles, longs = _pointer(types.float32), _pointer(types.float64), _pointer(types.int64)


class Active(threading.local):
    """What this Python thread records, if anything: see `recording`."""

    recording: Any = None


ACTIVE = Active()
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


def address(array):
    """Where an array starts, in bytes; 0 for None. Raises NotRecordableError if a recording must not hold that."""
    if array is None:
        return 0
    if ACTIVE.recording is not None:
        ACTIVE.recording.check(array)
    return start_of(array)


def start_of(array):
    try:
        # A quarter of the time of the line below, and a step asks some thousands of times
        return addressof(c_char.from_buffer(array))
    except (TypeError, ValueError):
        # Read-only, with gaps, or empty
        return array.__array_interface__["data"][0]


@intrinsic
def read_float(typingctx, address):
    """The float32 at an address."""

    def codegen(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], FLOAT.as_pointer())
        return builder.load(pointer, align=4, typ=FLOAT)

    return types.float32(types.int64), codegen


@intrinsic
def as_single(typingctx, bits):
    """The float32 whose bits these are, of an int64 from `bits_of`: how a plan holds a number."""

    def codegen(context, builder, signature, arguments):
        return builder.bitcast(builder.trunc(arguments[0], ir.IntType(32)), FLOAT)

    return types.float32(types.int64), codegen


def bits_of(value):
    """The bits of a number as float32."""
    return int(np.float32(value).view(np.int32))


@intrinsic
def write_int(typingctx, address, value):
    """Puts an int64 at an address."""

    def codegen(context, builder, signature, arguments):
        builder.store(arguments[1], builder.inttoptr(arguments[0], INDEX.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def write_float(typingctx, address, value):
    """Puts a float32 at an address."""

    def codegen(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], FLOAT.as_pointer())
        builder.store(arguments[1], pointer, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), codegen
