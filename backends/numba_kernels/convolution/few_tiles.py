"""The convolutions of `winograd` for few tiles: transformed weights never leave the core's own cache.

Transformed, the weights of a layer take four times their memory (36 numbers for 9). With many tiles they are written
once and read often; with few they dominate memory traffic, and slow where other programs fill the shared cache. So here
a thread takes one panel of 32 outputs after the other, and of that some input channels at a time: it transforms just
these weights, then the same channels of all tiles, again for each panel, which costs less than fetching them would; or,
for the weight gradient, it sums over all tiles and transforms back at once.

Places as in `winograd`, C being a chunk, with u and the sums among them; m holds all tiles of the thread.
"""

from math import gcd

from numba import carray

from backends.numba_kernels import tuning
from backends.numba_kernels.convolution.winograd import (
    GRADIENTS,
    OUTPUTS,
    WEIGHTS,
    block_of_vectors,
    panels_of,
    tiles_of,
    transform_gradients,
    transform_inputs,
    transform_weights,
    write_outputs,
)
from backends.numba_kernels.runtime.addresses import call4
from backends.numba_kernels.runtime.launch import PlanType, worker
from backends.numba_kernels.runtime.layouts import Layout, Rows
from backends.numba_kernels.vectors.gemm import (
    HALF_ROWS,
    PANEL,
    PANEL_BYTES,
    ROWS,
    gemm_columns,
    gemm_half_rows,
    gemm_rows,
)
from backends.numba_kernels.vectors.lanes import BYTES, WIDTH
from backends.numba_kernels.vectors.rows import set_zero

FORWARD = PlanType(f"{OUTPUTS} {WEIGHTS} chunk u_at u_bytes", optional="y2 residual")
GRADIENT = PlanType(f"{GRADIENTS} parts chunk sums_at sums_bytes")
CHUNKS = 64, 32, 16
FORWARD_BLOCK, GRADIENT_BLOCK = 16, 32


def forward_layout(points, chunk, tiles):
    """The scratch of one part of `forward_worker` with `tiles` tiles. points: of a tile, in two dimensions."""
    return Layout(
        v=Rows(points, block_of_vectors(chunk, FORWARD_BLOCK)),
        u=Rows(points, chunk * PANEL_BYTES, PANEL_BYTES),
        m=Rows(points, -(-tiles // ROWS) * ROWS * PANEL_BYTES),
    )


def gradient_layout(points, chunk):
    """The scratch of one part of `weight_gradient_worker`."""
    return Layout(
        v=Rows(points, block_of_vectors(chunk, GRADIENT_BLOCK)),
        g=Rows(points, block_of_vectors(PANEL, GRADIENT_BLOCK)),
        sums=Rows(points, chunk * PANEL_BYTES),
    )


def forward_chunk(algorithm, shape):
    """Input channels at a time in `forward_worker`, for an output of this shape; 0 if its tiles are too many."""
    tiles = algorithm.tiles(shape)
    return fitting(tiles, lambda chunk: forward_layout(algorithm.points**2, chunk, tiles))


def gradient_chunk(algorithm, shape):
    """The same for `weight_gradient_worker`."""
    return fitting(algorithm.tiles(shape), lambda chunk: gradient_layout(algorithm.points**2, chunk))


def fitting(tiles, layout):
    """The first chunk whose layout a core's cache holds; 0 if there is none, or too many tiles."""
    if tiles > tuning.MOST_TILES:
        return 0
    return next((chunk for chunk in CHUNKS if layout(chunk).bytes <= tuning.CACHE), 0)


def split(tiles, panels, threads):
    """(threads along tiles, threads along panels), the latter first: weights are transformed for each of the former."""
    groups, along_panels = -(-tiles // ROWS), gcd(panels, threads)
    if groups < threads // along_panels:
        along_panels = min(panels, threads)
    return max(1, min(groups, threads // along_panels)), along_panels


def balanced(tasks, threads):
    """Whether `tasks` equal tasks keep all threads busy."""
    return tasks % threads == 0 or tasks >= 4 * threads


@worker(FORWARD)
def forward_worker(part, plans):
    """The tiles and panels of one thread.

    x: N × H × W × C float32; w: 3 × 3 × C × K, strides as in `winograd.weights_worker`; y1, y2, shift, residual: as in
    `winograd.forward_worker`.
    """
    plan = carray(plans, 1)[0]
    tile_part, panel_part = divmod(part, plan.panel_parts)
    points, block, chunk, outputs = plan.points, plan.block, plan.chunk, plan.k1 + plan.k2
    first, last = tiles_of(plan, tile_part)
    first_panel, last_panel = panels_of(plan, outputs, panel_part)
    scratch = plan.scratch + part * plan.part_bytes
    v, u, m = scratch + plan.v_at, scratch + plan.u_at, scratch + plan.m_at
    held = plan.c <= chunk and last - first <= block  # v serves all panels
    for panel in range(first_panel, last_panel):
        last_k = min(panel * PANEL + PANEL, outputs)
        for c in range(0, plan.c, chunk):
            size = min(chunk, plan.c - c)
            transform_weights(plan, c, c + size, panel * PANEL, last_k, u, plan.u_bytes)
            for start in range(first, last, block):
                count = min(block, last - start)
                if panel == first_panel or not held:
                    transform_inputs(plan, start, count, count, c, c + size, v)
                for q in range(points):
                    weights = u + q * plan.u_bytes
                    for p in range(0, count, ROWS):
                        rows, out = (
                            v + q * plan.v_bytes + p * BYTES,
                            m + q * plan.m_bytes + (start - first + p) * PANEL_BYTES,
                        )
                        if count - p > HALF_ROWS:
                            gemm_rows(rows, block * BYTES, weights, size // WIDTH, out, c)
                        else:
                            gemm_half_rows(rows, block * BYTES, weights, size // WIDTH, out, c)
        write_outputs(plan, first, last - first, panel, m)


@worker(GRADIENT)
def weight_gradient_worker(part, plans):
    """dw and db for one thread's share of panels times chunks.

    x: N × H × W × C float32; dy: N × H' × W' × K; dw: 3 × 3 × C × K; db: K.
    """
    plan = carray(plans, 1)[0]
    points, block, chunk, outputs = plan.points, plan.block, plan.chunk, plan.k
    tiles, panels = plan.N * plan.down * plan.across, (outputs + PANEL - 1) // PANEL
    chunks = (plan.c + chunk - 1) // chunk
    scratch = plan.scratch + part * plan.part_bytes
    v, g, sums = scratch + plan.v_at, scratch + plan.g_at, scratch + plan.sums_at
    tasks, before = panels * chunks, -1
    for task in range(tasks * part // plan.parts, tasks * (part + 1) // plan.parts):
        panel, c = task // chunks, task % chunks * chunk
        size, first_k, last_k = min(chunk, plan.c - c), panel * PANEL, min(panel * PANEL + PANEL, outputs)
        if c == 0:
            set_zero(plan.db + first_k * 4, (last_k - first_k) // WIDTH)
        for start in range(0, tiles, block):
            count = min(block, tiles - start)
            whole = (count + 3) // 4 * 4
            bias = plan.db + first_k * 4 if c == 0 else 0
            if panel != before or tiles > block:
                transform_gradients(plan, start, count, whole, first_k, last_k, g, bias)
                before = panel
            transform_inputs(plan, start, count, whole, c, c + size, v)
            for q in range(points):
                low = g + q * plan.g_bytes
                high = low + block * BYTES if first_k + WIDTH < outputs else low
                for i in range(0, size, ROWS):
                    a = v + q * plan.v_bytes + i // WIDTH * block * BYTES + i % WIDTH * 4
                    gemm_columns(a, low, high, whole // 4, sums + q * plan.sums_bytes + i * PANEL_BYTES, start)
        for i in range(size):
            for k in range(first_k, last_k, WIDTH):
                u, dw = sums + i * PANEL_BYTES + k % PANEL * 4, plan.dw + ((c + i) * outputs + k) * 4
                call4(plan.weight_gradient_tile, u, plan.sums_bytes, dw, plan.c * outputs * 4)
