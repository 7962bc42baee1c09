"""Numba intrinsics made of Python functions that emit LLVM code."""

from numba import types
from numba.extending import intrinsic

from backends.numba_kernels.runtime.launch import c_function
from backends.numba_kernels.runtime.signatures import with_parameters
from backends.numba_kernels.vectors.lanes import WIDTH, MaskedMemory, Memory, const


def parameters_of(emit):
    """The names of its parameters after the builder."""
    return emit.__code__.co_varnames[1 : emit.__code__.co_argcount]


def kernel(emit, parameters=None):
    """Make a Numba intrinsic of `emit(builder, *arguments)`, whose arguments are int64 values and which
    returns nothing. parameters: their names, where `emit` does not tell."""
    parameters = parameters_of(emit) if parameters is None else parameters

    def codegen(context, builder, signature, arguments):
        emit(builder, *arguments)
        return context.get_dummy_value()

    result = types.void(*[types.int64] * len(parameters)), codegen
    scope = {"_result": result}
    return intrinsic(with_parameters(emit.__name__, parameters, "return _result", scope, before=("typingctx",)))


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
    return kernel(both, ("lanes", *parameters_of(emit)[1:]))


def named_c_function(name, emit):
    """The same as a C function with an address, cached on disk under `name`."""
    return c_function(with_parameters(name, parameters_of(emit), "_body({parameters})", {"_body": kernel(emit)}))
