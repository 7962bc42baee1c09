"""3x3 convolutions for channels in multiples of 16: plain, stride 2, and after nearest x2 up-sampling.

Images are (N, H, W, C), weights (3, 3, Cin, Cout), all float32 and C-contiguous. Each function writes into
the arrays that it is given and keeps its scratch memory in a `Workspace`.
"""

from functools import cache

from backends.numba_kernels import algorithms
from backends.numba_kernels.threads import address
from backends.numba_kernels.winograd import (
    BLANK,
    forward_worker,
    split,
    weight_gradient_end,
    weight_gradient_worker,
    weights_worker,
)
from backends.numba_kernels.winograd_tiles import TileKernels
from backends.processors import threads


class Convolution:
    """One kind of convolution: an algorithm for the forward pass and the weight gradient, one for the input
    gradient."""

    def __init__(self, forward, backward, stride=1, before=1, up=0):
        # Output pixel i reads from stride * i - before on, of the image with its sides doubled `up` times
        self.stride, self.before, self.up = stride, before, up
        self.tiles, self.back_tiles = TileKernels(forward), TileKernels(backward)

    def weights(self, w, ws, backward=False, key="u"):
        """Transformed weights, for `forward` or for `input_gradient`: (ceil(K / 32), points^2, C, 32) in the
        workspace."""
        tiles = self.back_tiles if backward else self.tiles
        _, _, cin, cout = w.shape
        channels, outputs, step = (cout, cin, (4, 4 * cout)) if backward else (cin, cout, (4 * cout, 4))
        points, parts = tiles.algorithm.points**2, threads()
        u = ws.get((key, tiles.algorithm.name, w.shape), ((outputs + 31) // 32, points, u_step(channels) // 4))
        plan = weights_worker.plan(
            parts=parts,
            weight_tile=(tiles.weight_tile_across if backward else tiles.weight_tile).address,
            points=points,
            w=address(w),
            u=address(u),
            u_step=u_step(channels),
            channels=channels,
            outputs=outputs,
            channel_bytes=step[0],
            output_bytes=step[1],
            tap_bytes=4 * cin * cout,
        )
        weights_worker.run(parts, plan)
        return u

    def forward(self, x, u, y, ws, shift=None, residual=None):
        """y = conv(x) + shift + residual, with u from `weights`.

        shift: (K,) or (N, K). residual: y's shape, or y itself to add to it.
        """
        self._apply(self.tiles, x, u, y, ws, shift, residual)

    def input_gradient(self, dy, u, dx, ws, residual=None):
        """dx of y = conv(x), with u from `weights(..., backward=True)`. dx: a tensor, or a pair whose concatenation
        along channels is meant. residual: dx's shape, or dx itself to add to it; only when dx is one tensor."""
        self._apply(self.back_tiles, dy, u, dx, ws, None, residual)

    def _apply(self, tiles, x, u, y, ws, shift, residual):
        y1, y2 = y if isinstance(y, tuple) else (y, None)
        parts, size, template = _forward_plan(tiles, x.shape, y1.shape, _channels(y2), threads())
        plan = forward_worker.plan(
            template,
            x=address(x),
            u=address(u),
            y1=address(y1),
            y2=address(y2),
            shift=address(BLANK if shift is None else shift),
            shift_step=0 if shift is None or shift.ndim == 1 else shift.shape[1] * 4,
            residual=address(residual),
            work=address(ws.get("winograd", size)),
        )
        forward_worker.run(parts, plan)

    def weight_gradient(self, x, dy, dw, db, ws):
        """dw (3, 3, C, K) and db (K,) of y = conv(x) + b."""
        parts, sizes, template = _gradient_plan(self.tiles, x.shape, dy.shape, threads())
        plan = weight_gradient_worker.plan(
            template,
            x=address(x),
            y1=address(dy),
            dw=address(dw),
            db=address(db),
            sums=address(ws.get("winograd sums", sizes[0])),
            work=address(ws.get("winograd", sizes[1])),
        )
        weight_gradient_worker.run(parts, plan)
        weight_gradient_end.run(parts, plan)


def u_step(channels):
    """Bytes from one point's weights to the next; a power of two would put all points into one set of the cache."""
    return channels * 128 + 128


def _channels(tensor):
    return 0 if tensor is None else tensor.shape[3]


@cache
def _forward_plan(tiles, shape_in, shape_out, k2, threads):
    """Threads, shape of the scratch memory, and the plan but for its addresses."""
    algorithm = tiles.algorithm
    channels, outputs, points = shape_in[3], shape_out[3] + k2, algorithm.points**2
    geometry = _geometry(algorithm, shape_in, shape_out)
    block = 32 if channels <= 32 and points == 36 else 16
    tile_parts, panel_parts = split(geometry, (outputs + 31) // 32, threads)
    step = points * ((channels * 4 + 128) * block + 128)
    plan = forward_worker.plan(
        **geometry,
        c=channels,
        u_step=u_step(channels),
        k1=shape_out[3],
        k2=k2,
        input_tile=tiles.input_tile.address,
        output_tile=tiles.output_tile.address,
        block=block,
        tile_parts=tile_parts,
        panel_parts=panel_parts,
        work_step=step,
    )
    return tile_parts * panel_parts, (tile_parts * panel_parts * step // 4,), plan


@cache
def _gradient_plan(tiles, shape_in, shape_out, threads, block=32):
    """Threads, shapes of the sums and of the scratch memory, and the plan but for its addresses."""
    algorithm = tiles.algorithm
    channels, outputs, points = shape_in[3], shape_out[3], algorithm.points**2
    geometry = _geometry(algorithm, shape_in, shape_out)
    tile_parts, panel_parts = split(geometry, (outputs + 31) // 32, threads, whole_sums=True)
    step = points * ((channels + outputs) * 4 * block + 128)
    sums_step = (outputs + 31) // 32 * points * channels * 128 + (outputs + 15) // 16 * 64 + 64
    plan = weight_gradient_worker.plan(
        **geometry,
        c=channels,
        k1=outputs,
        input_tile=tiles.input_tile.address,
        gradient_tile=tiles.gradient_tile.address,
        weight_gradient_tile=tiles.weight_gradient_tile.address,
        block=block,
        tile_parts=tile_parts,
        panel_parts=panel_parts,
        sums_step=sums_step,
        work_step=step,
    )
    parts = tile_parts * panel_parts
    return parts, ((tile_parts * sums_step // 4,), (parts * step // 4,)), plan


def _geometry(algorithm, shape_in, shape_out):
    (n, height_in, width_in, _), (_, height_out, width_out, _) = shape_in, shape_out
    side = algorithm.outputs
    return dict(
        N=n,
        height_in=height_in,
        width_in=width_in,
        step_in=algorithm.step_in,
        offset_in=algorithm.offset,
        inputs=algorithm.inputs,
        height_out=height_out,
        width_out=width_out,
        step_out=side,
        down=(height_out + side - 1) // side,
        across=(width_out + side - 1) // side,
        points=algorithm.points**2,
        side=algorithm.points,
        one1=algorithm.ones[0],
        one2=algorithm.ones[1] if len(algorithm.ones) > 1 else -1,
        blank=address(BLANK),
    )


PLAIN = Convolution(algorithms.CONV, algorithms.CONV_DX)
DOWN0 = Convolution(
    algorithms.DOWN0, algorithms.DOWN_DX0, stride=2, before=0
)  # stride 2, zeros only after the last pixel
DOWN1 = Convolution(algorithms.DOWN1, algorithms.DOWN_DX1, stride=2)  # zeros on both sides
UP = Convolution(algorithms.UP, algorithms.UP_DX, up=1)
