"""Kernels for rows of sixteen lanes: set, add, sum, store, prefetch."""

from llvmlite import ir

from backends.numba_kernels.vectors.intrinsics import kernel
from backends.numba_kernels.vectors.lanes import BYTE, BYTES, Memory, const, llvm_call, loop, zeros


def store_block(builder, block, sums, out, out_bytes, count, high, residual):
    """Write the sums of a block to its rows < count of `out`, the second vector of a row at `high` bytes, plus
    `residual` unless that is 0.

    `high` is 0 where a row has only its first vector, whose block then holds both sums alike. Both residuals are read
    before either is written, as they may be the output itself; the first vector is written last.
    """
    added = builder.icmp_signed("!=", residual, const(0))
    width = len(block.sides)
    for i, r in enumerate(block.rows):
        with builder.if_then(builder.icmp_signed("<", const(r), count), likely=True):
            row = builder.mul(out_bytes, const(r))
            places = [builder.add(row, high) if side else row for side in block.sides]
            values = sums[width * i : width * (i + 1)]
            with builder.if_else(added) as (with_residual, plain):
                with with_residual:
                    source = Memory(builder, residual)
                    totals = [value + source.offset(place).load() for value, place in zip(values, places)]
                    for total, place in reversed(list(zip(totals, places))):
                        out.offset(place).store(total)
                with plain:
                    for value, place in reversed(list(zip(values, places))):
                        out.offset(place).store(value)


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
def add_rows(builder, out, a, count, row_bytes):
    """out[16] += the sum of `count` vectors, `row_bytes` apart."""
    rows = Memory(builder, a)
    (total,) = loop(
        builder, count, [zeros(builder)], lambda i, s: [s[0] + rows.offset(builder.mul(i, row_bytes)).load()]
    )
    out = Memory(builder, out)
    out.store(out.load() + total)


def _prefetch(builder, address, bytes_, write):
    def line(i, _):
        place = builder.add(address, builder.mul(i, const(64)))
        flags = [ir.Constant(ir.IntType(32), flag) for flag in (int(write), 3 if write else 2, 1)]
        llvm_call(builder, "llvm.prefetch.p0", ir.VoidType(), builder.inttoptr(place, BYTE.as_pointer()), *flags)
        return []

    loop(builder, builder.ashr(bytes_, const(6)), [], line)


@kernel
def prefetch_read(builder, address, bytes_):
    """Prefetch cache lines that will be read; any address is allowed."""
    _prefetch(builder, address, bytes_, write=False)


@kernel
def prefetch_write(builder, address, bytes_):
    """Prefetch cache lines that will be written, so that the store does not wait for them; any address is allowed."""
    _prefetch(builder, address, bytes_, write=True)
