"""Matrix products over channels, for 1x1 convolutions and linear layers: forward and weight gradient.

`multiply` and `multiply_gradient` take any channels. The kernels take multiples of 16; x and y are read and written in
place, with shift and residual added while y is written. An input gradient is the product with the weights transposed.
"""

from numba import carray

from backends.numba_kernels import copying, tuning
from backends.numba_kernels.normalization import sum_rows
from backends.numba_kernels.padding import BLANK, finish, padded, target
from backends.numba_kernels.runtime.addresses import address
from backends.numba_kernels.runtime.launch import PlanType, worker
from backends.numba_kernels.runtime.layouts import Layout
from backends.numba_kernels.runtime.pool import POOL
from backends.numba_kernels.vectors.gemm import PANEL, PANEL_BYTES, ROWS, in_blocks
from backends.numba_kernels.vectors.intrinsics import kernel
from backends.numba_kernels.vectors.lanes import BYTES, WIDTH, Memory, const, loop, zeros
from backends.numba_kernels.vectors.rows import add_rows, set_zero, store_block
from backends.thread_count import threads

# Pixels whose x and y stay in the cache while all panels of weights, or of gradients, pass
FORWARD_PIXELS, GRADIENT_PIXELS = 256, 128
FORWARD = PlanType("x c y k w row_bytes panel_bytes shift pixels parts", optional="residual")
GRADIENT = PlanType("x c dy k dw db pixels parts scratch part_bytes weights_at bias_at")


def gradient_layout(channels, outputs):
    """The sums of one part: weights (K/32, C, 32), and behind them the bias."""
    panels = -(-outputs // PANEL)
    # A line more keeps the sums of different threads in different sets of the cache
    return Layout(weights=panels * channels * PANEL_BYTES, bias=panels * PANEL_BYTES, apart=BYTES)


@kernel
def multiply_rows(builder, a, row_bytes, b, b_bytes, quads, out, out_bytes, count, has_high, shift, residual):
    """out[:count][32] = shift + residual + sum over c < 4 * quads of a[8][c] * b[c][32]; rows are *_bytes
    apart.

    Rows of `a` beyond `count` repeat the last. Without `has_high`, only 16 outputs are there.
    """
    rows = []
    for r in range(ROWS):
        last = builder.sub(count, const(1))
        index = builder.select(builder.icmp_signed("<", const(r), count), const(r), last)
        rows.append(Memory(builder, a).offset(builder.mul(index, row_bytes)))
    high = builder.select(builder.icmp_signed("!=", has_high, const(0)), const(BYTES), const(0))
    shift, out = Memory(builder, shift), Memory(builder, out)

    def run(block):
        def four(i, sums):
            step = builder.mul(i, const(16))
            for c in range(4):
                right = Memory(builder, b).offset(builder.mul(builder.add(builder.mul(i, const(4)), const(c)), b_bytes))
                sums = block.add(
                    sums,
                    lambda r: rows[r].offset(step).broadcast(4 * c),
                    lambda side: right.offset(high).load() if side else right.load(),
                )
            return sums

        start = block.start(lambda r, side: shift.offset(high).load() if side else shift.load())
        store_block(builder, block, loop(builder, quads, start, four), out, out_bytes, count, high, residual)

    in_blocks(builder, ROWS, run, count=count, has_high=has_high)


@kernel
def multiply_columns(builder, a, a_bytes, b, b_bytes, has_high, count, out):
    """out[8][32] += sum over t < count of a[t][8] * b[t][32]; without `has_high` only 16 columns are there."""
    high = builder.select(builder.icmp_signed("!=", has_high, const(0)), const(BYTES), const(0))
    out = Memory(builder, out)

    def run(block):
        def one(step, sums):
            left = Memory(builder, a).offset(builder.mul(step, a_bytes))
            right = Memory(builder, b).offset(builder.mul(step, b_bytes))
            return block.add(
                sums,
                lambda r: left.broadcast(4 * r),
                lambda side: right.offset(high).load() if side else right.load(),
            )

        def four(i, sums):
            for t in range(4):
                sums = one(builder.add(builder.mul(i, const(4)), const(t)), sums)
            return sums

        quads = builder.ashr(count, const(2))
        sums = loop(builder, quads, block.start(lambda r, side: zeros(builder)), four)
        done = builder.mul(quads, const(4))
        sums = loop(builder, builder.sub(count, done), sums, lambda i, sums: one(builder.add(done, i), sums))
        for value, (r, side) in zip(sums, block.places()):
            place = r * PANEL_BYTES + side * BYTES
            out.store(out.load(place) + value, place)

    in_blocks(builder, ROWS, run, has_high=has_high)


@worker(FORWARD)
def forward_worker(part, plans):
    """y = x w + shift + residual, for one thread's pixels.

    x: P × C float32; w: K/32 panels of C × 32, panel_bytes from panel to panel and row_bytes from row to row; y,
    residual: P × K; shift: K.
    """
    plan = carray(plans, 1)[0]
    first, last = plan.pixels * part // plan.parts, plan.pixels * (part + 1) // plan.parts
    for start in range(first, last, FORWARD_PIXELS):
        end = min(start + FORWARD_PIXELS, last)
        for k in range(0, plan.k, PANEL):
            for p in range(start, end, ROWS):
                at = (p * plan.k + k) * 4
                multiply_rows(
                    plan.x + p * plan.c * 4,
                    plan.c * 4,
                    plan.w + k // PANEL * plan.panel_bytes,
                    plan.row_bytes,
                    plan.c // 4,
                    plan.y + at,
                    plan.k * 4,
                    end - p,
                    1 if k + WIDTH < plan.k else 0,
                    plan.shift + k * 4,
                    plan.residual + at if plan.residual != 0 else 0,
                )


@worker(GRADIENT)
def weight_gradient_worker(part, plans):
    """The sums of one thread's pixels: x^T dy, and dy.

    x: P × C float32; dy: P × K; a part's scratch: weights K/32 × C × 32, bias K rounded up to 32.
    """
    plan = carray(plans, 1)[0]
    panels = (plan.k + PANEL - 1) // PANEL
    weights = plan.scratch + part * plan.part_bytes + plan.weights_at
    bias = plan.scratch + part * plan.part_bytes + plan.bias_at
    set_zero(weights, panels * plan.c * 2)
    set_zero(bias, panels * 2)
    first, last = plan.pixels * part // plan.parts, plan.pixels * (part + 1) // plan.parts
    for start in range(first, last, GRADIENT_PIXELS):
        count = min(start + GRADIENT_PIXELS, last) - start
        for k in range(0, plan.k, PANEL):
            dy, has_high = plan.dy + (start * plan.k + k) * 4, 1 if k + WIDTH < plan.k else 0
            for c in range(0, plan.c, ROWS):
                x, out = plan.x + (start * plan.c + c) * 4, weights + (k // PANEL * plan.c + c) * PANEL_BYTES
                multiply_columns(x, plan.c * 4, dy, plan.k * 4, has_high, count, out)
            for half in range(1 + has_high):
                add_rows(bias + k * 4 + half * BYTES, dy + half * BYTES, count, plan.k * 4)


@worker(GRADIENT)
def weight_gradient_end(part, plans):
    """dw (C × K) and db (K): the sums over the threads, in their order."""
    plan = carray(plans, 1)[0]
    weights, bias = plan.scratch + plan.weights_at, plan.scratch + plan.bias_at
    for c in range(plan.c * part // plan.parts, plan.c * (part + 1) // plan.parts):
        for k in range(0, plan.k, WIDTH):
            at = weights + (k // PANEL * plan.c + c) * PANEL_BYTES + k % PANEL * 4
            sum_rows(WIDTH, at, plan.parts, plan.part_bytes, plan.dw + (c * plan.k + k) * 4)
    if part == 0:
        for k in range(0, plan.k, WIDTH):
            sum_rows(WIDTH, bias + k * 4, plan.parts, plan.part_bytes, plan.db + k * 4)


def in_panels(w):
    """(C, K) copied to (ceil(K / 32), C, 32); K is a multiple of 16, and the last half panel may stay unwritten."""
    cin, cout = w.shape
    whole, rest = divmod(cout, PANEL)
    panels = POOL.empty((whole + (rest > 0), cin, PANEL))
    copying.copy(w[:, : whole * PANEL].reshape(cin, whole, PANEL).transpose(1, 0, 2), panels[:whole])
    if rest:
        copying.copy(w[:, whole * PANEL :], panels[whole, :, :rest])
    return panels


def forward(x, w, y, shift=None, residual=None):
    """y = x w + shift + residual. x: (..., C), w: (C, K), y, residual: (..., K), shift: (K,); C and K whole vectors."""
    c, k = w.shape
    pixels, parts = x.size // c, threads()
    as_it_is = pixels < tuning.PIXELS_WORTH_PACKING and w.flags.c_contiguous
    weights = w if as_it_is else in_panels(w)
    plan = forward_worker.plan(
        parts=parts,
        x=address(x),
        c=c,
        y=address(y),
        k=k,
        w=address(weights),
        row_bytes=4 * k if as_it_is else PANEL_BYTES,
        panel_bytes=PANEL_BYTES if as_it_is else c * PANEL_BYTES,
        shift=address(BLANK if shift is None else shift),
        residual=address(residual),
        pixels=pixels,
    )
    forward_worker.run(parts, plan)


def weight_gradient(x, dy, dw, db):
    """dw = x^T dy (C, K) and db, the sum of dy (K,); C and K whole vectors."""
    c, k = dw.shape
    parts, layout = threads(), gradient_layout(c, k)
    scratch = POOL.empty(layout.floats(parts))
    plan = weight_gradient_worker.plan(
        parts=parts, x=address(x), c=c, dy=address(dy), k=k, pixels=x.size // c, dw=address(dw), db=address(db),
        scratch=address(scratch), part_bytes=layout.bytes,
        **{name: layout.fields[name] for name in ("weights_at", "bias_at")},
    )  # fmt: skip
    weight_gradient_worker.run(parts, plan)
    weight_gradient_end.run(parts, plan)


def multiply(x, w, y, shift=None, residual=None):
    """y = x w + shift + residual. x: (..., Cin), w: (Cin, Cout), shift: (Cout,); residual may be y, to add to it."""
    out = target(y, -1)
    if residual is y and out is not y:
        # It is added when `out` has been copied over it
        residual = copying.copied(y)
    x, w, shift = padded(x, -1), padded(w, 0, 1), padded(shift, -1)
    forward(x, w, out, shift, residual if out is y else None)
    finish(out, y, residual)


def multiply_gradient(x, dy, dw, db):
    """dw (Cin, Cout) and db (Cout,) of `multiply`."""
    full, bias = target(dw, 0, 1), target(db, 0)
    x, dy = padded(x, -1), padded(dy, -1)
    weight_gradient(x, dy, full, bias)
    finish(full, dw)
    finish(bias, db)
