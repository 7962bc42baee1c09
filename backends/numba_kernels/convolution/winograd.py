"""Convolutions by the bilinear algorithms of `algorithms`: forward, input gradient and weight gradient.

A block of tiles is transformed into `points`^2 small matrices, multiplied, and transformed back, a panel of
32 output channels at a time, so that everything but the images stays in the core's own cache. While a panel
is multiplied, the lines that the next transforms will read and write are asked for. Images are NHWC float32,
channels a multiple of 16.

Layouts, the last axis being one 64-byte vector of 16 channels, q running over points^2:
  v (q, C/16, block, 16) transformed inputs (w: output gradients); m (q, block, 2, 16) products of one panel
  u (K/32, q, C, 2, 16)  transformed weights, and their gradient
"""

from numba import carray, njit

from backends.numba_kernels.limits import CHANNELS
from backends.numba_kernels.runtime.addresses import call4, call5, call10, call11, fixed
from backends.numba_kernels.runtime.launch import plan_type, worker
from backends.numba_kernels.runtime.pool import aligned_empty
from backends.numba_kernels.vectors.gemm import gemm_columns, gemm_rows
from backends.numba_kernels.vectors.rows import add_to, prefetch_read, prefetch_write, set_zero

# One convolution: addresses (0 for none), sizes, and the split among threads. y is two tensors, concatenated along
# channels; the second has 0 channels when there is one. The *_tile are addresses of functions.
PLAN = plan_type(
    "x c u u_step y1 k1 y2 k2 shift shift_step residual blank N"
    " height_in width_in step_in offset_in height_out width_out step_out down across points"
    " input_tile output_tile gradient_tile weight_gradient_tile"
    " block tile_parts panel_parts parts sums sums_step work work_step dw db"
    " w weight_tile channel_bytes output_bytes tap_bytes chunk"
)
WEIGHTS = plan_type("parts weight_tile points w u u_step channels outputs channel_bytes output_bytes tap_bytes")


@njit(inline="always")
def tile_at(plan, tile):
    """Image, tile row and tile column of the tile of this number."""
    n, rest = divmod(tile, plan.down * plan.across)
    i, j = divmod(rest, plan.across)
    return n, i, j


@njit(inline="always")
def pixel(n, i, j, height, width, channels):
    """Bytes from the start of an image tensor to this pixel, which may lie outside."""
    return ((n * height + i) * width + j) * channels * 4


@njit(inline="always")
def tiles_of(plan, tile_part):
    """(first, last) of a thread's tiles: whole groups of eight."""
    tiles = plan.N * plan.down * plan.across
    groups = (tiles + 7) // 8
    last = min(tiles, groups * (tile_part + 1) // plan.tile_parts * 8)
    return groups * tile_part // plan.tile_parts * 8, last


@njit(inline="always")
def panels_of(plan, panel_part):
    """(first, last) of a thread's panels."""
    panels = (plan.k1 + plan.k2 + 31) // 32
    return panels * panel_part // plan.panel_parts, panels * (panel_part + 1) // plan.panel_parts


@njit(inline="always")
def transform_inputs(plan, start, count, whole, begin, end, v, v_step):
    """Channels begin ... end of the tiles start ... start + count into v; the rows up to `whole` are filled with
    zeros."""
    for p in range(whole):
        n, i, j = tile_at(plan, start + p)
        i, j = i * plan.step_in - plan.offset_in, j * plan.step_in - plan.offset_in
        corner = plan.x + pixel(n, i, j, plan.height_in, plan.width_in, plan.c)
        for c in range(begin, end, 16):
            call10(
                plan.input_tile,
                corner + c * 4,
                i,
                j,
                plan.height_in if p < count else 0,
                plan.width_in,
                plan.width_in * plan.c * 4,
                plan.c * 4,
                plan.blank,
                v + ((c - begin) // 16 * plan.block + p) * 64,
                v_step,
            )


@njit(inline="always")
def write_outputs(plan, start, count, panel, m, m_step):
    """One panel of the tiles start ... start + count, from its products m."""
    outputs = plan.k1 + plan.k2
    for p in range(count):
        n, i, j = tile_at(plan, start + p)
        i, j = i * plan.step_out, j * plan.step_out
        for k in range(panel * 32, min(panel * 32 + 32, outputs), 16):
            if k < plan.k1:
                col_bytes = plan.k1 * 4
                at = pixel(n, i, j, plan.height_out, plan.width_out, plan.k1) + k * 4
                y = plan.y1 + at
            else:
                col_bytes = plan.k2 * 4
                at = pixel(n, i, j, plan.height_out, plan.width_out, plan.k2) + (k - plan.k1) * 4
                y = plan.y2 + at
            call11(
                plan.output_tile,
                m + (2 * p + (k - panel * 32) // 16) * 64,
                m_step,
                y,
                i,
                j,
                plan.height_out,
                plan.width_out,
                plan.width_out * col_bytes,
                col_bytes,
                plan.shift + n * plan.shift_step + k * 4,
                plan.residual + at if plan.residual != 0 else 0,
            )


@njit(inline="always")
def transform_gradients(plan, start, count, whole, first_k, last_k, w, w_step, bias):
    """Some outputs of the output gradients of tiles start ... start + count into w, and their sum to bias, if not 0."""
    side = plan.step_out
    for p in range(whole):
        n, i, j = tile_at(plan, start + p)
        i, j = i * side, j * side
        corner = plan.y1 + pixel(n, i, j, plan.height_out, plan.width_out, plan.k1)
        for k in range(first_k, last_k, 16):
            call11(
                plan.gradient_tile,
                corner + k * 4,
                i,
                j,
                plan.height_out if p < count else 0,
                plan.width_out,
                plan.width_out * plan.k1 * 4,
                plan.k1 * 4,
                plan.blank,
                w + ((k - first_k) // 16 * plan.block + p) * 64,
                w_step,
                bias + (k - first_k) * 4 if bias != 0 else 0,
            )


@worker(PLAN)
def forward_worker(part, plans):
    """The tiles and panels of one thread."""
    plan = carray(plans, 1)[0]
    channels = plan.c
    tile_part, panel_part = divmod(part, plan.panel_parts)
    points, block, side = plan.points, plan.block, plan.step_out
    first, last = tiles_of(plan, tile_part)
    first_panel, last_panel = panels_of(plan, panel_part)
    v_step, m_step = channels // 16 * block * 64 + 64, block * 128 + 64
    v = plan.work + part * plan.work_step
    m = v + points * v_step
    area = plan.step_in * plan.step_in * 4
    share = block * plan.c * area // max(1, (last_panel - first_panel) * points * block // 8) // 64 * 64 + 64
    for start in range(first, last, block):
        count = min(block, last - start)
        transform_inputs(plan, start, count, count, 0, channels, v, v_step)
        ahead = plan.x + (start + block) * plan.c * area
        for panel in range(first_panel, last_panel):
            for q in range(points):
                b = plan.u + (panel * points + q) * plan.u_step
                for g in range(0, count, 8):
                    if q < 8 * side:
                        n, i, j = tile_at(plan, start + g + q // side)
                        i, j = i * side + q % side, j * side
                        row = plan.y1 + pixel(n, i, j, plan.height_out, plan.width_out, plan.k1) + panel * 128
                        for column in range(side):
                            prefetch_write(row + column * plan.k1 * 4, 128)
                    prefetch_read(ahead, share)
                    ahead += share
                    gemm_rows(v + q * v_step + g * 64, block * 64, b, channels // 16, m + q * m_step + g * 128, 0)
            write_outputs(plan, start, count, panel, m, m_step)


@worker(PLAN)
def weight_gradient_worker(part, plans):
    """The sum over one thread's tiles of the products of transformed inputs and output gradients."""
    plan = carray(plans, 1)[0]
    channels, outputs = plan.c, plan.k1
    tile_part, panel_part = divmod(part, plan.panel_parts)
    tiles, panels, points = plan.N * plan.down * plan.across, (outputs + 31) // 32, plan.points
    first, last = tiles * tile_part // plan.tile_parts, tiles * (tile_part + 1) // plan.tile_parts
    first_panel, last_panel = panels_of(plan, panel_part)
    first_k, last_k = first_panel * 32, min(outputs, last_panel * 32)
    block, side = plan.block, plan.step_out
    v_step, w_step = channels // 16 * block * 64 + 64, (last_k - first_k) // 16 * block * 64 + 64
    total = plan.sums + tile_part * plan.sums_step
    bias = total + panels * points * channels * 128
    block_bias = bias + (outputs + 15) // 16 * 64
    v = plan.work + part * plan.work_step
    w = v + points * v_step
    if first == last:
        set_zero(total + first_panel * points * channels * 128, (last_panel - first_panel) * points * channels * 2)
    set_zero(bias + first_k * 4, (last_k - first_k) // 16)
    calls = max(1, (last_panel - first_panel) * points * channels // 8)
    area_x, area_y = plan.step_in * plan.step_in * plan.c * 4, side * side * outputs * 4
    share_x, share_y = block * area_x // calls // 64 * 64 + 64, block * area_y // calls // 64 * 64 + 64
    for start in range(first, last, block):
        count = min(block, last - start)
        whole = (count + 3) // 4 * 4
        transform_inputs(plan, start, count, whole, 0, channels, v, v_step)
        set_zero(block_bias + first_k * 4, (last_k - first_k) // 16)
        transform_gradients(plan, start, count, whole, first_k, last_k, w, w_step, block_bias + first_k * 4)
        add_to(bias + first_k * 4, block_bias + first_k * 4, (last_k - first_k) // 16)
        ahead_x, ahead_y = plan.x + (start + block) * area_x, plan.y1 + (start + block) * area_y
        for q in range(points):
            for panel in range(first_panel, last_panel):
                low = w + q * w_step + (panel - first_panel) * 2 * block * 64
                high = low + block * 64 if panel * 32 + 16 < outputs else low
                for c in range(0, channels, 8):
                    prefetch_read(ahead_x, share_x)
                    ahead_x += share_x
                    prefetch_read(ahead_y, share_y)
                    ahead_y += share_y
                    a = v + q * v_step + c // 16 * block * 64 + c % 16 * 4
                    out = total + ((panel * points + q) * channels + c) * 128
                    prefetch_write(out + 1024, 1024)
                    gemm_columns(a, low, high, whole // 4, out, start - first)


@worker(PLAN)
def weight_gradient_end(part, plans):
    """Sum over the threads, in their order, and transform back."""
    plan = carray(plans, 1)[0]
    parts, points = plan.tile_parts * plan.panel_parts, plan.points
    channels, outputs = plan.c, plan.k1
    panels = (outputs + 31) // 32
    for c in range(part * channels // parts, (part + 1) * channels // parts):
        for row in range(panels * points):
            at = plan.sums + (row * channels + c) * 128
            for s in range(1, plan.tile_parts):
                add_to(at, at + s * plan.sums_step, 2)
        for k in range(0, outputs, 16):
            u = plan.sums + ((k // 32 * points * channels + c) * 32 + k % 32) * 4
            call4(
                plan.weight_gradient_tile,
                u,
                channels * 128,
                plan.dw + (c * outputs + k) * 4,
                channels * outputs * 4,
            )
    if part == 0:
        set_zero(plan.db, outputs // 16)
        for s in range(plan.tile_parts):
            add_to(plan.db, plan.sums + panels * points * channels * 128 + s * plan.sums_step, outputs // 16)


@njit(inline="always")
def transform_weights(plan, begin, end, first_k, last_k, u, u_step):
    """Channels begin ... end of some outputs of one panel, from the weights w[3][3] into u."""
    if plan.output_bytes == 4:
        # Outputs first, as they lie in memory: a line that was not fetched ahead costs more than the transform
        for c in range(begin, end):
            for k in range(first_k, last_k, 16):
                w = plan.w + c * plan.channel_bytes + k * 4
                call5(plan.weight_tile, w, plan.tap_bytes, 4, u + (c - begin) * 128 + k % 32 * 4, u_step)
    else:
        for k in range(first_k, last_k, 16):
            for c in range(begin, end):
                w, out = plan.w + c * plan.channel_bytes + k * plan.output_bytes, u + (c - begin) * 128 + k % 32 * 4
                call5(plan.weight_tile, w, plan.tap_bytes, plan.output_bytes, out, u_step)


@worker(WEIGHTS)
def weights_worker(part, plans):
    """u from the weights, whose channels and outputs are channel_bytes and output_bytes apart."""
    plan = carray(plans, 1)[0]
    # A thread's share is what lies together: some channels, or some outputs if these are the rows
    begin, end, first, last = 0, plan.channels, 0, plan.outputs // 16
    if plan.output_bytes == 4:
        begin, end = end * part // plan.parts, end * (part + 1) // plan.parts
    else:
        first, last = last * part // plan.parts, last * (part + 1) // plan.parts
    for panel in range(first // 2, (last + 1) // 2):
        u = plan.u + panel * plan.points * plan.u_step + begin * 128
        first_k, last_k = max(first, 2 * panel) * 16, min(last, 2 * panel + 2) * 16
        transform_weights(plan, begin, end, first_k, last_k, u, plan.u_step)


BLANK = fixed(aligned_empty((CHANNELS,)))
BLANK[:] = 0


def split(geometry, panels, threads, whole_sums=False):
    """(threads along tiles, threads along panels): along panels when there are too few tiles to share.

    `whole_sums`: each thread keeps sums as large as its panels' weights, which is dear when its tiles are
    few.
    """
    tiles = geometry["N"] * geometry["down"] * geometry["across"]
    if whole_sums and tiles <= 512 and panels >= threads:
        return 1, threads
    for along_panels in range(1, threads + 1):
        if threads % along_panels == 0 and along_panels <= panels and (tiles + 7) // 8 >= 2 * threads // along_panels:
            return threads // along_panels, along_panels
    return 1, min(threads, panels)
