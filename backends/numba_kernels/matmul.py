"""1x1 convolution, a matrix product over channels: forward, input gradient, weight gradient.

Channels are multiples of 16. x and y are read and written in place, with shift and residual added while y is
written.
"""

from numba import carray

from backends.numba_kernels import copying
from backends.numba_kernels.convolution.winograd import BLANK
from backends.numba_kernels.normalization import sum_rows
from backends.numba_kernels.runtime.addresses import address
from backends.numba_kernels.runtime.launch import plan_type, worker
from backends.numba_kernels.vectors.gemm import PANEL, PANEL_BYTES, ROWS, in_blocks
from backends.numba_kernels.vectors.intrinsics import kernel
from backends.numba_kernels.vectors.lanes import BYTES, Memory, const, loop, zeros
from backends.numba_kernels.vectors.rows import add_rows, set_zero, store_block
from backends.thread_count import threads

PLAN = plan_type("x c y k w w_row w_panel shift residual pixels parts sums sums_step dw db")
# Pixels whose x and y stay in the cache while all panels of weights pass
BLOCK = 256
# Of fewer pixels the product does not repay the copy of the weights in panels
WORTH_PACKING = 256


@kernel
def multiply_rows(builder, a, row_bytes, b, b_bytes, fours, out, out_bytes, count, both, shift, residual):
    """out[:count][32] = shift + residual + sum over c < 4 * fours of a[8][c] * b[c][32]; rows are *_bytes
    apart.

    Rows of `a` beyond `count` repeat the last. Without `both`, only 16 outputs are there.
    """
    rows = []
    for r in range(ROWS):
        last = builder.sub(count, const(1))
        index = builder.select(builder.icmp_signed("<", const(r), count), const(r), last)
        rows.append(Memory(builder, a).offset(builder.mul(index, row_bytes)))
    high = builder.select(builder.icmp_signed("!=", both, const(0)), const(BYTES), const(0))
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
        store_block(builder, block, loop(builder, fours, start, four), out, out_bytes, count, high, residual)

    in_blocks(builder, ROWS, run, count=count, both=both)


@kernel
def multiply_columns(builder, a, a_bytes, b, b_bytes, both, count, out):
    """out[8][32] += sum over t < count of a[t][8] * b[t][32]; without `both` only 16 columns are there."""
    high = builder.select(builder.icmp_signed("!=", both, const(0)), const(BYTES), const(0))
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

        fours = builder.ashr(count, const(2))
        sums = loop(builder, fours, block.start(lambda r, side: zeros(builder)), four)
        done = builder.mul(fours, const(4))
        sums = loop(builder, builder.sub(count, done), sums, lambda i, sums: one(builder.add(done, i), sums))
        for value, (r, side) in zip(sums, block.places()):
            place = r * PANEL_BYTES + side * BYTES
            out.store(out.load(place) + value, place)

    in_blocks(builder, ROWS, run, both=both)


@worker(PLAN)
def forward_worker(part, plans):
    """y = x w + shift + residual, for one thread's pixels."""
    plan = carray(plans, 1)[0]
    first, last = plan.pixels * part // plan.parts, plan.pixels * (part + 1) // plan.parts
    for start in range(first, last, BLOCK):
        end = min(start + BLOCK, last)
        for k in range(0, plan.k, PANEL):
            for p in range(start, end, ROWS):
                at = (p * plan.k + k) * 4
                multiply_rows(
                    plan.x + p * plan.c * 4,
                    plan.c * 4,
                    plan.w + k // PANEL * plan.w_panel,
                    plan.w_row,
                    plan.c // 4,
                    plan.y + at,
                    plan.k * 4,
                    end - p,
                    1 if k + 16 < plan.k else 0,
                    plan.shift + k * 4,
                    plan.residual + at if plan.residual != 0 else 0,
                )


@worker(PLAN)
def weight_gradient_worker(part, plans):
    """sums[part][K/32][c][32] = x^T y over one thread's pixels, and behind it the sum of y."""
    plan = carray(plans, 1)[0]
    panels = (plan.k + 31) // 32
    sums = plan.sums + part * plan.sums_step
    bias = sums + panels * plan.c * 128
    set_zero(sums, panels * plan.c * 2 + panels * 2)
    first, last = plan.pixels * part // plan.parts, plan.pixels * (part + 1) // plan.parts
    for start in range(first, last, 128):
        count = min(start + 128, last) - start
        for k in range(0, plan.k, PANEL):
            y, both = plan.y + (start * plan.k + k) * 4, 1 if k + 16 < plan.k else 0
            for c in range(0, plan.c, ROWS):
                multiply_columns(
                    plan.x + (start * plan.c + c) * 4,
                    plan.c * 4,
                    y,
                    plan.k * 4,
                    both,
                    count,
                    sums + (k * plan.c + c * 32) * 4,
                )
            for half in range(1 + both):
                add_rows(bias + k * 4 + half * 64, y + half * 64, count, plan.k * 4)


@worker(PLAN)
def weight_gradient_end(part, plans):
    """dw and db: the sums over the threads, in their order."""
    plan = carray(plans, 1)[0]
    panels = (plan.k + 31) // 32
    for c in range(plan.c * part // plan.parts, plan.c * (part + 1) // plan.parts):
        for k in range(0, plan.k, 16):
            at = plan.sums + ((k // 32 * plan.c + c) * 32 + k % 32) * 4
            sum_rows(16, at, plan.parts, plan.sums_step, plan.dw + (c * plan.k + k) * 4)
    if part == 0:
        for k in range(0, plan.k, 16):
            sum_rows(16, plan.sums + (panels * plan.c * 32 + k) * 4, plan.parts, plan.sums_step, plan.db + k * 4)


def _packed(w, ws):
    """(Cin, Cout) as (ceil(Cout / 32), Cin, 32)."""
    cin, cout = w.shape
    packed = ws.get(("pointwise", w.shape), ((cout + 31) // 32, cin, 32))
    whole = cout // 32
    copying.copy(w[:, : whole * 32].reshape(cin, whole, 32).transpose(1, 0, 2), packed[:whole])
    if cout % 32:
        copying.copy(w[:, whole * 32 :], packed[whole, :, :16])
    return packed


def forward(x, w, y, ws, shift=None, residual=None):
    """y = x w + shift + residual. x: (..., Cin), w: (Cin, Cout), y, residual: (..., Cout), shift: (Cout,)."""
    c, k = w.shape
    pixels, parts = x.size // c, threads()
    as_it_is = pixels < WORTH_PACKING and w.flags.c_contiguous
    weights = w if as_it_is else _packed(w, ws)
    forward_worker.run(
        parts,
        forward_worker.plan(
            parts=parts,
            x=address(x),
            c=c,
            y=address(y),
            k=k,
            w=address(weights),
            w_row=4 * k if as_it_is else 4 * PANEL,
            w_panel=4 * PANEL if as_it_is else 4 * PANEL * c,
            shift=address(BLANK if shift is None else shift),
            residual=address(residual),
            pixels=pixels,
        ),
    )


def weight_gradient(x, dy, dw, db, ws):
    """dw = x^T dy (Cin, Cout) and db, the sum of dy (Cout,)."""
    c, k = dw.shape
    pixels, parts, panels = x.size // c, threads(), (k + 31) // 32
    sums = ws.get(("pointwise sums", c, k), (parts, panels * (c + 1) * 32 + 16))
    plan = weight_gradient_worker.plan(
        parts=parts,
        x=address(x),
        c=c,
        y=address(dy),
        k=k,
        pixels=pixels,
        sums=address(sums),
        sums_step=sums.strides[0],
        dw=address(dw),
        db=address(db),
    )
    weight_gradient_worker.run(parts, plan)
    weight_gradient_end.run(parts, plan)
