"""Matrix-product micro-kernels: 8 x 32 accumulators stay in registers while the inner dimension runs.

With AVX-512 they are 16 registers of 32. Other CPUs have a quarter or an eighth of that room, and run the
same product as several smaller ones.
"""

from llvmlite.binding import get_host_cpu_features
from numba import config

from backends.numba_kernels.vectors.intrinsics import kernel
from backends.numba_kernels.vectors.lanes import BYTES, Memory, const, loop, zeros

ROWS, HALF_ROWS = 8, 4
PANEL = 32


def _blocking():
    """(rows, vectors of 16) whose accumulators fit into the registers."""
    if config.CPU_FEATURES is not None:
        features = {name[1:] for name in config.CPU_FEATURES.split(",") if name.startswith("+")}
    else:
        features = {name for name, present in get_host_cpu_features().items() if present}
    if "avx512f" in features:
        return 8, 2
    return (4, 1) if "avx" in features else (2, 1)


BLOCK_ROWS, BLOCK_VECTORS = _blocking()


def _blocks(rows=ROWS):
    """The parts of `rows` x 2 vectors that are accumulated together, as (rows, sides)."""
    for side in range(0, 2, BLOCK_VECTORS):
        for row in range(0, rows, BLOCK_ROWS):
            yield range(row, min(row + BLOCK_ROWS, rows)), range(side, side + BLOCK_VECTORS)


@kernel
def gemm_rows(builder, a, a_chunk, b, chunks, out, later):
    """out[8][32] = sum over c of a[c // 16][row][c % 16] * b[c][32], the chunks of a being `a_chunk` bytes apart, plus
    what is there if `later` is not 0."""
    _rows(builder, ROWS, a, a_chunk, b, chunks, out, later)


@kernel
def gemm_half_rows(builder, a, a_chunk, b, chunks, out, later):
    """The first four rows of `gemm_rows`."""
    _rows(builder, HALF_ROWS, a, a_chunk, b, chunks, out, later)


def _rows(builder, count, a, a_chunk, b, chunks, out, later):
    a, b, out = (Memory(builder, m) for m in (a, b, out))
    for rows, sides in _blocks(count):

        def chunk(i, acc, rows=rows, sides=sides):
            ai, bi = a.offset(builder.mul(i, a_chunk)), b.offset(builder.mul(i, const(16 * 2 * BYTES)))

            def four(j, acc):
                aj, bj = (
                    ai.offset(builder.mul(j, const(4 * 4))),
                    bi.offset(builder.mul(j, const(4 * 2 * BYTES))),
                )
                for c in range(4):
                    right = [bj.load((2 * c + side) * BYTES) for side in sides]
                    acc = _outer(acc, [lambda r=r: aj.broadcast(r * BYTES + 4 * c) for r in rows], right)
                return acc

            return loop(builder, const(4), acc, four)

        acc = loop(builder, chunks, [zeros(builder)] * (len(rows) * len(sides)), chunk)
        _store(builder, acc, out, [(2 * r + side) * BYTES for r in rows for side in sides], later)


@kernel
def gemm_columns(builder, a, low, high, fours, out, later):
    """out[8][32] = sum over t < 4 * fours of a[t][8] times (low[t][16], high[t][16]), plus what is there if `later`
    is not 0; rows of all three are 64 bytes apart."""
    a, low, high, out = (Memory(builder, m) for m in (a, low, high, out))
    for rows, sides in _blocks():

        def four(i, acc, rows=rows, sides=sides):
            step = builder.mul(i, const(4 * BYTES))
            ai, right = a.offset(step), [(low, high)[side].offset(step) for side in sides]
            for t in range(4):
                vectors = [source.load(t * BYTES) for source in right]
                acc = _outer(acc, [lambda r=r: ai.broadcast(t * BYTES + 4 * r) for r in rows], vectors)
            return acc

        acc = loop(builder, fours, [zeros(builder)] * (len(rows) * len(sides)), four)
        _store(builder, acc, out, [(2 * r + side) * BYTES for r in rows for side in sides], later)


def _store(builder, acc, out, places, later):
    """Write the sums, or add them to what is there."""
    with builder.if_else(builder.icmp_signed("!=", later, const(0))) as (added, alone):
        with added:
            for value, place in zip(acc, places):
                out.store(out.load(place) + value, place)
        with alone:
            for value, place in zip(acc, places):
                out.store(value, place)


def _outer(acc, left, right):
    """acc[r][v] + left[r]() * right[v]; a left value is read just before its use, to hold few at a time."""
    result = []
    for r, read in enumerate(left):
        value = read()
        result += [value * vector + acc[r * len(right) + v] for v, vector in enumerate(right)]
    return result
