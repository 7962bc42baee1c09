"""Vector code for Numba: sixteen float32 lanes as one LLVM value, and kernels that stay in registers.

Numba's own loops leave it to LLVM to find vectors and to keep them in registers; for a matrix product of 24
accumulators, or a 6x6 tile of vectors, it does neither. Here a kernel is an ordinary Python function on
`Lanes`, run once at compile time: each arithmetic operator emits one instruction on <16 x float>. CPUs
without 512-bit registers get the same code split by LLVM into narrower ones.

Memory is addressed by integers (`array.ctypes.data` plus bytes); whoever calls a kernel vouches for the
bounds.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from backends.numba_kernels.threads import c_function

FLOAT = ir.FloatType()
WIDTH = 16
BYTES = 4 * WIDTH
VECTOR = ir.VectorType(FLOAT, WIDTH)
INTS = ir.VectorType(ir.IntType(32), WIDTH)
INDEX = ir.IntType(64)
BYTE = ir.IntType(8)
CONTRACT = ("contract",)


class Lanes:
    """Sixteen float32 values in a register. Operators emit LLVM; `a * b + c` becomes one fused
    multiply-add."""

    def __init__(self, builder, value):
        self.builder, self.value = builder, value

    def _other(self, other):
        return other.value if isinstance(other, Lanes) else ir.Constant(VECTOR, [float(other)] * WIDTH)

    def __add__(self, other):
        return Lanes(self.builder, self.builder.fadd(self.value, self._other(other), flags=CONTRACT))

    def __sub__(self, other):
        return Lanes(self.builder, self.builder.fsub(self.value, self._other(other), flags=CONTRACT))

    def __mul__(self, other):
        return Lanes(self.builder, self.builder.fmul(self.value, self._other(other), flags=CONTRACT))

    def __truediv__(self, other):
        return Lanes(self.builder, self.builder.fdiv(self.value, self._other(other), flags=CONTRACT))

    def __rsub__(self, other):
        return Lanes(self.builder, self.builder.fsub(self._other(other), self.value, flags=CONTRACT))

    __radd__, __rmul__ = __add__, __mul__


class Memory:
    """An address in bytes, from which vectors are read and to which they are written."""

    def __init__(self, builder, address):
        self.builder = builder
        self.pointer = builder.inttoptr(address, BYTE.as_pointer()) if address.type == INDEX else address

    def offset(self, bytes_):
        """The memory `bytes_` (an int, or an LLVM i64) further on."""
        if isinstance(bytes_, int):
            bytes_ = ir.Constant(INDEX, bytes_)
        return Memory(self.builder, self.builder.gep(self.pointer, [bytes_], source_etype=BYTE))

    def load(self, bytes_=0):
        pointer = self.builder.bitcast(self.offset(bytes_).pointer, VECTOR.as_pointer())
        return Lanes(self.builder, self.builder.load(pointer, align=4, typ=VECTOR))

    def store(self, lanes, bytes_=0):
        pointer = self.builder.bitcast(self.offset(bytes_).pointer, VECTOR.as_pointer())
        self.builder.store(lanes.value, pointer, align=4)

    def scalar(self, bytes_=0):
        """One float32, as an LLVM value."""
        pointer = self.builder.bitcast(self.offset(bytes_).pointer, FLOAT.as_pointer())
        return self.builder.load(pointer, align=4, typ=FLOAT)

    def broadcast(self, bytes_=0):
        """One float32 repeated in all lanes."""
        return spread(self.builder, self.scalar(bytes_))


class MaskedMemory(Memory):
    """Memory of which only the first lanes of each vector are read (the others are 0) and written."""

    def __init__(self, builder, address, lanes):
        super().__init__(builder, address)
        self.lanes = lanes

    def offset(self, bytes_):
        return MaskedMemory(self.builder, super().offset(bytes_).pointer, self.lanes)

    def _mask(self):
        count = self.builder.trunc(self.lanes, ir.IntType(32))
        one = self.builder.insert_element(ir.Constant(INTS, ir.Undefined), count, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(INTS, [0] * WIDTH)
        counts = self.builder.shuffle_vector(one, ir.Constant(INTS, ir.Undefined), zeros)
        return self.builder.icmp_signed("<", ir.Constant(INTS, list(range(WIDTH))), counts)

    def _call(self, name, result, *arguments):
        module = self.builder.module
        kind = ir.FunctionType(result, [a.type for a in arguments])
        function = module.globals.get(name) or ir.Function(module, kind, name)
        return self.builder.call(function, arguments)

    def load(self, bytes_=0):
        pointer, align = self.offset(bytes_).pointer, ir.Constant(ir.IntType(32), 4)
        nothing = ir.Constant(VECTOR, [0.0] * WIDTH)
        name = "llvm.masked.load.v16f32.p0"
        return Lanes(self.builder, self._call(name, VECTOR, pointer, align, self._mask(), nothing))

    def store(self, lanes, bytes_=0):
        pointer, align = self.offset(bytes_).pointer, ir.Constant(ir.IntType(32), 4)
        self._call("llvm.masked.store.v16f32.p0", ir.VoidType(), lanes.value, pointer, align, self._mask())


def spread(builder, scalar):
    one = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(INTS, [0] * WIDTH)
    return Lanes(builder, builder.shuffle_vector(one, ir.Constant(VECTOR, ir.Undefined), zeros))


def loop(builder, count, start, body):
    """Repeat `body(index, values) -> values` `count` (i64) times, `values` being carried in registers."""
    before, head = builder.block, builder.append_basic_block("loop")
    after = builder.append_basic_block("after")
    zero, one = ir.Constant(INDEX, 0), ir.Constant(INDEX, 1)
    builder.cbranch(builder.icmp_signed(">", count, zero), head, after)
    builder.position_at_end(head)
    index = builder.phi(INDEX)
    index.add_incoming(zero, before)
    carried = [builder.phi(v.value.type) for v in start]
    for phi, v in zip(carried, start):
        phi.add_incoming(v.value, before)
    results = body(index, [Lanes(builder, phi) for phi in carried])
    tail = builder.block
    following = builder.add(index, one)
    index.add_incoming(following, tail)
    for phi, v in zip(carried, results):
        phi.add_incoming(v.value, tail)
    builder.cbranch(builder.icmp_signed("<", following, count), head, after)
    builder.position_at_end(after)
    final = []
    for v, r in zip(start, results):
        phi = builder.phi(v.value.type)
        phi.add_incoming(v.value, before)
        phi.add_incoming(r.value, tail)
        final.append(Lanes(builder, phi))
    return final


def unrolled(builder, count, start, body):
    """The sums of `body(index, totals) -> totals` over the indices, four chains of additions at a time.

    One chain would wait for each addition's result. The order does not depend on anything but `count`.
    """
    width = len(start)

    def four(i, totals):
        first, result = builder.mul(i, const(4)), []
        for u in range(4):
            result += body(builder.add(first, const(u)), totals[u * width : (u + 1) * width])
        return result

    fours = builder.ashr(count, const(2))
    totals = loop(builder, fours, start * 4, four)
    done = builder.mul(fours, const(4))
    totals[:width] = loop(builder, builder.sub(count, done), totals[:width], lambda i, t: body(builder.add(done, i), t))
    return [(totals[i] + totals[width + i]) + (totals[2 * width + i] + totals[3 * width + i]) for i in range(width)]


def kernel(emit, arity=None):
    """Make a Numba intrinsic of `emit(builder, *arguments)`, whose arguments are int64 values and which
    returns nothing. arity: how many, where `emit` does not tell."""
    arity = emit.__code__.co_argcount - 1 if arity is None else arity
    names = ", ".join(f"a{i}" for i in range(arity))

    def codegen(context, builder, signature, arguments):
        emit(builder, *arguments)
        return context.get_dummy_value()

    scope = {"result": (types.void(*[types.int64] * arity), codegen)}
    exec(f"def {emit.__name__}(typingctx, {names}):\n    return result", scope)
    return intrinsic(scope[emit.__name__])


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


@intrinsic
def read_float(typingctx, address):
    """The float32 at an address."""

    def codegen(context, builder, signature, arguments):
        return Memory(builder, arguments[0]).scalar()

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


def named_c_function(name, emit):
    """The same as a C function with an address, cached on disk under `name`."""
    names = ", ".join(f"a{i}" for i in range(emit.__code__.co_argcount - 1))
    scope = {"body": kernel(emit), "__name__": __name__}
    # Numba's cache asks for the file of a function: text compiled as part of this file has one.
    exec(compile(f"def {name}({names}):\n    body({names})", __file__, "exec"), scope)
    return c_function(scope[name])


def const(value):
    """An int as LLVM i64, the type of every size and address here."""
    return ir.Constant(INDEX, value)


def zeros(builder):
    return Lanes(builder, ir.Constant(VECTOR, [0.0] * WIDTH))


def store_pairs(builder, pairs, out, out_bytes, count, high, residual):
    """Write pairs[2 * r], pairs[2 * r + 1] to row r < count of `out`, at 0 and `high`, plus `residual`
    unless that is 0.

    `high` is 0 where a row has only the first vector. Both residuals are read before either is written, for
    they may be the output itself; the first vector is written last.
    """
    added = builder.icmp_signed("!=", residual, const(0))
    for r in range(len(pairs) // 2):
        with builder.if_then(builder.icmp_signed("<", const(r), count), likely=True):
            low = builder.mul(out_bytes, const(r))
            places = (low, builder.add(low, high))
            with builder.if_else(added) as (with_residual, plain):
                with with_residual:
                    source = Memory(builder, residual)
                    sums = [pairs[2 * r + side] + source.offset(places[side]).load() for side in (0, 1)]
                    out.offset(places[1]).store(sums[1])
                    out.offset(places[0]).store(sums[0])
                with plain:
                    out.offset(places[1]).store(pairs[2 * r + 1])
                    out.offset(places[0]).store(pairs[2 * r])


@kernel
def set_zero(builder, out, count):
    """out[count][16] = 0."""

    def one(i, _):
        Memory(builder, out).offset(builder.mul(i, const(BYTES))).store(zeros(builder))
        return []

    loop(builder, count, [], one)


@kernel
def add_to(builder, out, a, count):
    """out[count][16] += a[count][16]."""

    def one(i, _):
        step = builder.mul(i, const(BYTES))
        place = Memory(builder, out).offset(step)
        place.store(place.load() + Memory(builder, a).offset(step).load())
        return []

    loop(builder, count, [], one)


@kernel
def add_rows(builder, out, a, count, step):
    """out[16] += the sum of `count` vectors, `step` bytes apart."""
    rows = Memory(builder, a)
    (total,) = loop(builder, count, [zeros(builder)], lambda i, s: [s[0] + rows.offset(builder.mul(i, step)).load()])
    out = Memory(builder, out)
    out.store(out.load() + total)


def _prefetch(builder, address, bytes_, write):
    def line(i, _):
        place = builder.add(address, builder.mul(i, const(64)))
        flags = [ir.Constant(ir.IntType(32), flag) for flag in (int(write), 3 if write else 2, 1)]
        builder.call(function, [builder.inttoptr(place, BYTE.as_pointer()), *flags])
        return []

    kind = ir.FunctionType(ir.VoidType(), [BYTE.as_pointer()] + [ir.IntType(32)] * 3)
    function = builder.module.globals.get("llvm.prefetch.p0") or ir.Function(builder.module, kind, "llvm.prefetch.p0")
    loop(builder, builder.ashr(bytes_, const(6)), [], line)


@kernel
def prefetch_read(builder, address, bytes_):
    """Ask for cache lines that will be read; any address is allowed."""
    _prefetch(builder, address, bytes_, write=False)


@kernel
def prefetch_write(builder, address, bytes_):
    """Ask for cache lines that will be written, so that the store does not wait for them; any address is
    allowed."""
    _prefetch(builder, address, bytes_, write=True)
