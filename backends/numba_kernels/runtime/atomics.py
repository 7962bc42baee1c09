"""Numbers that several threads read and write: int64 at an address, as C11's atomics of the same names.

A thread that reads by `load` what another wrote by `store`, `add` or `exchange` also sees all that the other wrote
before.
"""

from numba import types
from numba.extending import intrinsic

from backends.numba_kernels.runtime.addresses import INDEX


@intrinsic
def load(typingctx, address):
    """The number there (acquire)."""

    def codegen(context, builder, signature, arguments):
        return builder.load_atomic(builder.inttoptr(arguments[0], INDEX.as_pointer()), "acquire", align=8, typ=INDEX)

    return types.int64(types.int64), codegen


@intrinsic
def store(typingctx, address, value):
    """Puts a number there (release)."""

    def codegen(context, builder, signature, arguments):
        builder.store_atomic(arguments[1], builder.inttoptr(arguments[0], INDEX.as_pointer()), "release", align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def add(typingctx, address, value):
    """Adds to the number there; returns what it was."""

    def codegen(context, builder, signature, arguments):
        return builder.atomic_rmw("add", builder.inttoptr(arguments[0], INDEX.as_pointer()), arguments[1], "acq_rel")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def exchange(typingctx, address, expected, value):
    """Puts a number there if the expected one is there; returns whether it was."""

    def codegen(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], INDEX.as_pointer())
        pair = builder.cmpxchg(pointer, arguments[1], arguments[2], "acq_rel", "acquire")
        return builder.extract_value(pair, 1)

    return types.boolean(types.int64, types.int64, types.int64), codegen
