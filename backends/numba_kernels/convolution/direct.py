"""3x3 convolutions without transforms, for so few pixels that transforming the weights would cost more than it saves.

Eight pixels times 32 outputs stay in registers while taps and channels run; the weights are read as they are, each
once for eight pixels. Stride, padding and up-sampling are only a matter of where the nine neighbours of a pixel are.
"""

from numba import carray

from backends.numba_kernels import tuning
from backends.numba_kernels.padding import BLANK
from backends.numba_kernels.runtime.addresses import address, write_int
from backends.numba_kernels.runtime.launch import PlanType, worker
from backends.numba_kernels.runtime.layouts import Layout
from backends.numba_kernels.runtime.pool import POOL
from backends.numba_kernels.vectors.gemm import HALF_ROWS, PANEL, ROWS, in_blocks
from backends.numba_kernels.vectors.intrinsics import kernel
from backends.numba_kernels.vectors.lanes import BYTES, INDEX, WIDTH, Memory, const, loop
from backends.numba_kernels.vectors.rows import store_block
from backends.thread_count import threads

TAPS, ADDRESS_BYTES = 9, 8
FORWARD = PlanType(
    "x y w c k shift shift_bytes N height_in width_in height width stride before up blank"
    " pixel_parts panel_parts scratch part_bytes places_at",
    optional="residual",
)


def layout():
    """The scratch of one part: for each tap the addresses of the eight pixels that it reads."""
    return Layout(places=TAPS * ROWS * ADDRESS_BYTES)


@kernel
def multiply_taps(builder, places, w, w_bytes, tap_bytes, quads, out, out_bytes, count, has_high, shift, residual):
    """out[:count][32] = shift + residual + sum over 9 taps and c < 4 * quads of places[tap][8][c] * w[tap][c][32]."""
    high = builder.select(builder.icmp_signed("!=", has_high, const(0)), const(BYTES), const(0))
    shift, out = Memory(builder, shift), Memory(builder, out)

    def run(block):
        def tap(t, sums):
            table = Memory(builder, places).offset(builder.mul(t, const(ADDRESS_BYTES * ROWS)))
            rows = {}
            for r in block.rows:
                pointer = builder.bitcast(table.offset(ADDRESS_BYTES * r).pointer, INDEX.as_pointer())
                rows[r] = Memory(builder, builder.load(pointer, typ=INDEX))
            weights = Memory(builder, w).offset(builder.mul(t, tap_bytes))

            def four(i, sums):
                step = builder.mul(i, const(16))
                for c in range(4):
                    right = weights.offset(builder.mul(builder.add(builder.mul(i, const(4)), const(c)), w_bytes))
                    sums = block.add(
                        sums,
                        lambda r: rows[r].offset(step).broadcast(4 * c),
                        lambda side: right.offset(high).load() if side else right.load(),
                    )
                return sums

            return loop(builder, quads, sums, four)

        start = block.start(lambda r, side: shift.offset(high).load() if side else shift.load())
        store_block(builder, block, loop(builder, const(TAPS), start, tap), out, out_bytes, count, high, residual)

    in_blocks(builder, ROWS, run, count=count, has_high=has_high)


@worker(FORWARD)
def forward_worker(part, plans):
    """One thread's pixels and panels.

    x: N × H × W × C float32; w: 3 × 3 × C × K; y, residual: N × H' × W' × K; shift: K, or N × K with shift_bytes
    between images; places: 9 × 8 int64 addresses of pixels of x, or of `blank`.
    """
    plan = carray(plans, 1)[0]
    pixel_part, panel_part = divmod(part, plan.panel_parts)
    per_image, panels = plan.height * plan.width, (plan.k + PANEL - 1) // PANEL
    blocks = (per_image + ROWS - 1) // ROWS
    first = plan.N * blocks * pixel_part // plan.pixel_parts
    last = plan.N * blocks * (pixel_part + 1) // plan.pixel_parts
    first_panel = panels * panel_part // plan.panel_parts
    last_panel = panels * (panel_part + 1) // plan.panel_parts
    places = plan.scratch + part * plan.part_bytes + plan.places_at
    rows, columns = plan.height_in << plan.up, plan.width_in << plan.up
    for block in range(first, last):
        n, start = block // blocks, block % blocks * ROWS
        for r in range(ROWS):
            # Rows beyond the image repeat its last pixel
            i, j = divmod(min(start + r, per_image - 1), plan.width)
            for a in range(3):
                for b in range(3):
                    u, v = i * plan.stride + a - plan.before, j * plan.stride + b - plan.before
                    place = plan.blank
                    if 0 <= u < rows and 0 <= v < columns:
                        pixel = (n * plan.height_in + (u >> plan.up)) * plan.width_in + (v >> plan.up)
                        place = plan.x + pixel * plan.c * 4
                    write_int(places + ((3 * a + b) * ROWS + r) * ADDRESS_BYTES, place)
        for panel in range(first_panel, last_panel):
            k = panel * PANEL
            at = ((n * per_image + start) * plan.k + k) * 4
            multiply_taps(
                places,
                plan.w + k * 4,
                plan.k * 4,
                plan.c * plan.k * 4,
                plan.c // 4,
                plan.y + at,
                plan.k * 4,
                per_image - start,
                1 if k + WIDTH < plan.k else 0,
                plan.shift + n * plan.shift_bytes + k * 4,
                plan.residual + at if plan.residual != 0 else 0,
            )


def is_cheaper(kind, y, channels):
    """Whether `forward` beats the convolution by transforms for an output like y."""
    n, height, width, _ = y.shape
    algorithm = kind.tiles.algorithm
    rows = -(-algorithm.tiles(y.shape) // HALF_ROWS) * HALF_ROWS
    transformed = algorithm.points**2 * (tuning.TILE_COST * rows + tuning.WEIGHTS_COST)
    return TAPS * n * height * width < transformed and channels <= BLANK.size


def forward(kind, x, w, y, shift=None, residual=None):
    """y = conv(x, w) + shift + residual, of the same arguments as `tiled.forward`."""
    (n, height_in, width_in, c), (_, height, width, k) = x.shape, y.shape
    parts, panels = threads(), -(-k // PANEL)
    panel_parts = parts if panels % parts == 0 else 1
    scratch_layout = layout()
    scratch = POOL.empty(scratch_layout.floats(parts))
    plan = forward_worker.plan(
        x=address(x), y=address(y), w=address(w), c=c, k=k,
        shift=address(BLANK if shift is None else shift),
        shift_bytes=0 if shift is None or shift.ndim == 1 else shift.strides[0],
        residual=address(residual), N=n, height_in=height_in, width_in=width_in, height=height, width=width,
        stride=kind.stride, before=kind.before, up=kind.up, blank=address(BLANK),
        pixel_parts=parts // panel_parts, panel_parts=panel_parts,
        scratch=address(scratch), part_bytes=scratch_layout.bytes, **scratch_layout.fields,
    )  # fmt: skip
    forward_worker.run(parts, plan)
