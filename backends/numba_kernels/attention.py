"""Multi-head attention, 32 queries of one image and head at a time: nothing of size L x M is kept.

Queries are the lanes of the vectors: with q transposed, a block's scores are (M, 32), so that maximum, sum and
normalisation run down columns, and each number of k and v is read once for 32 queries. Backward
recomputes the weights from the log-sum-exp (Dao et al. 2022, algorithm 4). Any sizes and strides do, as long as
channels are contiguous.

A block, d being the width of a head rounded up to whole vectors and M the keys:

    rows (32, d) ── transpose ─► columns (d, 32)
    k (M, d) · columns ────────► scores (M, 32) ── softmax ─► weights, and lse (32,)
    vᵀ (d, M) · scores ────────► columns (d, 32) / sum ── transpose ─► rows (32, d) ─► y

and backward, from dy (32, d) and q (32, d), both also as columns:

    k · q, v · dy ─► scores, slopes (M, 32) ── through_softmax ─► weights p, ds
    p · dy ─► dv (M, d)     ds · q ─► dk (M, d)     kᵀ · ds ─► columns (d, 32) ─► dq

Not done, and why: k and v are copied to rows of whole vectors for each image and head, which a kernel for heads of
16, 32, … channels could spare; it copies 2 M d numbers, beside 2 L M d multiply-adds. All keys of a
head are scored before the softmax, not block by block as in Dao et al.: 32 rows of scores of some thousand keys
still fit the second cache, and the images of a DDPM have no more pixels.
"""

import math

from llvmlite import ir
from numba import carray

from backends.array import Array
from backends.numba_kernels.runtime.addresses import address, call6, call11, constants
from backends.numba_kernels.runtime.launch import PlanType, Worker, c_function, worker
from backends.numba_kernels.runtime.layouts import Layout
from backends.numba_kernels.runtime.pool import POOL
from backends.numba_kernels.vectors.fast_math import exp
from backends.numba_kernels.vectors.gemm import ROWS, in_blocks
from backends.numba_kernels.vectors.intrinsics import kernel
from backends.numba_kernels.vectors.lanes import (
    BYTES,
    FLOAT_BYTES,
    INTS,
    VECTOR,
    WIDTH,
    Lanes,
    MaskedMemory,
    Memory,
    const,
    loop,
    zeros,
)
from backends.thread_count import threads

QUERIES = 32
STEP = 4 * QUERIES  # bytes from one row of 32 queries to the next

# For each array its address, and the bytes from image to image (_n) and from row to row (_l). y: dy in backward;
# factors: 1 and 1/sqrt(width); multiply, transpose: addresses of functions
COMMON = (
    "q q_n_bytes q_l_bytes k k_n_bytes k_l_bytes v v_n_bytes v_l_bytes y y_n_bytes y_l_bytes lse factors images heads"
    " width queries keys parts multiply transpose scratch part_bytes columns_at scores_at lse_at k_at v_at"
)
FORWARD = PlanType(f"{COMMON} rows_at inverse_at")
BACKWARD = PlanType(
    f"{COMMON} dq dq_n_bytes dq_l_bytes dk dk_n_bytes dk_l_bytes dv dv_n_bytes dv_l_bytes"
    " q_at dy_at slopes_at dk_at dv_at"
)


def padded(width):
    """The channels of a head in whole vectors."""
    return -(-width // WIDTH) * WIDTH


def forward_layout(width, keys):
    """The scratch of one part, for heads of `width` channels: a block of 32 queries as rows and as columns, their
    scores, and the keys and values of one image and head, rows next to each other."""
    block, table = padded(width) * STEP, keys * padded(width) * FLOAT_BYTES
    return Layout(rows=block, columns=block, scores=keys * STEP, lse=STEP, inverse=STEP, k=table, v=table)


def backward_layout(width, keys):
    """The scratch of one part: as `forward_layout`, with gradients; q is scaled."""
    block, table = padded(width) * STEP, keys * padded(width) * FLOAT_BYTES
    scores = keys * STEP
    return Layout(
        q=block, dy=block, columns=block, lse=STEP, scores=scores, slopes=scores, dk=table, dv=table, k=table, v=table
    )


def tile(rows, vectors):
    """The kernel of `rows` rows and `vectors` vectors of a product.

    out[rows][16 vectors] = (out if add) + sum over t < depth of a[row][t] b[t][16 vectors].
    """

    def emit(builder, a, a_row_bytes, a_bytes, b, b_bytes, depth, out, out_bytes, add):
        lefts = [Memory(builder, a).offset(builder.mul(a_row_bytes, const(r))) for r in range(rows)]
        right, target = Memory(builder, b), Memory(builder, out)

        def run(block):
            def one(t, sums):
                a_t, b_t = builder.mul(t, a_bytes), right.offset(builder.mul(t, b_bytes))
                return block.add(sums, lambda r: lefts[r].offset(a_t).broadcast(), lambda side: b_t.load(BYTES * side))

            sums = loop(builder, depth, block.start(lambda r, side: zeros(builder)), one)
            places = [
                target.offset(builder.mul(out_bytes, const(r))).offset(BYTES * side) for r, side in block.places()
            ]
            with builder.if_else(builder.icmp_signed("!=", add, const(0))) as (then, otherwise):
                with then:
                    for place, value in zip(places, sums):
                        place.store(place.load() + value)
                with otherwise:
                    for place, value in zip(places, sums):
                        place.store(value)

        in_blocks(builder, rows, run, sides=vectors)

    emit.__name__ = f"tile_{rows}x{vectors}"
    return kernel(emit)


tile_8x2, tile_1x2, tile_8x1, tile_1x1 = tile(ROWS, 2), tile(1, 2), tile(ROWS, 1), tile(1, 1)


@c_function
def multiply(a, a_row_bytes, a_bytes, b, b_bytes, depth, out, out_bytes, rows, vectors, add):
    """out[rows][16 vectors] = (out if add) + a b; a (rows, depth), a_row_bytes from row to row and a_bytes along a row;
    b (depth, 16 vectors) and out with rows b_bytes and out_bytes apart."""
    whole = rows // ROWS * ROWS
    for i in range(0, vectors, 2):
        bi, has_high = b + i * BYTES, i + 1 < vectors
        for r in range(0, whole, ROWS):
            ar, place = a + r * a_row_bytes, out + r * out_bytes + i * BYTES
            if has_high:
                tile_8x2(ar, a_row_bytes, a_bytes, bi, b_bytes, depth, place, out_bytes, add)
            else:
                tile_8x1(ar, a_row_bytes, a_bytes, bi, b_bytes, depth, place, out_bytes, add)
        for r in range(whole, rows):
            ar, place = a + r * a_row_bytes, out + r * out_bytes + i * BYTES
            if has_high:
                tile_1x2(ar, a_row_bytes, a_bytes, bi, b_bytes, depth, place, out_bytes, add)
            else:
                tile_1x1(ar, a_row_bytes, a_bytes, bi, b_bytes, depth, place, out_bytes, add)


@kernel
def copy(builder, source, source_bytes, target, target_bytes, rows, width, factor):
    """target[rows][width] = factor[0] source[rows][width]; the last vector of a row is masked, not padded."""
    scale = Memory(builder, factor).broadcast()

    def row(r, _):
        def vector(i, _):
            left = builder.sub(width, builder.mul(i, const(WIDTH)))
            a, b = (
                MaskedMemory(builder, m, left).offset(builder.mul(r, row_bytes)).offset(builder.mul(i, const(BYTES)))
                for m, row_bytes in ((source, source_bytes), (target, target_bytes))
            )
            b.store(a.load() * scale)
            return []

        loop(builder, builder.sdiv(builder.add(width, const(WIDTH - 1)), const(WIDTH)), [], vector)
        return []

    loop(builder, rows, [], row)


@kernel
def transpose_tile(builder, source, source_bytes, target, target_bytes):
    """target[j][i] = source[i][j], both 16 x 16: blocks of 8, 4, 2, then 1 change places across the diagonal."""
    source, target = Memory(builder, source), Memory(builder, target)
    rows = [source.offset(builder.mul(source_bytes, const(r))).load().value for r in range(WIDTH)]
    for size in (8, 4, 2, 1):
        upper = [j if not j & size else WIDTH + j - size for j in range(WIDTH)]
        lower = [j + size if not j & size else WIDTH + j for j in range(WIDTH)]
        for r in range(WIDTH):
            if not r & size:
                a, b = rows[r], rows[r + size]
                rows[r] = builder.shuffle_vector(a, b, ir.Constant(INTS, upper))
                rows[r + size] = builder.shuffle_vector(a, b, ir.Constant(INTS, lower))
    for r, row in enumerate(rows):
        target.offset(builder.mul(target_bytes, const(r))).store(Lanes(builder, row))


@c_function
def transpose(source, source_bytes, target, target_bytes, rows, columns):
    """target[columns][rows] = source[rows][columns]^T, both multiples of 16."""
    for r in range(0, rows, WIDTH):
        for c in range(0, columns, WIDTH):
            transpose_tile(
                source + r * source_bytes + c * 4, source_bytes, target + c * target_bytes + r * 4, target_bytes
            )


def weight(score, shift):
    """e^(score - shift); `exp` limits its argument and so would lose a NaN."""
    builder, z = score.builder, score - shift
    return Lanes(builder, builder.select(builder.fcmp_unordered("uno", z.value, z.value), z.value, exp(z).value))


def log(x):
    """ln x for Lanes, x >= 1, to the precision of `exp`.

    The bits of x = 2^e (1 + f), read as a whole number and divided by 2^23, are e + f + 127, and f is within 0 … 0.0861
    below log2(1 + f): less 127 - 0.043 = 126.957 they are log2 x to 0.043, so y begins within 0.030 of ln x. Halley's
    iteration for e^y = x, y + 2 (x - e^y) / (x + e^y), takes an error d to d^3 / 12: 2.2e-6, then nothing that counts.
    """
    builder = x.builder
    bits = Lanes(builder, builder.sitofp(builder.bitcast(x.value, INTS), VECTOR))
    y = bits * (math.log(2) / 2**23) - 126.957 * math.log(2)
    for _ in range(2):
        e = exp(y)
        y = y + 2.0 * ((x - e) / (x + e))
    return y


def load_both(memory):
    """32 queries, as two vectors."""
    return [memory.load(), memory.load(BYTES)]


@kernel
def softmax(builder, scores, keys, lse, inverse):
    """scores[keys][32] become e^(score - maximum); their log-sum-exp and 1 / sum go to lse[32] and inverse[32]."""
    scores, lse, inverse = Memory(builder, scores), Memory(builder, lse), Memory(builder, inverse)

    def larger(j, top):
        row = load_both(scores.offset(builder.mul(j, const(STEP))))
        return [
            Lanes(builder, builder.select(builder.fcmp_ordered(">", s.value, t.value), s.value, t.value))
            for s, t in zip(row, top, strict=True)
        ]

    top = loop(builder, keys, load_both(scores), larger)

    def add_up(j, total):
        place = scores.offset(builder.mul(j, const(STEP)))
        result = []
        for half in range(2):
            e = weight(place.load(half * BYTES), top[half])
            place.store(e, half * BYTES)
            result.append(total[half] + e)
        return result

    for half, total in enumerate(loop(builder, keys, [zeros(builder)] * 2, add_up)):
        lse.store(top[half] + log(total), half * BYTES)
        inverse.store(Lanes(builder, ir.Constant(VECTOR, [1.0] * WIDTH)) / total, half * BYTES)


@kernel
def scale_columns(builder, a, rows, factor):
    """a[rows][32] *= factor[32]."""
    factors = load_both(Memory(builder, factor))

    def one(r, _):
        place = Memory(builder, a).offset(builder.mul(r, const(STEP)))
        for half in range(2):
            place.store(place.load(half * BYTES) * factors[half], half * BYTES)
        return []

    loop(builder, rows, [], one)


@kernel
def through_softmax(builder, scores, slopes, keys, lse):
    """scores[keys][32] become the weights p, slopes[keys][32], which hold dp, become ds = p (dp - sum of dp p)."""
    scores, slopes = Memory(builder, scores), Memory(builder, slopes)
    shift = load_both(Memory(builder, lse))

    def add_up(j, total):
        at = builder.mul(j, const(STEP))
        place, slope = scores.offset(at), load_both(slopes.offset(at))
        result = []
        for half in range(2):
            p = weight(place.load(half * BYTES), shift[half])
            place.store(p, half * BYTES)
            result.append(p * slope[half] + total[half])
        return result

    total = loop(builder, keys, [zeros(builder)] * 2, add_up)

    def subtract(j, _):
        at = builder.mul(j, const(STEP))
        place, p = slopes.offset(at), load_both(scores.offset(at))
        for half in range(2):
            place.store(p[half] * (place.load(half * BYTES) - total[half]), half * BYTES)
        return []

    loop(builder, keys, [], subtract)


@worker(FORWARD)
def forward_worker(part, plans):
    """y and lse for one part's blocks of queries.

    q, y: N × L × C float32; k, v: N × M × C; lse: N × heads × L. Address of image n, row l, head h =
    plan.q + n·q_n_bytes + l·q_l_bytes + h·width·4.
    """
    plan = carray(plans, 1)[0]
    d, keys = plan.width, plan.keys
    padded = (d + WIDTH - 1) // WIDTH * WIDTH
    one, scale = plan.factors, plan.factors + 4
    scratch = plan.scratch + part * plan.part_bytes
    rows, columns, scores = scratch + plan.rows_at, scratch + plan.columns_at, scratch + plan.scores_at
    lse, inverse, k, v = scratch + plan.lse_at, scratch + plan.inverse_at, scratch + plan.k_at, scratch + plan.v_at
    packed = -1
    blocks = (plan.queries + QUERIES - 1) // QUERIES
    tasks = plan.images * plan.heads * blocks
    for task in range(tasks * part // plan.parts, tasks * (part + 1) // plan.parts):
        item, i = task // blocks, task % blocks * QUERIES
        n, c = item // plan.heads, item % plan.heads * d * 4
        count = min(QUERIES, plan.queries - i)
        if item != packed:
            copy(plan.k + n * plan.k_n_bytes + c, plan.k_l_bytes, k, padded * 4, keys, d, one)
            copy(plan.v + n * plan.v_n_bytes + c, plan.v_l_bytes, v, padded * 4, keys, d, one)
            packed = item
        copy(plan.q + n * plan.q_n_bytes + i * plan.q_l_bytes + c, plan.q_l_bytes, rows, padded * 4, count, d, scale)
        call6(plan.transpose, rows, padded * 4, columns, STEP, QUERIES, padded)
        call11(plan.multiply, k, padded * 4, 4, columns, STEP, d, scores, STEP, keys, 2, 0)
        softmax(scores, keys, lse, inverse)
        call11(plan.multiply, v, 4, padded * 4, scores, STEP, keys, columns, STEP, d, 2, 0)
        scale_columns(columns, d, inverse)
        call6(plan.transpose, columns, STEP, rows, padded * 4, padded, QUERIES)
        copy(rows, padded * 4, plan.y + n * plan.y_n_bytes + i * plan.y_l_bytes + c, plan.y_l_bytes, count, d, one)
        copy(lse, 0, plan.lse + (item * plan.queries + i) * 4, 0, 1, count, one)


@worker(BACKWARD)
def backward_worker(part, plans):
    """dq, dk and dv for one part's images and heads.

    q, dq, y (dy): N × L × C float32; k, v, dk, dv: N × M × C; lse: N × heads × L. Addresses as in `forward_worker`.
    """
    plan = carray(plans, 1)[0]
    d, keys = plan.width, plan.keys
    vectors = (d + WIDTH - 1) // WIDTH
    padded = vectors * WIDTH
    one, scale = plan.factors, plan.factors + 4
    scratch = plan.scratch + part * plan.part_bytes
    q, dy, columns, lse = scratch + plan.q_at, scratch + plan.dy_at, scratch + plan.columns_at, scratch + plan.lse_at
    scores, slopes, k, v = scratch + plan.scores_at, scratch + plan.slopes_at, scratch + plan.k_at, scratch + plan.v_at
    dk, dv = scratch + plan.dk_at, scratch + plan.dv_at
    tasks = plan.images * plan.heads
    for item in range(tasks * part // plan.parts, tasks * (part + 1) // plan.parts):
        n, c = item // plan.heads, item % plan.heads * d * 4
        copy(plan.k + n * plan.k_n_bytes + c, plan.k_l_bytes, k, padded * 4, keys, d, one)
        copy(plan.v + n * plan.v_n_bytes + c, plan.v_l_bytes, v, padded * 4, keys, d, one)
        for i in range(0, plan.queries, QUERIES):
            count, accumulate = min(QUERIES, plan.queries - i), 1 if i > 0 else 0
            copy(plan.q + n * plan.q_n_bytes + i * plan.q_l_bytes + c, plan.q_l_bytes, q, padded * 4, count, d, scale)
            copy(plan.y + n * plan.y_n_bytes + i * plan.y_l_bytes + c, plan.y_l_bytes, dy, padded * 4, count, d, one)
            copy(plan.lse + (item * plan.queries + i) * 4, 0, lse, 0, 1, count, one)
            call6(plan.transpose, q, padded * 4, columns, STEP, QUERIES, padded)
            call11(plan.multiply, k, padded * 4, 4, columns, STEP, d, scores, STEP, keys, 2, 0)
            call6(plan.transpose, dy, padded * 4, columns, STEP, QUERIES, padded)
            call11(plan.multiply, v, padded * 4, 4, columns, STEP, d, slopes, STEP, keys, 2, 0)
            through_softmax(scores, slopes, keys, lse)
            call11(plan.multiply, scores, STEP, 4, dy, padded * 4, count, dv, padded * 4, keys, vectors, accumulate)
            call11(plan.multiply, slopes, STEP, 4, q, padded * 4, count, dk, padded * 4, keys, vectors, accumulate)
            call11(plan.multiply, k, 4, padded * 4, slopes, STEP, keys, columns, STEP, d, 2, 0)
            call6(plan.transpose, columns, STEP, q, padded * 4, padded, QUERIES)
            copy(
                q, padded * 4, plan.dq + n * plan.dq_n_bytes + i * plan.dq_l_bytes + c, plan.dq_l_bytes, count, d, scale
            )
        copy(dk, padded * 4, plan.dk + n * plan.dk_n_bytes + c, plan.dk_l_bytes, keys, d, one)
        copy(dv, padded * 4, plan.dv + n * plan.dv_n_bytes + c, plan.dv_l_bytes, keys, d, one)


def fields(**arrays: Array) -> dict[str, int]:
    """Address and strides of (N, L, C) arrays, as the plan names them."""
    plan: dict[str, int] = {}
    for name, a in arrays.items():
        plan |= {name: address(a), f"{name}_n_bytes": a.strides[0], f"{name}_l_bytes": a.strides[1]}
    return plan


def run(work: Worker, tasks: int, layout: Layout, arrays: dict[str, int], lse: Array, sizes: tuple[int, ...]) -> None:
    """Run `work` in as many parts as there are threads, each with a scratch of that layout."""
    images, queries, keys, heads, width = sizes
    parts = min(tasks, threads())
    scratch = POOL.empty(layout.floats(parts))
    factors = constants(1.0, width**-0.5)
    plan = work.plan(
        **arrays, lse=address(lse), factors=address(factors), images=images, heads=heads, width=width,
        queries=queries, keys=keys, parts=parts, multiply=multiply.address, transpose=transpose.address,
        scratch=address(scratch), part_bytes=layout.bytes, **layout.fields,
    )  # fmt: skip
    work.run(parts, plan)


def forward(q: Array, k: Array, v: Array, heads: int, y: Array, lse: Array) -> None:
    """y (N, L, C) and lse (N, heads, L) from q (N, L, C) and k, v (N, M, C), all float32; heads divides C.

    The last axis of each is contiguous, lse entirely; lse is the log-sum-exp of the scaled scores.
    """
    (images, queries, channels), keys = q.shape, k.shape[1]
    width = channels // heads
    sizes = images, queries, keys, heads, width
    tasks = images * heads * -(-queries // QUERIES)
    run(forward_worker, tasks, forward_layout(width, keys), fields(q=q, k=k, v=v, y=y), lse, sizes)


def backward(q: Array, k: Array, v: Array, dy: Array, lse: Array, heads: int, dq: Array, dk: Array, dv: Array) -> None:
    """dq, dk, dv of q's, k's and v's shapes from dy and `forward`'s lse; strides as there."""
    (images, queries, channels), keys = q.shape, k.shape[1]
    width = channels // heads
    arrays = fields(q=q, k=k, v=v, y=dy, dq=dq, dk=dk, dv=dv)
    run(
        backward_worker,
        images * heads,
        backward_layout(width, keys),
        arrays,
        lse,
        (images, queries, keys, heads, width),
    )
