"""3x3 convolutions, stride 1, padding 1, with few channels on one side: a U-Net's first and last layer.

One side is `wide` (channels in multiples of 16, read and written as vectors), the other `narrow` (1 to 15
channels, one scalar at a time, or copied with a border of zeros). Winograd's transforms would cost more here
than they save.

  spread   wide = conv(narrow):  first layer forward, last layer's input gradient
  gather   narrow = conv(wide):  last layer forward, first layer's input gradient
  outer    dw of either: sum over pixels of wide times the nine neighbours of narrow
"""

from llvmlite import ir
from numba import carray

from backends.numba_kernels import copying, elementwise
from backends.numba_kernels.convolution.winograd import BLANK
from backends.numba_kernels.runtime.addresses import address
from backends.numba_kernels.runtime.launch import plan_type, worker
from backends.numba_kernels.vectors.gemm import PANEL_BYTES, ROWS, in_blocks
from backends.numba_kernels.vectors.intrinsics import kernel
from backends.numba_kernels.vectors.lanes import BYTES, FLOAT, VECTOR, Memory, const, loop, zeros
from backends.numba_kernels.vectors.rows import add_rows, set_zero, store_block
from backends.thread_count import threads

TAPS = 9
PLAN = plan_type("narrow narrow_row s wide k w shift shift_step residual blank N H W parts sums sums_step")


@kernel
def spread_pixels(builder, narrow, row_bytes, scalars, pixel_bytes, w, out, out_bytes, count, both, shift, residual):
    """out[:count] = shift + sum over 3 rows of `scalars` scalars times w[3][scalars][32], for 8 pixels side
    by side."""
    narrow, w, shift, out = (Memory(builder, m) for m in (narrow, w, shift, out))
    high = builder.select(builder.icmp_signed("!=", both, const(0)), const(BYTES), const(0))

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

    in_blocks(builder, ROWS, run, count=count, both=both)


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
    kind = ir.FunctionType(FLOAT, [FLOAT, VECTOR])
    name = "llvm.vector.reduce.fadd.v16f32"
    total = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    for p in range(4):
        with builder.if_then(builder.icmp_signed("<", const(p), count), likely=True):
            place = Memory(builder, out).offset(builder.mul(out_bytes, const(p)))
            pointer = builder.bitcast(place.pointer, FLOAT.as_pointer())
            result = builder.call(total, [place.scalar(), acc[p].value], fastmath=("reassoc",))
            builder.store(result, pointer, align=4)


@kernel
def outer_pixels(builder, narrow, row_bytes, pixel_bytes, wide, wide_bytes, both, count, out, tap_bytes):
    """out[9][32] (rows `tap_bytes` apart) += the sum over pixels of narrow's nine neighbours times
    wide[32]."""
    high = builder.select(builder.icmp_signed("!=", both, const(0)), const(BYTES), const(0))
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


@worker(PLAN)
def spread_worker(part, plans):
    """wide = conv(narrow) + shift + residual, for one thread's rows."""
    plan = carray(plans, 1)[0]
    rows = plan.N * plan.H
    for row in range(rows * part // plan.parts, rows * (part + 1) // plan.parts):
        n, i = divmod(row, plan.H)
        line = plan.narrow + (n * (plan.H + 2) + i) * plan.narrow_row
        for j in range(0, plan.W, 8):
            for k in range(0, plan.k, 32):
                at = ((row * plan.W + j) * plan.k + k) * 4
                spread_pixels(
                    line + j * plan.s * 4,
                    plan.narrow_row,
                    3 * plan.s,
                    plan.s * 4,
                    plan.w + k // 32 * plan.s * 9 * 128,
                    plan.wide + at,
                    plan.k * 4,
                    plan.W - j,
                    1 if k + 16 < plan.k else 0,
                    plan.shift + n * plan.shift_step + k * 4,
                    plan.residual + at if plan.residual != 0 else 0,
                )


@worker(PLAN)
def gather_worker(part, plans):
    """narrow += conv(wide), for one thread's rows; narrow holds the shift."""
    plan = carray(plans, 1)[0]
    rows = plan.N * plan.H
    for row in range(rows * part // plan.parts, rows * (part + 1) // plan.parts):
        i = row % plan.H
        for j in range(0, plan.W, 4):
            pixel = row * plan.W + j
            for s in range(plan.s):
                gather_pixels(
                    plan.wide + pixel * plan.k * 4,
                    i,
                    j,
                    plan.H,
                    plan.W,
                    plan.W * plan.k * 4,
                    plan.k * 4,
                    plan.k // 16,
                    plan.w + s * plan.k * 9 * 4,
                    plan.narrow + (pixel * plan.s + s) * 4,
                    plan.s * 4,
                    plan.W - j,
                    plan.blank,
                )


@worker(PLAN)
def outer_worker(part, plans):
    """sums[part][10][s][K32]: rows 0-8 are the nine taps, row 9 the sum of wide."""
    plan = carray(plans, 1)[0]
    panels, rows = (plan.k + 31) // 32, plan.N * plan.H
    sums = plan.sums + part * plan.sums_step
    set_zero(sums, 10 * plan.s * panels * 2)
    tap_bytes = plan.s * panels * 128
    for row in range(rows * part // plan.parts, rows * (part + 1) // plan.parts):
        n, i = divmod(row, plan.H)
        for k in range(0, plan.k, 32):
            wide, both = plan.wide + (row * plan.W * plan.k + k) * 4, 1 if k + 16 < plan.k else 0
            for s in range(plan.s):
                outer_pixels(
                    plan.narrow + (n * (plan.H + 2) + i) * plan.narrow_row + s * 4,
                    plan.narrow_row,
                    plan.s * 4,
                    wide,
                    plan.k * 4,
                    both,
                    plan.W,
                    sums + s * panels * 128 + k * 4,
                    tap_bytes,
                )
            for half in range(1 + both):
                add_rows(sums + 9 * tap_bytes + k * 4 + half * 64, wide + half * 64, plan.W, plan.k * 4)


def _bordered(narrow, ws):
    """A copy with a border of one zero pixel, and eight spare pixels that a group of eight may touch at the
    end."""
    n, h, w, s = narrow.shape
    memory = ws.get("bordered", (n * (h + 2) * (w + 2) * s + 8 * s,))
    copy = memory[: n * (h + 2) * (w + 2) * s].reshape(n, h + 2, w + 2, s)
    copying.fill(copy[:, :: h + 1], 0)
    copying.fill(copy[:, :, :: w + 1], 0)
    copying.copy(narrow, copy[:, 1:-1, 1:-1])
    return copy


def _spread(narrow, taps, wide, ws, shift, residual):
    """taps: (3, 3, s, K)."""
    n, h, w, s = narrow.shape
    k, parts = wide.shape[3], threads()
    packed = ws.get(("few taps", taps.shape), ((k + 31) // 32, 9 * s, 32))
    whole, taps = k // 32, taps.reshape(9 * s, k)
    copying.copy(taps[:, : whole * 32].reshape(9 * s, whole, 32).transpose(1, 0, 2), packed[:whole])
    if k % 32:
        copying.copy(taps[:, whole * 32 :], packed[whole, :, :16])
    bordered = _bordered(narrow, ws)
    spread_worker.run(
        parts,
        spread_worker.plan(
            parts=parts,
            narrow=address(bordered),
            narrow_row=bordered.strides[1],
            s=s,
            wide=address(wide),
            k=k,
            w=address(packed),
            shift=address(BLANK if shift is None else shift),
            shift_step=0 if shift is None or shift.ndim == 1 else 4 * k,
            residual=address(residual),
            N=n,
            H=h,
            W=w,
        ),
    )


def _gather(wide, taps, narrow, ws, shift, residual):
    """taps: (3, 3, K, s)."""
    n, h, w, s = narrow.shape
    k, parts = wide.shape[3], threads()
    packed = ws.get(("few taps", taps.shape), (s, k // 16, 9, 16))
    copying.copy(taps.reshape(9, k // 16, 16, s).transpose(3, 1, 0, 2), packed)
    starts = [a for a in (residual, None if shift is None else shift.reshape(-1, 1, 1, s)) if a is not None]
    if not starts:
        copying.fill(narrow, 0)
    for i, start in enumerate(starts):
        copying.copy(start, narrow, add=i > 0)
    gather_worker.run(
        parts,
        gather_worker.plan(
            parts=parts,
            narrow=address(narrow),
            s=s,
            wide=address(wide),
            k=k,
            w=address(packed),
            blank=address(BLANK),
            N=n,
            H=h,
            W=w,
        ),
    )


def _outer(narrow, wide, ws):
    """(9, s, K) sums over pixels of narrow's neighbours times wide, and (K,) the sum of wide."""
    n, h, w, s = narrow.shape
    k = wide.shape[3]
    parts, width, bordered = threads(), (k + 31) // 32 * 32, _bordered(narrow, ws)
    sums = ws.get(("few sums", s, k), (parts, 10, s, width))
    outer_worker.run(
        parts,
        outer_worker.plan(
            parts=parts,
            narrow=address(bordered),
            narrow_row=bordered.strides[1],
            s=s,
            wide=address(wide),
            k=k,
            sums=address(sums),
            sums_step=sums.strides[0],
            N=n,
            H=h,
            W=w,
        ),
    )
    total = ws.get("few total", sums.shape[1:])
    elementwise.sum_pixels(sums.reshape(1, parts, -1), total.reshape(1, -1))
    return total[:9, :, :k], total[9, 0, :k]


def forward(x, w, y, ws, shift=None, residual=None):
    """y = conv(x, w) + shift + residual; one of Cin, Cout is a multiple of 16, the other any small number.

    x: (N, H, W, Cin), w: (3, 3, Cin, Cout), y, residual: (N, H, W, Cout), shift: (Cout,) or (N, Cout).
    """
    if w.shape[3] % 16 == 0:
        _spread(x, w, y, ws, shift, residual)
    else:
        _gather(x, w, y, ws, shift, residual)


def input_gradient(dy, w, dx, ws):
    """dx of `forward`: the convolution of dy with the filters turned by 180 degrees."""
    turned = ws.get("turned", (3, 3, w.shape[3], w.shape[2]))
    copying.copy(w[::-1, ::-1].transpose(0, 1, 3, 2), turned)
    forward(dy, turned, dx, ws)


def weight_gradient(x, dy, dw, db, ws):
    """dw (3, 3, Cin, Cout) and db (Cout,) of `forward`."""
    if dy.shape[3] % 16 == 0:
        taps, total = _outer(x, dy, ws)
        copying.copy(total, db)
        copying.copy(taps, dw.reshape(taps.shape))
    else:
        taps, _ = _outer(dy, x, ws)
        # The taps turned by 180 degrees, and the narrow side's channels last
        copying.copy(taps[::-1].transpose(0, 2, 1), dw.reshape(9, *dw.shape[2:]))
        images = ws.get("sums of images", (dy.shape[0], dy.shape[3]))
        elementwise.sum_pixels(dy, images)
        elementwise.sum_pixels(images[None], db[None])
