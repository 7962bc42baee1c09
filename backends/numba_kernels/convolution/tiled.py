"""Convolutions by tiles, launched: plans for the workers of `winograd` and `few_tiles`, whichever the sizes ask for.

Channels are multiples of 16; images (N, H, W, C) and weights (3, 3, Cin, Cout) are float32 and C-contiguous, but the
weights of `apply` may have any strides. A plan but for its addresses depends on the sizes alone, so it is kept.
"""

from functools import cache

from backends.numba_kernels import tuning
from backends.numba_kernels.convolution import few_tiles, winograd
from backends.numba_kernels.convolution.kinds import Sizes, geometry
from backends.numba_kernels.padding import BLANK
from backends.numba_kernels.runtime.addresses import address
from backends.numba_kernels.runtime.pool import POOL
from backends.numba_kernels.vectors.gemm import PANEL, ROWS
from backends.numba_kernels.vectors.lanes import FLOAT_BYTES
from backends.thread_count import threads


def forward(kind, x, w, y, shift=None, residual=None):
    """y = conv(x) + shift + residual, with weights w.

    shift: (K,) or (N, K). residual: y's shape, or y itself to add to it.
    """
    apply(kind.tiles, kind.tiles.weight_tile, x, w, (y,), shift, residual)


def input_gradient(kind, dy, w, *dx):
    """dx of y = conv(x): one tensor, or two that are joined along channels."""
    apply(kind.back_tiles, kind.back_tiles.weight_tile_across, dy, w.transpose(0, 1, 3, 2), dx)


def apply(tiles, weight_tile, x, w, ys, shift=None, residual=None):
    """The convolution of an algorithm's `tiles` into one or two tensors; weight_tile: fits the strides of w."""
    y, second = ys if len(ys) == 2 else (ys[0], None)
    sizes = Sizes(x.shape[:3], x.shape[3], y.shape[:3], y.shape[3], 0 if second is None else second.shape[3])
    work, parts, layout, template = forward_plan(
        tiles, weight_tile, sizes, few_tiles.forward_chunk(tiles.algorithm, y.shape), threads()
    )
    scratch = POOL.empty(layout.floats(parts))
    if work is winograd.forward_worker:
        u = transformed_weights(tiles, weight_tile, w)
        weights = dict(u=address(u))
    else:
        weights = dict(w=address(w), **strides_of(w))
    plan = template.plan(
        x=address(x),
        y1=address(y),
        y2=address(second),
        shift=address(BLANK if shift is None else shift),
        shift_bytes=0 if shift is None or shift.ndim == 1 else shift.strides[0],
        residual=address(residual),
        scratch=address(scratch),
        **weights,
    )
    work.run(parts, plan)


def weight_gradient(kind, x, dy, dw, db):
    """dw (3, 3, C, K) and db (K,) of y = conv(x) + b."""
    sizes = Sizes(x.shape[:3], x.shape[3], dy.shape[:3], dy.shape[3])
    chunk = few_tiles.gradient_chunk(kind.tiles.algorithm, dy.shape)
    work, parts, layout, sums_layout, template = gradient_plan(kind.tiles, sizes, chunk, threads())
    scratch = POOL.empty(layout.floats(parts))
    addresses = dict(x=address(x), dy=address(dy), dw=address(dw), db=address(db), scratch=address(scratch))
    if work is few_tiles.weight_gradient_worker:
        work.run(parts, template.plan(**addresses))
        return
    sums = POOL.empty(sums_layout.floats(template["tile_parts"]))
    plan = template.plan(**addresses, sums=address(sums))
    work.run(parts, plan)
    winograd.weight_gradient_end.run(parts, plan)


def transformed_weights(tiles, weight_tile, w):
    """u from weights (3, 3, C, K) of any strides: (ceil(K / 32), points^2, C * 32 + 32), the end of each row unused."""
    _, _, channels, outputs = w.shape
    points, parts = tiles.algorithm.points**2, threads()
    layout = winograd.weights_layout(points, channels, outputs)
    u = POOL.empty(layout.floats(1))
    plan = winograd.weights_worker.plan(
        parts=parts, weight_tile=weight_tile.address, points=points, w=address(w), u=address(u),
        u_bytes=layout.fields["u_bytes"], channels=channels, outputs=outputs, **strides_of(w),
    )  # fmt: skip
    winograd.weights_worker.run(parts, plan)
    panels, row = -(-outputs // PANEL), layout.fields["u_bytes"] // FLOAT_BYTES
    return u[: panels * points * row].reshape(panels, points, row)


def strides_of(w):
    """Where the next tap, channel and output of weights (3, 3, C, K) are."""
    _, tap_bytes, channel_bytes, output_bytes = w.strides
    return dict(tap_bytes=tap_bytes, channel_bytes=channel_bytes, output_bytes=output_bytes)


@cache
def forward_plan(tiles, weight_tile, sizes, chunk, threads):
    """The worker, the number of its parts, the layout of their scratch, and the plan but for addresses of arrays.

    chunk: input channels at a time in `few_tiles`, or 0 for `winograd`.
    """
    algorithm = tiles.algorithm
    channels, outputs, points = sizes.channels, sizes.outputs + sizes.second, algorithm.points**2
    place, panels = geometry(algorithm, sizes), -(-outputs // PANEL)
    fields = dict(
        **place,
        c=channels,
        k1=sizes.outputs,
        k2=sizes.second,
        blank=address(BLANK),
        input_tile=tiles.input_tile.address,
        output_tile=tiles.output_tile.address,
    )
    if chunk:
        work, block = few_tiles.forward_worker, few_tiles.FORWARD_BLOCK
        count = algorithm.tiles((*sizes.results, outputs))
        tile_parts, panel_parts = few_tiles.split(count, panels, threads)
        # The largest share of `tiles_of`, which gives out whole groups of eight
        groups = -(-count // ROWS)
        # As large for all sizes: the peak memory of a step is predicted from its growth with the batch
        layout = few_tiles.forward_layout(points, chunk, -(-groups // tile_parts) * ROWS).at_least(tuning.CACHE)
        fields |= dict(chunk=chunk, weight_tile=weight_tile.address)
    else:
        work, block = winograd.forward_worker, 32 if channels <= 32 and points == 36 else 16
        tile_parts, panel_parts = winograd.split(place, panels, threads)
        layout = winograd.forward_layout(points, channels, block)
        weights = winograd.weights_layout(points, channels, outputs)
        fields["u_bytes"] = weights.fields["u_bytes"]
    fields |= dict(block=block, tile_parts=tile_parts, panel_parts=panel_parts)
    return work, tile_parts * panel_parts, layout, work.template(**fields, **layout.fields, part_bytes=layout.bytes)


@cache
def gradient_plan(tiles, sizes, chunk, threads, block=32):
    """As `forward_plan`, and the layout of the sums of the threads that share tiles, or None."""
    algorithm = tiles.algorithm
    channels, outputs, points = sizes.channels, sizes.outputs, algorithm.points**2
    place, panels = geometry(algorithm, sizes), -(-outputs // PANEL)
    fields = dict(
        **place,
        c=channels,
        k=outputs,
        blank=address(BLANK),
        input_tile=tiles.input_tile.address,
        gradient_tile=tiles.gradient_tile.address,
        weight_gradient_tile=tiles.weight_gradient_tile.address,
    )
    if chunk and few_tiles.balanced(panels * -(-channels // chunk), threads):
        work, parts, sums = few_tiles.weight_gradient_worker, threads, None
        layout = few_tiles.gradient_layout(points, chunk).at_least(tuning.CACHE)
        fields |= dict(block=few_tiles.GRADIENT_BLOCK, chunk=chunk, parts=parts)
    else:
        work = winograd.weight_gradient_worker
        tile_parts, panel_parts = winograd.split(place, panels, threads, whole_sums=True)
        parts = tile_parts * panel_parts
        # The largest share of `panels_of`
        layout = winograd.gradient_layout(points, channels, min(outputs, -(-panels // panel_parts) * PANEL), block)
        sums = winograd.sums_layout(points, channels, outputs)
        fields |= dict(block=block, tile_parts=tile_parts, panel_parts=panel_parts, sums_bytes=sums.bytes)
        fields |= {name: sums.fields[name] for name in ("bias_at", "block_bias_at")}
    return work, parts, layout, sums, work.template(**fields, **layout.fields, part_bytes=layout.bytes)
