"""3x3 convolutions for channels in multiples of 16: plain, stride 2, and after nearest x2 up-sampling.

Images are (N, H, W, C), weights (3, 3, Cin, Cout), all float32 and C-contiguous. Each function writes into
the arrays that it is given and keeps its scratch memory in a `Workspace`.
"""

from functools import cache

from backends.numba_kernels.convolution import algorithms, few_tiles
from backends.numba_kernels.convolution.tiles import TileKernels
from backends.numba_kernels.convolution.winograd import (
    BLANK,
    forward_worker,
    split,
    weight_gradient_end,
    weight_gradient_worker,
    weights_worker,
)
from backends.numba_kernels.runtime.addresses import address
from backends.thread_count import threads


class Convolution:
    """One kind of convolution: an algorithm for the forward pass and the weight gradient, one for the input
    gradient."""

    def __init__(self, forward, backward, stride=1, before=1, up=0):
        # Output pixel i reads from stride * i - before on, of the image with its sides doubled `up` times
        self.stride, self.before, self.up = stride, before, up
        self.tiles, self.back_tiles = TileKernels(forward), TileKernels(backward)

    def forward(self, x, w, y, ws, shift=None, residual=None):
        """y = conv(x) + shift + residual, with weights w.

        shift: (K,) or (N, K). residual: y's shape, or y itself to add to it.
        """
        self._apply(self.tiles, self.tiles.weight_tile, x, w, y, ws, shift, residual)

    def input_gradient(self, dy, w, dx, ws):
        """dx of y = conv(x). dx: a tensor, or a pair whose concatenation along channels is meant."""
        across = self.back_tiles.weight_tile_across
        self._apply(self.back_tiles, across, dy, w.transpose(0, 1, 3, 2), dx, ws, None, None)

    def _apply(self, tiles, weight_tile, x, w, y, ws, shift, residual):
        y1, y2 = y if isinstance(y, tuple) else (y, None)
        chunk = few_tiles.forward_chunk(tiles.algorithm, y1.shape)
        work, parts, size, template = _forward_plan(
            tiles, weight_tile, x.shape, y1.shape, _channels(y2), chunk, threads()
        )
        plan = work.plan(
            template,
            x=address(x),
            y1=address(y1),
            y2=address(y2),
            shift=address(BLANK if shift is None else shift),
            shift_step=0 if shift is None or shift.ndim == 1 else shift.shape[1] * 4,
            residual=address(residual),
            work=address(ws.get("winograd", size)),
            **_weights(tiles, weight_tile, w, ws, transformed=work is forward_worker),
        )
        work.run(parts, plan)

    def weight_gradient(self, x, dy, dw, db, ws):
        """dw (3, 3, C, K) and db (K,) of y = conv(x) + b."""
        chunk = few_tiles.gradient_chunk(self.tiles.algorithm, dy.shape)
        work, parts, sizes, template = _gradient_plan(self.tiles, x.shape, dy.shape, chunk, threads())
        plan = work.plan(
            template,
            x=address(x),
            y1=address(dy),
            dw=address(dw),
            db=address(db),
            sums=address(ws.get("winograd sums", sizes[0])) if work is weight_gradient_worker else 0,
            work=address(ws.get("winograd", sizes[1])),
        )
        work.run(parts, plan)
        if work is weight_gradient_worker:
            weight_gradient_end.run(parts, plan)


def _weights(tiles, weight_tile, w, ws, transformed):
    """Fields of a plan for weights (3, 3, C, K): transformed into the workspace, or as they are."""
    if transformed:
        return dict(u=address(transformed_weights(tiles, weight_tile, w, ws)))
    return dict(w=address(w), **layout_of(w))


def transformed_weights(tiles, weight_tile, w, ws):
    """u from weights (3, 3, C, K) of any strides: (ceil(K / 32), points^2, C, 32) in the workspace."""
    _, _, channels, outputs = w.shape
    points, parts = tiles.algorithm.points**2, threads()
    u = ws.get("u", ((outputs + 31) // 32, points, u_step(channels) // 4))
    plan = weights_worker.plan(
        parts=parts, weight_tile=weight_tile.address, points=points, w=address(w), u=address(u),
        u_step=u_step(channels), channels=channels, outputs=outputs, **layout_of(w),
    )  # fmt: skip
    weights_worker.run(parts, plan)
    return u


def layout_of(w):
    """Where the next tap, channel and output of weights (3, 3, C, K) are."""
    _, tap_bytes, channel_bytes, output_bytes = w.strides
    return dict(tap_bytes=tap_bytes, channel_bytes=channel_bytes, output_bytes=output_bytes)


def u_step(channels):
    """Bytes from one point's weights to the next; a power of two would put all points into one set of the cache."""
    return channels * 128 + 128


def _channels(tensor):
    return 0 if tensor is None else tensor.shape[3]


@cache
def _forward_plan(tiles, weight_tile, shape_in, shape_out, k2, chunk, threads):
    """The worker, threads, shape of the scratch memory, and the plan but for its addresses.

    chunk: input channels at a time in `few_tiles`, or 0 to do without.
    """
    algorithm = tiles.algorithm
    channels, outputs, points = shape_in[3], shape_out[3] + k2, algorithm.points**2
    geometry = _geometry(algorithm, shape_in, shape_out)
    work, panels = forward_worker, (outputs + 31) // 32
    block = 32 if channels <= 32 and points == 36 else 16
    step = points * ((channels * 4 + 128) * block + 128)
    tile_parts, panel_parts = split(geometry, panels, threads)
    if chunk:
        work, block = few_tiles.forward_worker, few_tiles.FORWARD_BLOCK
        tile_parts, panel_parts = few_tiles.split(algorithm.tiles(shape_out), panels, threads)
        step = few_tiles.CACHE
    plan = work.plan(
        **geometry,
        c=channels,
        u_step=u_step(channels),
        k1=shape_out[3],
        k2=k2,
        input_tile=tiles.input_tile.address,
        output_tile=tiles.output_tile.address,
        weight_tile=weight_tile.address,
        block=block,
        chunk=chunk,
        tile_parts=tile_parts,
        panel_parts=panel_parts,
        work_step=step,
    )
    return work, tile_parts * panel_parts, (tile_parts * panel_parts * step // 4,), plan


@cache
def _gradient_plan(tiles, shape_in, shape_out, chunk, threads, block=32):
    """As `_forward_plan`, and the shape of the sums."""
    algorithm = tiles.algorithm
    channels, outputs, points = shape_in[3], shape_out[3], algorithm.points**2
    geometry = _geometry(algorithm, shape_in, shape_out)
    work, panels = weight_gradient_worker, (outputs + 31) // 32
    tile_parts, panel_parts = split(geometry, panels, threads, whole_sums=True)
    step = points * ((channels + outputs) * 4 * block + 128)
    # Weights, the bias of all tiles, that of a block, and a line, so that threads' sums fall into different sets
    sums_step = panels * points * channels * 128 + (outputs + 15) // 16 * 128 + 64
    if chunk and few_tiles.balanced(panels * -(-channels // chunk), threads):
        work, block, tile_parts, panel_parts = few_tiles.weight_gradient_worker, few_tiles.GRADIENT_BLOCK, 1, threads
        step, sums_step = few_tiles.CACHE, 0
    plan = work.plan(
        **geometry,
        c=channels,
        k1=outputs,
        input_tile=tiles.input_tile.address,
        gradient_tile=tiles.gradient_tile.address,
        weight_gradient_tile=tiles.weight_gradient_tile.address,
        block=block,
        chunk=chunk,
        tile_parts=tile_parts,
        panel_parts=panel_parts,
        parts=tile_parts * panel_parts,
        sums_step=sums_step,
        work_step=step,
    )
    parts = tile_parts * panel_parts
    return work, parts, ((tile_parts * sums_step // 4,), (parts * step // 4,)), plan


def _geometry(algorithm, shape_in, shape_out):
    (n, height_in, width_in, _), (_, height_out, width_out, _) = shape_in, shape_out
    side = algorithm.outputs
    return dict(
        N=n,
        height_in=height_in,
        width_in=width_in,
        step_in=algorithm.step_in,
        offset_in=algorithm.offset,
        height_out=height_out,
        width_out=width_out,
        step_out=side,
        down=(height_out + side - 1) // side,
        across=(width_out + side - 1) // side,
        points=algorithm.points**2,
        blank=address(BLANK),
    )


PLAIN = Convolution(algorithms.CONV, algorithms.CONV_DX)
DOWN0 = Convolution(
    algorithms.DOWN0, algorithms.DOWN_DX0, stride=2, before=0
)  # stride 2, zeros only after the last pixel
DOWN1 = Convolution(algorithms.DOWN1, algorithms.DOWN_DX1, stride=2)  # zeros on both sides
UP = Convolution(algorithms.UP, algorithms.UP_DX, up=1)
