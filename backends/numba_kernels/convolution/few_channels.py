"""3x3 convolutions, stride 1, padding 1, with few channels on one side: a U-Net's first and last layer.

One side is `wide` (channels in multiples of 16, read and written as vectors), the other `narrow` (1 to 15
channels, one scalar at a time, or copied with a border of zeros). Winograd's transforms would cost more here
than they save.

    spread   wide = conv(narrow):  first layer forward, last layer's input gradient
    gather   narrow = conv(wide):  last layer forward, first layer's input gradient
    outer    dw of either: sum over pixels of wide times the nine neighbours of narrow

Sums in registers: spread has 8 pixels × 32 outputs, as every product (`gemm`); outer 9 taps × 32, since each pixel of
wide meets nine neighbours; gather 4 pixels of one narrow channel, whose 16 lanes are added at the end, so that a row of
6 pixels of wide, read once, serves 4 × 3 products and the three weights of a row stay in registers with them.

Packed for that: narrow with a border of zeros, (N, H + 2, W + 2, narrow); for spread the weights in panels,
(K/32, 9 narrow, 32); for gather one filter for each narrow channel, (narrow, K/16, 9, 16).
"""

from numba import carray

from backends.numba_kernels import copying, elementwise
from backends.numba_kernels.matmul import in_panels
from backends.numba_kernels.padding import BLANK
from backends.numba_kernels.runtime.addresses import address
from backends.numba_kernels.runtime.launch import PlanType, worker
from backends.numba_kernels.runtime.layouts import Layout, Rows
from backends.numba_kernels.runtime.pool import POOL
from backends.numba_kernels.vectors.gemm import PANEL, PANEL_BYTES, ROWS, in_blocks
from backends.numba_kernels.vectors.intrinsics import kernel
from backends.numba_kernels.vectors.lanes import (
    BYTES,
    FLOAT,
    FLOAT_BYTES,
    WIDTH,
    Memory,
    const,
    llvm_call,
    loop,
    zeros,
)
from backends.numba_kernels.vectors.rows import add_rows, set_zero, store_block
from backends.thread_count import threads

TAPS = 9
# Pixels side by side that `gather` works on
GATHERED = 4
GEOMETRY = "narrow narrow_channels wide k N H W parts"
SPREAD = PlanType(f"{GEOMETRY} row_bytes w panel_bytes shift shift_bytes", optional="residual")
GATHER = PlanType(f"{GEOMETRY} w filter_bytes blank")
OUTER = PlanType(f"{GEOMETRY} row_bytes scratch part_bytes taps_at taps_bytes total_at")


def outer_layout(narrow_channels, outputs):
    """The sums of one part, rows of K rounded up to whole panels: for each tap (narrow, K), then (K,) the sum of wide.

    Rows follow one another without a gap, as the parts do: they are summed as one array.
    """
    row = -(-outputs // PANEL) * PANEL_BYTES
    return Layout(taps=Rows(TAPS, narrow_channels * row, 0), total=row)


@kernel
def spread_pixels(
    builder, narrow, row_bytes, scalars, pixel_bytes, w, out, out_bytes, count, has_high, shift, residual
):
    """out[:count] = shift + sum over 3 rows of `scalars` scalars times w[3][scalars][32], for 8 pixels side
    by side."""
    narrow, w, shift, out = (Memory(builder, m) for m in (narrow, w, shift, out))
    high = builder.select(builder.icmp_signed("!=", has_high, const(0)), const(BYTES), const(0))

    def run(block):
        def row(i, sums):
            line = narrow.offset(builder.mul(i, row_bytes))
            taps = w.offset(builder.mul(builder.mul(i, scalars), const(PANEL_BYTES)))

            def one(c, sums):
                place, tap = line.offset(builder.mul(c, const(4))), taps.offset(builder.mul(c, const(PANEL_BYTES)))
                return block.add(
                    sums,
                    lambda p: place.offset(builder.mul(pixel_bytes, const(p))).broadcast(),
                    lambda side: tap.load(side * BYTES),
                )

            return loop(builder, scalars, sums, one)

        start = block.start(lambda p, side: shift.offset(high).load() if side else shift.load())
        store_block(builder, block, loop(builder, const(3), start, row), out, out_bytes, count, high, residual)

    in_blocks(builder, ROWS, run, count=count, has_high=has_high)


@kernel
def gather_pixels(builder, wide, i, j, height, width, row_bytes, col_bytes, chunks, w, out, out_bytes, count, blank):
    """out[:count] += the sum over 3x3 taps and channels of wide * w[chunks][9][16], for 4 pixels side by
    side.

    (i, j) is the first pixel's position and `wide` its address.
    """
    rows = [builder.icmp_unsigned("<", builder.add(i, const(a - 1)), height) for a in range(3)]
    cols = [builder.icmp_unsigned("<", builder.add(j, const(b - 1)), width) for b in range(6)]

    def chunk(c, acc):
        acc, base = list(acc), builder.add(wide, builder.mul(c, const(BYTES)))
        taps = Memory(builder, w).offset(builder.mul(c, const(9 * BYTES)))
        for a in range(3):
            weights = [taps.load((3 * a + b) * BYTES) for b in range(3)]
            for b in range(6):
                place = builder.add(builder.mul(const(a - 1), row_bytes), builder.mul(const(b - 1), col_bytes))
                inside = builder.and_(rows[a], cols[b])
                pixel = Memory(builder, builder.select(inside, builder.add(base, place), blank)).load()
                for p in range(max(0, b - 2), min(4, b + 1)):
                    acc[p] = pixel * weights[b - p] + acc[p]
        return acc

    acc = loop(builder, chunks, [zeros(builder)] * 4, chunk)
    name = "llvm.vector.reduce.fadd.v16f32"
    for p in range(4):
        with builder.if_then(builder.icmp_signed("<", const(p), count), likely=True):
            place = Memory(builder, out).offset(builder.mul(out_bytes, const(p)))
            pointer = builder.bitcast(place.pointer, FLOAT.as_pointer())
            result = llvm_call(builder, name, FLOAT, place.scalar(), acc[p].value, fastmath=("reassoc",))
            builder.store(result, pointer, align=4)


@kernel
def outer_pixels(builder, narrow, row_bytes, pixel_bytes, wide, wide_bytes, has_high, count, out, tap_bytes):
    """out[9][32] (rows `tap_bytes` apart) += the sum over pixels of narrow's nine neighbours times
    wide[32]."""
    high = builder.select(builder.icmp_signed("!=", has_high, const(0)), const(BYTES), const(0))
    narrow, wide, out = Memory(builder, narrow), Memory(builder, wide), Memory(builder, out)

    def run(block):
        def pixel(p, sums):
            place, at = wide.offset(builder.mul(p, wide_bytes)), narrow.offset(builder.mul(p, pixel_bytes))

            def neighbour(tap):
                row, column = (
                    builder.mul(bytes_, const(n)) for bytes_, n in zip((row_bytes, pixel_bytes), divmod(tap, 3))
                )
                return at.offset(row).offset(column).broadcast()

            return block.add(sums, neighbour, lambda side: place.offset(high).load() if side else place.load())

        sums = loop(builder, count, block.start(lambda tap, side: zeros(builder)), pixel)
        for value, (tap, side) in zip(sums, block.places()):
            place = out.offset(builder.mul(tap_bytes, const(tap))).offset(side * BYTES)
            place.store(place.load() + value)

    in_blocks(builder, TAPS, run)


@worker(SPREAD)
def spread_worker(part, plans):
    """wide = conv(narrow) + shift + residual, for one thread's rows.

    narrow: N × (H + 2) × (W + 2) × narrow_channels float32, with a border; w: K/32 × 9 narrow_channels × 32; wide,
    residual: N × H × W × K; shift: K, or N × K with shift_bytes between images.
    """
    plan = carray(plans, 1)[0]
    rows, pixel_bytes = plan.N * plan.H, plan.narrow_channels * 4
    for row in range(rows * part // plan.parts, rows * (part + 1) // plan.parts):
        n, i = divmod(row, plan.H)
        line = plan.narrow + (n * (plan.H + 2) + i) * plan.row_bytes
        for j in range(0, plan.W, ROWS):
            for k in range(0, plan.k, PANEL):
                at = ((row * plan.W + j) * plan.k + k) * 4
                spread_pixels(
                    line + j * pixel_bytes,
                    plan.row_bytes,
                    3 * plan.narrow_channels,
                    pixel_bytes,
                    plan.w + k // PANEL * plan.panel_bytes,
                    plan.wide + at,
                    plan.k * 4,
                    plan.W - j,
                    1 if k + WIDTH < plan.k else 0,
                    plan.shift + n * plan.shift_bytes + k * 4,
                    plan.residual + at if plan.residual != 0 else 0,
                )


@worker(GATHER)
def gather_worker(part, plans):
    """narrow += conv(wide), for one thread's rows; narrow holds the shift.

    wide: N × H × W × K float32; narrow: N × H × W × narrow_channels; w: narrow_channels × K/16 × 9 × 16.
    """
    plan = carray(plans, 1)[0]
    rows = plan.N * plan.H
    for row in range(rows * part // plan.parts, rows * (part + 1) // plan.parts):
        i = row % plan.H
        for j in range(0, plan.W, GATHERED):
            pixel = row * plan.W + j
            for s in range(plan.narrow_channels):
                gather_pixels(
                    plan.wide + pixel * plan.k * 4,
                    i,
                    j,
                    plan.H,
                    plan.W,
                    plan.W * plan.k * 4,
                    plan.k * 4,
                    plan.k // WIDTH,
                    plan.w + s * plan.filter_bytes,
                    plan.narrow + (pixel * plan.narrow_channels + s) * 4,
                    plan.narrow_channels * 4,
                    plan.W - j,
                    plan.blank,
                )


@worker(OUTER)
def outer_worker(part, plans):
    """The sums of one thread's rows of pixels: wide times the nine neighbours of narrow, and wide.

    narrow: N × (H + 2) × (W + 2) × narrow_channels float32, with a border; wide: N × H × W × K; a part's scratch: taps
    9 × narrow_channels × K, total K, K rounded up to 32.
    """
    plan = carray(plans, 1)[0]
    panels, rows, pixel_bytes = (plan.k + PANEL - 1) // PANEL, plan.N * plan.H, plan.narrow_channels * 4
    taps = plan.scratch + part * plan.part_bytes + plan.taps_at
    total = plan.scratch + part * plan.part_bytes + plan.total_at
    for tap in range(TAPS):
        set_zero(taps + tap * plan.taps_bytes, plan.narrow_channels * panels * 2)
    set_zero(total, panels * 2)
    for row in range(rows * part // plan.parts, rows * (part + 1) // plan.parts):
        n, i = divmod(row, plan.H)
        line = plan.narrow + (n * (plan.H + 2) + i) * plan.row_bytes
        for k in range(0, plan.k, PANEL):
            wide, has_high = plan.wide + (row * plan.W * plan.k + k) * 4, 1 if k + WIDTH < plan.k else 0
            for s in range(plan.narrow_channels):
                out = taps + s * panels * PANEL_BYTES + k * 4
                outer_pixels(
                    line + s * 4, plan.row_bytes, pixel_bytes, wide, plan.k * 4, has_high, plan.W, out, plan.taps_bytes
                )
            for half in range(1 + has_high):
                add_rows(total + k * 4 + half * BYTES, wide + half * BYTES, plan.W, plan.k * 4)


def bordered(narrow):
    """A copy with a border of one zero pixel, and eight spare pixels that a group of eight may read at the end."""
    n, h, w, s = narrow.shape
    memory = POOL.empty((n * (h + 2) * (w + 2) * s + ROWS * s,))
    copy = memory[: n * (h + 2) * (w + 2) * s].reshape(n, h + 2, w + 2, s)
    copying.fill(copy[:, :: h + 1], 0)
    copying.fill(copy[:, :, :: w + 1], 0)
    copying.copy(narrow, copy[:, 1:-1, 1:-1])
    return copy


def geometry(narrow, wide):
    """Fields that all plans share."""
    n, h, w, s = narrow.shape
    return dict(narrow_channels=s, wide=address(wide), k=wide.shape[3], N=n, H=h, W=w, parts=threads())


def spread(narrow, taps, wide, shift, residual):
    """wide = conv(narrow) + shift + residual. taps: (3, 3, s, K)."""
    source, w = bordered(narrow), in_panels(taps.reshape(-1, taps.shape[3]))
    plan = spread_worker.plan(
        **geometry(narrow, wide),
        narrow=address(source),
        row_bytes=source.strides[1],
        w=address(w),
        panel_bytes=w.strides[0],
        shift=address(BLANK if shift is None else shift),
        shift_bytes=0 if shift is None or shift.ndim == 1 else shift.strides[0],
        residual=address(residual),
    )
    spread_worker.run(threads(), plan)


def gather(wide, taps, narrow, shift, residual):
    """narrow = conv(wide) + shift + residual. taps: (3, 3, K, s)."""
    k, s = wide.shape[3], narrow.shape[3]
    # A filter for each narrow channel: (s, K/16, 9, 16)
    w = POOL.empty((s, k // WIDTH, TAPS, WIDTH))
    copying.copy(taps.reshape(TAPS, k // WIDTH, WIDTH, s).transpose(3, 1, 0, 2), w)
    starts = [a for a in (residual, None if shift is None else shift.reshape(-1, 1, 1, s)) if a is not None]
    if not starts:
        copying.fill(narrow, 0)
    for i, start in enumerate(starts):
        copying.copy(start, narrow, add=i > 0)
    plan = gather_worker.plan(
        **geometry(narrow, wide), narrow=address(narrow), w=address(w), filter_bytes=w.strides[0], blank=address(BLANK)
    )
    gather_worker.run(threads(), plan)


def outer(narrow, wide):
    """(9, s, K) sums over pixels of narrow's neighbours times wide, and (K,) the sum of wide."""
    s, k, parts = narrow.shape[3], wide.shape[3], threads()
    source, layout = bordered(narrow), outer_layout(s, k)
    sums = POOL.empty(layout.floats(parts)).reshape(1, parts, -1)
    plan = outer_worker.plan(
        **geometry(narrow, wide), narrow=address(source), row_bytes=source.strides[1],
        scratch=address(sums), part_bytes=layout.bytes, **layout.fields,
    )  # fmt: skip
    outer_worker.run(parts, plan)
    summed = POOL.empty((1, layout.bytes // FLOAT_BYTES))
    elementwise.sum_pixels(sums, summed)
    rows, first = TAPS * layout.fields["taps_bytes"] // FLOAT_BYTES, layout.fields["total_at"] // FLOAT_BYTES
    return summed[0, :rows].reshape(TAPS, s, -1)[..., :k], summed[0, first : first + k]


def forward(x, w, y, shift=None, residual=None):
    """y = conv(x, w) + shift + residual; one of Cin, Cout is a multiple of 16, the other any small number.

    x: (N, H, W, Cin), w: (3, 3, Cin, Cout), y, residual: (N, H, W, Cout), shift: (Cout,) or (N, Cout).
    """
    (spread if w.shape[3] % WIDTH == 0 else gather)(x, w, y, shift, residual)


def input_gradient(dy, w, dx):
    """dx of `forward`: the convolution of dy with the filters turned by 180 degrees."""
    turned = POOL.empty((3, 3, w.shape[3], w.shape[2]))
    copying.copy(w[::-1, ::-1].transpose(0, 1, 3, 2), turned)
    forward(dy, turned, dx)


def weight_gradient(x, dy, dw, db):
    """dw (3, 3, Cin, Cout) and db (Cout,) of `forward`."""
    if dy.shape[3] % WIDTH == 0:
        taps, total = outer(x, dy)
        copying.copy(total, db)
        copying.copy(taps, dw.reshape(taps.shape))
    else:
        taps, _ = outer(dy, x)
        # The taps turned by 180 degrees, and the narrow side's channels last
        copying.copy(taps[::-1].transpose(0, 2, 1), dw.reshape(TAPS, *dw.shape[2:]))
        images = POOL.empty((dy.shape[0], dy.shape[3]))
        elementwise.sum_pixels(dy, images)
        elementwise.sum_pixels(images[None], db[None])
