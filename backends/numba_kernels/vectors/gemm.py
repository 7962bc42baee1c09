"""The one micro-kernel: sums of outer products, as many at a time as the processor has registers for.

Every matrix product here is rows of numbers times vectors of 16 lanes, summed over an inner dimension (Goto & van de
Geijn 2008, "Anatomy of high-performance matrix multiplication"; Van Zee & van de Geijn 2015, "BLIS"). A kernel names
up to 8 rows and a panel of two vectors, and how to walk the inner dimension; `blocks` cuts rows and panel into pieces
whose sums stay in registers while the walk runs:

                  b[t]  | 16 lanes | 16 lanes |     AVX-512: one piece, 8 x 2 sums, 16 of 32 registers.
    a[0][t] ->          |  += a*b  |  += a*b  |     AVX2:    four of 4 x 1, 8 of 16 registers (a vector is two).
    a[1][t] ->          |  += a*b  |  += a*b  |     NEON:    four of 4 x 1, 16 of 32 registers (a vector is four).
      ...               |          |          |     SSE:     eight of 2 x 1, 8 of 16 registers.
    a[7][t] ->          |  += a*b  |  += a*b  |

The other half of the registers holds b, the repeated number of a, and what LLVM needs to load ahead.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from backends.numba_kernels.vectors.intrinsics import kernel
from backends.numba_kernels.vectors.lanes import BYTES, WIDTH, Lanes, Memory, const, loop, zeros
from backends.numba_kernels.vectors.processor import REGISTERS, Registers

ROWS, HALF_ROWS = 8, 4
PANEL = 2 * WIDTH
PANEL_BYTES = 2 * BYTES


def sums_for(registers: Registers) -> int:
    """Vectors of 16 lanes that are summed together: what half of the registers hold."""
    return max(1, registers.number * registers.lanes // (2 * WIDTH))


SUMS = sums_for(REGISTERS)


class Block(NamedTuple):
    """Rows and sides of a panel (0: its first vector, 1: its second) whose sums are in registers together."""

    rows: range
    sides: range

    def start(self, value: Callable[[int, int], Lanes]) -> list[Lanes]:
        """The sums at their beginning, `value(row, side)`, in the order of `places`."""
        return [value(r, side) for r, side in self.places()]

    def places(self) -> Iterator[tuple[int, int]]:
        """(row, side) of each sum."""
        return ((r, side) for r in self.rows for side in self.sides)

    def add(self, sums: list[Lanes], left: Callable[[int], Lanes], right: Callable[[int], Lanes]) -> list[Lanes]:
        """The sums plus left(row) * right(side): one step of the inner dimension.

        A left value is read just before its use, so that few of them are held.
        """
        vectors = [right(side) for side in self.sides]
        result: list[Lanes] = []
        for r in self.rows:
            value = left(r)
            result += [value * vector + sums[len(result) + v] for v, vector in enumerate(vectors)]
        return result


def blocks(rows: int, sides: int = 2) -> list[Block]:
    """The pieces that `rows` x `sides` sums are cut into, about as high as there is room, all rows of a side first."""
    width = min(sides, 2 if SUMS >= 2 * ROWS else 1)
    # Rounded, and a half up: 3 x 1 sums of 9 x 1 would not leave SSE enough registers for the rest
    pieces = max(1, (2 * rows * width + SUMS) // (2 * SUMS))
    height = -(-rows // pieces)
    return [
        Block(range(row, min(row + height, rows)), range(side, min(side + width, sides)))
        for side in range(0, sides, width)
        for row in range(0, rows, height)
    ]


def in_blocks(
    builder: Any, rows: int, run: Callable[[Block], None], sides: int = 2, count: Any = None, has_high: Any = None
) -> None:
    """Emits run(block) for each of the `blocks`.

    count: rows that are there (i64): blocks past them are passed over. has_high: 0 (i64) where the panel has only its
    first vector: blocks of its second alone are passed over. A block across both is run in any case.
    """
    for block in blocks(rows, sides):
        needed = []
        if count is not None and block.rows.start > 0:
            needed.append(builder.icmp_signed("<", const(block.rows.start), count))
        if has_high is not None and block.sides.start > 0:
            needed.append(builder.icmp_signed("!=", has_high, const(0)))
        if not needed:
            run(block)
            continue
        with builder.if_then(needed[0] if len(needed) == 1 else builder.and_(*needed), likely=True):
            run(block)


@kernel
def gemm_rows(builder, a, chunk_bytes, b, chunks, out, accumulate):
    """out[8][32] = sum over c of a[c // 16][row][c % 16] * b[c][32], the chunks of a being `chunk_bytes` apart, plus
    what is there if `accumulate` is not 0."""
    _rows(builder, ROWS, a, chunk_bytes, b, chunks, out, accumulate)


@kernel
def gemm_half_rows(builder, a, chunk_bytes, b, chunks, out, accumulate):
    """The first four rows of `gemm_rows`."""
    _rows(builder, HALF_ROWS, a, chunk_bytes, b, chunks, out, accumulate)


def _rows(builder, count, a, chunk_bytes, b, chunks, out, accumulate):
    a, b, out = (Memory(builder, m) for m in (a, b, out))

    def run(block):
        def chunk(i, sums):
            ai, bi = a.offset(builder.mul(i, chunk_bytes)), b.offset(builder.mul(i, const(WIDTH * PANEL_BYTES)))

            def four(j, sums):
                aj, bj = ai.offset(builder.mul(j, const(4 * 4))), bi.offset(builder.mul(j, const(4 * PANEL_BYTES)))
                for c in range(4):
                    sums = block.add(
                        sums,
                        lambda r: aj.broadcast(r * BYTES + 4 * c),
                        lambda side: bj.load(c * PANEL_BYTES + side * BYTES),
                    )
                return sums

            return loop(builder, const(WIDTH // 4), sums, four)

        _store(
            builder, block, loop(builder, chunks, block.start(lambda r, side: zeros(builder)), chunk), out, accumulate
        )

    in_blocks(builder, count, run)


@kernel
def gemm_columns(builder, a, low, high, quads, out, accumulate):
    """out[8][32] = sum over t < 4 * quads of a[t][8] times (low[t][16], high[t][16]), plus what is there if
    `accumulate` is not 0; rows of all three are 64 bytes apart."""
    a, low, high, out = (Memory(builder, m) for m in (a, low, high, out))

    def run(block):
        def four(i, sums):
            step = builder.mul(i, const(4 * BYTES))
            ai, right = a.offset(step), {side: (low, high)[side].offset(step) for side in block.sides}
            for t in range(4):
                sums = block.add(
                    sums, lambda r: ai.broadcast(t * BYTES + 4 * r), lambda side: right[side].load(t * BYTES)
                )
            return sums

        _store(builder, block, loop(builder, quads, block.start(lambda r, side: zeros(builder)), four), out, accumulate)

    in_blocks(builder, ROWS, run)


def _store(builder, block, sums, out, accumulate):
    """Write the sums to rows of a panel each, or add them to what is there."""
    places = [r * PANEL_BYTES + side * BYTES for r, side in block.places()]
    with builder.if_else(builder.icmp_signed("!=", accumulate, const(0))) as (added, alone):
        with added:
            for value, place in zip(sums, places):
                out.store(out.load(place) + value, place)
        with alone:
            for value, place in zip(sums, places):
                out.store(value, place)
