"""Vector code for Numba: sixteen float32 lanes as one LLVM value, and kernels that stay in registers.

Numba's own loops leave it to LLVM to find vectors and to keep them in registers; for a matrix product of 24
accumulators, or a 6x6 tile of vectors, it does neither. Here a kernel is an ordinary Python function on
`Lanes`, run once at compile time: each arithmetic operator emits one instruction on <16 x float>. CPUs
without 512-bit registers get the same code split by LLVM into narrower ones.

Memory is addressed by integers (`array.ctypes.data` plus bytes); bounds are the caller's responsibility.
"""

from llvmlite import ir

FLOAT = ir.FloatType()
FLOAT_BYTES = 4
# Lanes of a vector, and its bytes: a cache line
WIDTH = 16
BYTES = WIDTH * FLOAT_BYTES
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

    def load(self, bytes_=0):
        pointer, align = self.offset(bytes_).pointer, ir.Constant(ir.IntType(32), 4)
        nothing = ir.Constant(VECTOR, [0.0] * WIDTH)
        name = "llvm.masked.load.v16f32.p0"
        return Lanes(self.builder, llvm_call(self.builder, name, VECTOR, pointer, align, self._mask(), nothing))

    def store(self, lanes, bytes_=0):
        pointer, align = self.offset(bytes_).pointer, ir.Constant(ir.IntType(32), 4)
        name = "llvm.masked.store.v16f32.p0"
        llvm_call(self.builder, name, ir.VoidType(), lanes.value, pointer, align, self._mask())


def llvm_call(builder, name, result, *arguments, **options):
    """What the LLVM intrinsic of this name returns for these LLVM values; result: its type. options: of the call."""
    module = builder.module
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(module.globals.get(name) or ir.Function(module, kind, name), arguments, **options)


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


def const(value):
    """An int as LLVM i64, the type of every size and address here."""
    return ir.Constant(INDEX, value)


def zeros(builder):
    return Lanes(builder, ir.Constant(VECTOR, [0.0] * WIDTH))
