"""Matrix-product micro-kernels: 8 x 32 accumulators stay in registers while the inner dimension runs."""

from backends.numba_kernels.simd import BYTES, Memory, const, kernel, loop, zeros

ROWS = 8
PANEL = 32


def _step(acc, left, low, high):
    """acc[8][2] += left(r) (a scalar, repeated) times (low, high)."""
    for r in range(ROWS):
        value = left(r)
        acc[2 * r] = value * low + acc[2 * r]
        acc[2 * r + 1] = value * high + acc[2 * r + 1]


@kernel
def gemm_rows(builder, a, a_chunk, b, chunks, out):
    """out[8][32] = sum over c of a[c // 16][row][c % 16] * b[c][32], the chunks of a being `a_chunk` bytes apart."""
    a, b, out = (Memory(builder, m) for m in (a, b, out))

    def chunk(i, acc):
        ai, bi = a.offset(builder.mul(i, a_chunk)), b.offset(builder.mul(i, const(16 * 2 * BYTES)))

        def four(j, acc):
            aj, bj = ai.offset(builder.mul(j, const(4 * 4))), bi.offset(builder.mul(j, const(4 * 2 * BYTES)))
            acc = list(acc)
            for c in range(4):
                _step(
                    acc, lambda r: aj.broadcast(r * BYTES + 4 * c), bj.load(2 * c * BYTES), bj.load((2 * c + 1) * BYTES)
                )
            return acc

        return loop(builder, const(4), acc, four)

    for r, value in enumerate(loop(builder, chunks, [zeros(builder)] * (2 * ROWS), chunk)):
        out.store(value, r * BYTES)


@kernel
def gemm_columns(builder, a, low, high, fours, out):
    """out[8][32] += sum over t < 4 * fours of a[t][8] times (low[t][16], high[t][16]); rows of all three are 64 bytes apart."""
    a, low, high, out = (Memory(builder, m) for m in (a, low, high, out))

    def four(i, acc):
        step = builder.mul(i, const(4 * BYTES))
        ai, li, hi = a.offset(step), low.offset(step), high.offset(step)
        acc = list(acc)
        for t in range(4):
            _step(acc, lambda r: ai.broadcast(t * BYTES + 4 * r), li.load(t * BYTES), hi.load(t * BYTES))
        return acc

    for r, value in enumerate(loop(builder, fours, [zeros(builder)] * (2 * ROWS), four)):
        out.store(out.load(r * BYTES) + value, r * BYTES)
