"""The convolutions of `winograd` for few tiles: transformed weights never leave the core's own cache.

Transformed, the weights of a layer take four times their memory (36 numbers for 9). With many tiles that is written
once and read often; with few it is most of the traffic, and slow where other programs fill the shared cache. So here a
thread takes one panel of 32 outputs after the other, and of that some input channels at a time: it transforms just
these weights, then the same channels of all tiles, anew for each panel, which costs less than fetching them would; or,
for the weight gradient, it sums over all tiles and transforms back at once. Layouts as in `winograd`, C being a chunk.
"""

from math import gcd

from numba import carray

from backends.numba_kernels.convolution.winograd import (
    PLAN,
    panels_of,
    tiles_of,
    transform_gradients,
    transform_inputs,
    transform_weights,
    write_outputs,
)
from backends.numba_kernels.runtime.addresses import call4
from backends.numba_kernels.runtime.launch import worker
from backends.numba_kernels.vectors.gemm import gemm_columns, gemm_half_rows, gemm_rows
from backends.numba_kernels.vectors.rows import set_zero

# More tiles repay the traffic
MOST_TILES = 64
# Bytes that stay in a core's second cache, all that a thread works in
CACHE = 840_000
CHUNKS = 64, 32, 16
FORWARD_BLOCK, GRADIENT_BLOCK = 16, 32


def forward_chunk(algorithm, shape):
    """Input channels at a time in `forward_worker`, for an output of this shape; 0 if its tiles are too many."""
    tiles = algorithm.tiles(shape)
    return fitting(algorithm, tiles, FORWARD_BLOCK, -(-tiles // 8) * 8)


def gradient_chunk(algorithm, shape):
    """The same for `weight_gradient_worker`."""
    return fitting(algorithm, algorithm.tiles(shape), GRADIENT_BLOCK, GRADIENT_BLOCK)


def split(tiles, panels, threads):
    """(threads along tiles, threads along panels), the latter first: weights are transformed for each of the former."""
    groups, along_panels = -(-tiles // 8), gcd(panels, threads)
    if groups < threads // along_panels:
        along_panels = min(panels, threads)
    return max(1, min(groups, threads // along_panels)), along_panels


def balanced(tasks, threads):
    """Whether so many equal tasks keep all threads busy."""
    return tasks % threads == 0 or tasks >= 4 * threads


def fitting(algorithm, tiles, block, rows):
    """The first chunk with which weights or sums, inputs of a block of tiles, and rows of one panel fit."""
    sizes = {chunk: algorithm.points**2 * (chunk * (128 + 4 * block) + rows * 128 + 256) for chunk in CHUNKS}
    return next((chunk for chunk, size in sizes.items() if size <= CACHE and tiles <= MOST_TILES), 0)


@worker(PLAN)
def forward_worker(part, plans):
    """The tiles and panels of one thread."""
    plan = carray(plans, 1)[0]
    tile_part, panel_part = divmod(part, plan.panel_parts)
    first, last = tiles_of(plan, tile_part)
    first_panel, last_panel = panels_of(plan, panel_part)
    points, block, chunk, outputs = plan.points, plan.block, plan.chunk, plan.k1 + plan.k2
    v_step, u_step, m_step = chunk // 16 * block * 64 + 64, chunk * 128 + 128, (last - first + 7) // 8 * 8 * 128 + 64
    v = plan.work + part * plan.work_step
    u = v + points * v_step
    m = u + points * u_step
    held = plan.c <= chunk and last - first <= block  # v serves all panels
    for panel in range(first_panel, last_panel):
        for c in range(0, plan.c, chunk):
            size = min(chunk, plan.c - c)
            transform_weights(plan, c, c + size, panel * 32, min(panel * 32 + 32, outputs), u, u_step)
            for start in range(first, last, block):
                count = min(block, last - start)
                if panel == first_panel or not held:
                    transform_inputs(plan, start, count, count, c, c + size, v, v_step)
                for q in range(points):
                    for g in range(0, count, 8):
                        rows, out = v + q * v_step + g * 64, m + q * m_step + (start - first + g) * 128
                        if count - g > 4:
                            gemm_rows(rows, block * 64, u + q * u_step, size // 16, out, c)
                        else:
                            gemm_half_rows(rows, block * 64, u + q * u_step, size // 16, out, c)
        write_outputs(plan, first, last - first, panel, m, m_step)


@worker(PLAN)
def weight_gradient_worker(part, plans):
    """dw and db for one thread's share of panels times chunks."""
    plan = carray(plans, 1)[0]
    points, block, chunk, outputs = plan.points, plan.block, plan.chunk, plan.k1
    tiles, panels, chunks = plan.N * plan.down * plan.across, (outputs + 31) // 32, (plan.c + chunk - 1) // chunk
    v_step, w_step, sums_step = chunk // 16 * block * 64 + 64, 2 * block * 64 + 64, chunk * 128 + 64
    v = plan.work + part * plan.work_step
    w = v + points * v_step
    sums = w + points * w_step
    tasks, before = panels * chunks, -1
    for task in range(tasks * part // plan.parts, tasks * (part + 1) // plan.parts):
        panel, c = task // chunks, task % chunks * chunk
        size, first_k, last_k = min(chunk, plan.c - c), panel * 32, min(panel * 32 + 32, outputs)
        if c == 0:
            set_zero(plan.db + first_k * 4, (last_k - first_k) // 16)
        for start in range(0, tiles, block):
            count = min(block, tiles - start)
            whole = (count + 3) // 4 * 4
            bias = plan.db + first_k * 4 if c == 0 else 0
            if panel != before or tiles > block:
                transform_gradients(plan, start, count, whole, first_k, last_k, w, w_step, bias)
                before = panel
            transform_inputs(plan, start, count, whole, c, c + size, v, v_step)
            for q in range(points):
                low = w + q * w_step
                high = low + block * 64 if first_k + 16 < outputs else low
                for i in range(0, size, 8):
                    a = v + q * v_step + i // 16 * block * 64 + i % 16 * 4
                    gemm_columns(a, low, high, whole // 4, sums + q * sums_step + i * 128, start)
        for i in range(size):
            for k in range(first_k, last_k, 16):
                u, dw = sums + i * 128 + k % 32 * 4, plan.dw + ((c + i) * outputs + k) * 4
                call4(plan.weight_gradient_tile, u, sums_step, dw, plan.c * outputs * 4)
