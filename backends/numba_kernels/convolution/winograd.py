"""Convolutions by the bilinear algorithms of `algorithms`: forward, input gradient and weight gradient.

A block of tiles is transformed into `points`^2 small matrices, multiplied, and transformed back, a panel of
32 output channels at a time, so that everything but the images stays in the core's own cache. While a panel
is multiplied, cache lines for the next transforms are prefetched. Images are NHWC float32,
channels a multiple of 16.

Places in the scratch of a part, the last axis being one 64-byte vector of 16 channels, q running over points^2:
  v (q, C/16, block, 16)  transformed inputs          g (q, K/16, block, 16)  transformed output gradients
  m (q, block, 2, 16)     products of one panel       sums (K/32, q, C, 2, 16)  gradients of transformed weights
and outside it, for all parts: u (K/32, q, C, 2, 16)  transformed weights.
Rows (q) are a line apart, and those of u two, so that not all points fall into one set of the cache.

Not done, and why: SiLU and the normalisation could be applied as patches are read, sparing a pass over the images. It
was measured: 10 % on two of seven shapes, nothing on the others; each input is in 2.25 patches and would go through
exp as often. Tiles at the right and lower edge are computed whole, also where the image ends within them. y2 is not
prefetched.
"""

from numba import carray, njit

from backends.numba_kernels.runtime.addresses import call4, call5, call10, call11
from backends.numba_kernels.runtime.launch import PlanType, worker
from backends.numba_kernels.runtime.layouts import Layout, Rows
from backends.numba_kernels.vectors.gemm import PANEL, PANEL_BYTES, ROWS, gemm_columns, gemm_rows
from backends.numba_kernels.vectors.lanes import BYTES, WIDTH
from backends.numba_kernels.vectors.rows import add_to, prefetch_read, prefetch_write, set_zero

# Images, tiles, and what one thread works in; the fields of all workers here and in `few_tiles`. *_tile are addresses
# of functions. step_in, step_out, offset_in: pixels, see `kinds.geometry`; down, across: tiles of an image; points: of
# a tile, in two dimensions; block: tiles at a time; tile_parts, panel_parts: parts are tile_parts x panel_parts
GEOMETRY = (
    "x c N height_in width_in step_in offset_in height_out width_out step_out down across points blank"
    " input_tile block scratch part_bytes v_at v_bytes"
)
# y may be two tensors that are joined along channels; the second has k2 = 0 channels where there is one
OUTPUTS = f"{GEOMETRY} y1 k1 k2 shift shift_bytes output_tile tile_parts panel_parts m_at m_bytes"
GRADIENTS = f"{GEOMETRY} dy k gradient_tile weight_gradient_tile g_at g_bytes dw db"
WEIGHTS = "w weight_tile channel_bytes output_bytes tap_bytes"
FORWARD = PlanType(f"{OUTPUTS} u u_bytes", optional="y2 residual")
GRADIENT = PlanType(f"{GRADIENTS} tile_parts panel_parts sums sums_bytes bias_at block_bias_at")
TRANSFORM = PlanType(f"{WEIGHTS} parts points u u_bytes channels outputs")


def block_of_vectors(channels, block):
    """A row of v or g: `channels` of a block of tiles, in vectors of 16."""
    return channels // WIDTH * block * BYTES


def forward_layout(points, channels, block):
    """The scratch of one part of `forward_worker`. points: of a tile, in two dimensions."""
    return Layout(v=Rows(points, block_of_vectors(channels, block)), m=Rows(points, block * PANEL_BYTES))


def gradient_layout(points, channels, outputs, block):
    """The scratch of one part of `weight_gradient_worker` with panels of `outputs` outputs in all."""
    return Layout(v=Rows(points, block_of_vectors(channels, block)), g=Rows(points, block_of_vectors(outputs, block)))


def sums_layout(points, channels, outputs):
    """The sums of the threads that share some tiles: weights, the bias of all tiles, and that of a block.

    A line more keeps the sums of different threads in different sets of the cache.
    """
    panels, bias = -(-outputs // PANEL), -(-outputs // WIDTH) * BYTES
    return Layout(weights=panels * points * channels * PANEL_BYTES, bias=bias, block_bias=bias, apart=BYTES)


def weights_layout(points, channels, outputs):
    """The transformed weights u, two lines between those of one point and the next."""
    return Layout(u=Rows(-(-outputs // PANEL) * points, channels * PANEL_BYTES, PANEL_BYTES))


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
def panels_of(plan, outputs, panel_part):
    """(first, last) of a thread's panels."""
    panels = (outputs + PANEL - 1) // PANEL
    return panels * panel_part // plan.panel_parts, panels * (panel_part + 1) // plan.panel_parts


@njit(inline="always")
def transform_inputs(plan, start, count, whole, begin, end, v):
    """Channels begin ... end of the tiles start ... start + count into v; the rows up to `whole` are filled with
    zeros."""
    for p in range(whole):
        n, i, j = tile_at(plan, start + p)
        i, j = i * plan.step_in - plan.offset_in, j * plan.step_in - plan.offset_in
        corner = plan.x + pixel(n, i, j, plan.height_in, plan.width_in, plan.c)
        for c in range(begin, end, WIDTH):
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
                v + ((c - begin) // WIDTH * plan.block + p) * BYTES,
                plan.v_bytes,
            )


@njit(inline="always")
def write_outputs(plan, start, count, panel, m):
    """One panel of the tiles start ... start + count, from its products m."""
    outputs = plan.k1 + plan.k2
    for p in range(count):
        n, i, j = tile_at(plan, start + p)
        i, j = i * plan.step_out, j * plan.step_out
        for k in range(panel * PANEL, min(panel * PANEL + PANEL, outputs), WIDTH):
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
                m + p * PANEL_BYTES + (k - panel * PANEL) // WIDTH * BYTES,
                plan.m_bytes,
                y,
                i,
                j,
                plan.height_out,
                plan.width_out,
                plan.width_out * col_bytes,
                col_bytes,
                plan.shift + n * plan.shift_bytes + k * 4,
                plan.residual + at if plan.residual != 0 else 0,
            )


@njit(inline="always")
def transform_gradients(plan, start, count, whole, first_k, last_k, g, bias):
    """Some outputs of the output gradients of tiles start ... start + count into g, and their sum to bias, if not 0."""
    side = plan.step_out
    for p in range(whole):
        n, i, j = tile_at(plan, start + p)
        i, j = i * side, j * side
        corner = plan.dy + pixel(n, i, j, plan.height_out, plan.width_out, plan.k)
        for k in range(first_k, last_k, WIDTH):
            call11(
                plan.gradient_tile,
                corner + k * 4,
                i,
                j,
                plan.height_out if p < count else 0,
                plan.width_out,
                plan.width_out * plan.k * 4,
                plan.k * 4,
                plan.blank,
                g + ((k - first_k) // WIDTH * plan.block + p) * BYTES,
                plan.g_bytes,
                bias + (k - first_k) * 4 if bias != 0 else 0,
            )


@njit(inline="always")
def prefetch_outputs(plan, tile, q, panel):
    """Prefetches a row of pixels that `write_outputs` will write: the eight tiles from `tile` on have 8 * side of them,
    one for each of the first points q."""
    side = plan.step_out
    if q < ROWS * side:
        n, i, j = tile_at(plan, tile + q // side)
        i, j = i * side + q % side, j * side
        row = plan.y1 + pixel(n, i, j, plan.height_out, plan.width_out, plan.k1) + panel * PANEL_BYTES
        for column in range(side):
            prefetch_write(row + column * plan.k1 * 4, PANEL_BYTES)


@njit(inline="always")
def share_of(bytes_, calls):
    """What each of `calls` calls prefetches of `bytes_` in all: whole lines."""
    return bytes_ // calls // 64 * 64 + 64


@worker(FORWARD)
def forward_worker(part, plans):
    """The tiles and panels of one thread.

    x: N × H × W × C float32; u: K/32 × points × C × 32, rows (C × 32) u_bytes apart; y1: N × H' × W' × k1, y2: … × k2,
    k1 + k2 = K; shift: K, or N × K with shift_bytes between images; residual: y1's shape.
    """
    plan = carray(plans, 1)[0]
    tile_part, panel_part = divmod(part, plan.panel_parts)
    points, block, chunks = plan.points, plan.block, plan.c // WIDTH
    first, last = tiles_of(plan, tile_part)
    first_panel, last_panel = panels_of(plan, plan.k1 + plan.k2, panel_part)
    v = plan.scratch + part * plan.part_bytes + plan.v_at
    m = plan.scratch + part * plan.part_bytes + plan.m_at
    tile_bytes = plan.step_in * plan.step_in * plan.c * 4
    share = share_of(block * tile_bytes, max(1, (last_panel - first_panel) * points * block // ROWS))
    for start in range(first, last, block):
        count = min(block, last - start)
        transform_inputs(plan, start, count, count, 0, plan.c, v)
        ahead = plan.x + (start + block) * tile_bytes
        for panel in range(first_panel, last_panel):
            for q in range(points):
                u = plan.u + (panel * points + q) * plan.u_bytes
                for p in range(0, count, ROWS):
                    prefetch_outputs(plan, start + p, q, panel)
                    prefetch_read(ahead, share)
                    ahead += share
                    rows, out = v + q * plan.v_bytes + p * BYTES, m + q * plan.m_bytes + p * PANEL_BYTES
                    gemm_rows(rows, block * BYTES, u, chunks, out, 0)
            write_outputs(plan, start, count, panel, m)


@worker(GRADIENT)
def weight_gradient_worker(part, plans):
    """The sum over one thread's tiles of the products of transformed inputs and output gradients.

    x: N × H × W × C float32; dy: N × H' × W' × K; sums: tile_parts × (K/32 × points × C × 32, bias K, bias of a block
    K).
    """
    plan = carray(plans, 1)[0]
    channels, outputs = plan.c, plan.k
    tile_part, panel_part = divmod(part, plan.panel_parts)
    tiles, points = plan.N * plan.down * plan.across, plan.points
    first, last = tiles * tile_part // plan.tile_parts, tiles * (tile_part + 1) // plan.tile_parts
    first_panel, last_panel = panels_of(plan, outputs, panel_part)
    first_k, last_k = first_panel * PANEL, min(outputs, last_panel * PANEL)
    block, side, vectors = plan.block, plan.step_out, (last_k - first_k) // WIDTH
    sums = plan.sums + tile_part * plan.sums_bytes
    bias, block_bias = sums + plan.bias_at + first_k * 4, sums + plan.block_bias_at + first_k * 4
    v = plan.scratch + part * plan.part_bytes + plan.v_at
    g = plan.scratch + part * plan.part_bytes + plan.g_at
    if first == last:
        rows = (last_panel - first_panel) * points * channels
        set_zero(sums + first_panel * points * channels * PANEL_BYTES, 2 * rows)
    set_zero(bias, vectors)
    calls = max(1, (last_panel - first_panel) * points * channels // ROWS)
    x_bytes, dy_bytes = plan.step_in * plan.step_in * channels * 4, side * side * outputs * 4
    share_x, share_dy = share_of(block * x_bytes, calls), share_of(block * dy_bytes, calls)
    for start in range(first, last, block):
        count = min(block, last - start)
        whole = (count + 3) // 4 * 4
        transform_inputs(plan, start, count, whole, 0, channels, v)
        set_zero(block_bias, vectors)
        transform_gradients(plan, start, count, whole, first_k, last_k, g, block_bias)
        add_to(bias, block_bias, vectors)
        ahead_x, ahead_dy = plan.x + (start + block) * x_bytes, plan.dy + (start + block) * dy_bytes
        for q in range(points):
            for panel in range(first_panel, last_panel):
                low = g + q * plan.g_bytes + (panel - first_panel) * 2 * block * BYTES
                high = low + block * BYTES if panel * PANEL + WIDTH < outputs else low
                for c in range(0, channels, ROWS):
                    prefetch_read(ahead_x, share_x)
                    ahead_x += share_x
                    prefetch_read(ahead_dy, share_dy)
                    ahead_dy += share_dy
                    a = v + q * plan.v_bytes + c // WIDTH * block * BYTES + c % WIDTH * 4
                    out = sums + ((panel * points + q) * channels + c) * PANEL_BYTES
                    # The eight rows after these
                    prefetch_write(out + ROWS * PANEL_BYTES, ROWS * PANEL_BYTES)
                    gemm_columns(a, low, high, whole // 4, out, start - first)


@worker(GRADIENT)
def weight_gradient_end(part, plans):
    """Sum over the threads, in their order, and transform back.

    sums: as `weight_gradient_worker` leaves them; dw: 3 × 3 × C × K float32; db: K.
    """
    plan = carray(plans, 1)[0]
    parts, points = plan.tile_parts * plan.panel_parts, plan.points
    channels, outputs = plan.c, plan.k
    panels = (outputs + PANEL - 1) // PANEL
    for c in range(part * channels // parts, (part + 1) * channels // parts):
        for row in range(panels * points):
            at = plan.sums + (row * channels + c) * PANEL_BYTES
            for s in range(1, plan.tile_parts):
                add_to(at, at + s * plan.sums_bytes, 2)
        for k in range(0, outputs, WIDTH):
            u = plan.sums + (k // PANEL * points * channels + c) * PANEL_BYTES + k % PANEL * 4
            dw = plan.dw + (c * outputs + k) * 4
            call4(plan.weight_gradient_tile, u, channels * PANEL_BYTES, dw, channels * outputs * 4)
    if part == 0:
        set_zero(plan.db, outputs // WIDTH)
        for s in range(plan.tile_parts):
            add_to(plan.db, plan.sums + s * plan.sums_bytes + plan.bias_at, outputs // WIDTH)


@njit(inline="always")
def transform_weights(plan, begin, end, first_k, last_k, u, u_bytes):
    """Channels begin ... end of some outputs of one panel, from the weights w[3][3] into u."""
    if plan.output_bytes == 4:
        # Outputs innermost, in memory order: a cache miss costs more than the transform
        for c in range(begin, end):
            for k in range(first_k, last_k, WIDTH):
                w = plan.w + c * plan.channel_bytes + k * 4
                call5(plan.weight_tile, w, plan.tap_bytes, 4, u + (c - begin) * PANEL_BYTES + k % PANEL * 4, u_bytes)
    else:
        for k in range(first_k, last_k, WIDTH):
            for c in range(begin, end):
                w, out = (
                    plan.w + c * plan.channel_bytes + k * plan.output_bytes,
                    u + (c - begin) * PANEL_BYTES + k % PANEL * 4,
                )
                call5(plan.weight_tile, w, plan.tap_bytes, plan.output_bytes, out, u_bytes)


@worker(TRANSFORM)
def weights_worker(part, plans):
    """u from the weights.

    w: 3 × 3 × C × K float32, taps tap_bytes, channels channel_bytes and outputs output_bytes apart; u: K/32 × points ×
    C × 32, rows (C × 32) u_bytes apart.
    """
    plan = carray(plans, 1)[0]
    # A thread's share is what is contiguous: some channels, or some outputs if these are the rows
    begin, end, first, last = 0, plan.channels, 0, plan.outputs // WIDTH
    if plan.output_bytes == 4:
        begin, end = end * part // plan.parts, end * (part + 1) // plan.parts
    else:
        first, last = last * part // plan.parts, last * (part + 1) // plan.parts
    for panel in range(first // 2, (last + 1) // 2):
        u = plan.u + panel * plan.points * plan.u_bytes + begin * PANEL_BYTES
        first_k, last_k = max(first, 2 * panel) * WIDTH, min(last, 2 * panel + 2) * WIDTH
        transform_weights(plan, begin, end, first_k, last_k, u, plan.u_bytes)


def split(geometry, panels, threads, whole_sums=False):
    """(threads along tiles, threads along panels): along panels when there are too few tiles to share.

    `whole_sums`: each thread keeps sums as large as its panels' weights, which is expensive when it
    has few tiles.
    """
    tiles = geometry["N"] * geometry["down"] * geometry["across"]
    if whole_sums and tiles <= 512 and panels >= threads:
        return 1, threads
    for along_panels in range(1, threads + 1):
        if threads % along_panels == 0 and along_panels <= panels and (tiles + 7) // 8 >= 2 * threads // along_panels:
            return threads // along_panels, along_panels
    return 1, min(threads, panels)
