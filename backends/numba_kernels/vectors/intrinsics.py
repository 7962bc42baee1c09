"""Numba intrinsics made of Python functions that emit LLVM code."""

from numba import types
from numba.extending import intrinsic

from backends.numba_kernels.runtime.arity import with_arity
from backends.numba_kernels.runtime.launch import c_function
from backends.numba_kernels.vectors.lanes import WIDTH, MaskedMemory, Memory, const


def kernel(emit, arity=None):
    """Make a Numba intrinsic of `emit(builder, *arguments)`, whose arguments are int64 values and which
    returns nothing. arity: how many, where `emit` does not tell."""
    arity = emit.__code__.co_argcount - 1 if arity is None else arity

    def codegen(context, builder, signature, arguments):
        emit(builder, *arguments)
        return context.get_dummy_value()

    result = types.void(*[types.int64] * arity), codegen
    return intrinsic(with_arity(emit.__name__, arity, "return result", {"result": result}, before=("typingctx",)))


def lanes_kernel(emit):
    """`kernel` of `emit(builder, memory, *arguments)`, with a first argument more: how many lanes are there.

    `memory(address)` is plain where all sixteen are, else a `MaskedMemory`: not every CPU masks as fast.
    """

    def both(builder, lanes, *arguments):
        with builder.if_else(builder.icmp_signed("==", lanes, const(WIDTH)), likely=True) as (whole, part):
            with whole:
                emit(builder, lambda address: Memory(builder, address), *arguments)
            with part:
                emit(builder, lambda address: MaskedMemory(builder, address, lanes), *arguments)

    both.__name__ = emit.__name__
    return kernel(both, emit.__code__.co_argcount - 1)


def named_c_function(name, emit):
    """The same as a C function with an address, cached on disk under `name`."""
    return c_function(with_arity(name, emit.__code__.co_argcount - 1, "body({names})", {"body": kernel(emit)}))
