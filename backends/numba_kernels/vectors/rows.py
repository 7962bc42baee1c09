"""Kernels for rows of sixteen lanes: set, add, sum, store, prefetch."""

from llvmlite import ir

from backends.numba_kernels.vectors.intrinsics import kernel
from backends.numba_kernels.vectors.lanes import BYTE, BYTES, Memory, const, loop, zeros


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
