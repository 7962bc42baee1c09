"""3x3 convolutions for channels in multiples of 16: plain, stride 2, and after nearest x2 up-sampling.

Images are (N, H, W, C), weights (3, 3, Cin, Cout), all float32 and C-contiguous. Each function writes into the arrays that
it is given and keeps its scratch memory in a `Workspace`.
"""

from numba import get_num_threads

from backends.numba_kernels import algorithms
from backends.numba_kernels.winograd import (
    BLANK,
    forward_worker,
    split,
    weight_gradient_end,
    weight_gradient_worker,
    weights_worker,
)
from backends.numba_kernels.winograd_tiles import TileKernels


class Convolution:
    """One kind of convolution: an algorithm for the forward pass and the weight gradient, one for the input gradient."""

    def __init__(self, forward, backward):
        self.tiles, self.back_tiles = TileKernels(forward), TileKernels(backward)

    def weights(self, w, ws, backward=False, key="u"):
        """Transformed weights, for `forward` or for `input_gradient`: (ceil(K / 32), points^2, C, 32) in the workspace."""
        tiles = self.back_tiles if backward else self.tiles
        _, _, cin, cout = w.shape
        channels, outputs, step = (cout, cin, (4, 4 * cout)) if backward else (cin, cout, (4 * cout, 4))
        points = tiles.algorithm.points**2
        u = ws.get((key, tiles.algorithm.name, w.shape), ((outputs + 31) // 32, points, channels, 32))
        weights_worker.run(
            get_num_threads(),
            parts=get_num_threads(),
            weight_tile=(tiles.weight_tile_across if backward else tiles.weight_tile).address,
            points=points,
            w=w.ctypes.data,
            u=u.ctypes.data,
            channels=channels,
            outputs=outputs,
            channel_bytes=step[0],
            output_bytes=step[1],
            tap_bytes=4 * cin * cout,
        )
        return u

    def forward(self, x, u, y, ws, shift=None, residual=None, activation=None, block=None):
        """y = conv(x) + shift + residual, with u from `weights`.

        x, y: a tensor, or a pair whose concatenation along channels is meant. shift: (K,) or (N, K). residual: y's shape, or
        y itself to add to it; only when y is one tensor. activation: (scale, offset), each (N, C): the input is
        silu(scale * x + offset), padded with zeros.
        """
        return self._apply(self.tiles, x, u, y, ws, shift, residual, activation, block)

    def input_gradient(self, dy, u, dx, ws, residual=None, block=None):
        """dx of y = conv(x), with u from `weights(..., backward=True)`; dx may be a pair. residual as in `forward`."""
        return self._apply(self.back_tiles, dy, u, dx, ws, None, residual, None, block)

    def _apply(self, tiles, x, u, y, ws, shift, residual, activation, block):
        algorithm, points = tiles.algorithm, tiles.algorithm.points**2
        x, y = _pair(x), _pair(y)
        channels, outputs = x["c1"] + x["c2"], y["c1"] + y["c2"]
        geometry = _geometry(algorithm, x.pop("shape"), y.pop("shape"))
        block = block or (32 if channels <= 32 and points == 36 else 16)
        parts = split(geometry["N"] * geometry["down"] * geometry["across"], (outputs + 31) // 32)
        step = 6400 + points * ((channels * 4 + 128) * block + 128)
        scale, offset = activation or (None, None)
        forward_worker.run(
            parts[0] * parts[1],
            **x,
            **{name.replace("x", "y").replace("c", "k"): value for name, value in y.items()},
            **geometry,
            u=u.ctypes.data,
            scale=_address(scale),
            offset=_address(offset),
            shift=(BLANK if shift is None else shift).ctypes.data,
            shift_step=0 if shift is None or shift.ndim == 1 else outputs * 4,
            residual=_address(residual),
            input_tile=tiles.input_tile.address,
            output_tile=tiles.output_tile.address,
            block=block,
            tile_parts=parts[0],
            panel_parts=parts[1],
            work=ws.get("winograd", (parts[0] * parts[1] * step // 4,)).ctypes.data,
            work_step=step,
        )

    def weight_gradient(self, x, dy, dw, db, ws, activation=None, block=32, parts=None):
        """dw (3, 3, C, K) and db (K,) of y = conv(x) + b. x and activation as in `forward`; dy: one tensor."""
        tiles, points = self.tiles, self.tiles.algorithm.points**2
        x = _pair(x)
        channels, outputs = x["c1"] + x["c2"], dy.shape[3]
        geometry = _geometry(tiles.algorithm, x.pop("shape"), dy.shape)
        parts = parts or split(
            geometry["N"] * geometry["down"] * geometry["across"], (outputs + 31) // 32, whole_sums=True
        )
        step = 6400 + points * ((channels + outputs) * 4 * block + 128)
        sums_step = (outputs + 31) // 32 * points * channels * 128 + (outputs + 15) // 16 * 64 + 64
        scale, offset = activation or (None, None)
        fields = dict(
            **x,
            **geometry,
            scale=_address(scale),
            offset=_address(offset),
            y1=dy.ctypes.data,
            k1=outputs,
            input_tile=tiles.input_tile.address,
            gradient_tile=tiles.gradient_tile.address,
            weight_gradient_tile=tiles.weight_gradient_tile.address,
            block=block,
            tile_parts=parts[0],
            panel_parts=parts[1],
            sums=ws.get("winograd sums", (parts[0] * sums_step // 4,)).ctypes.data,
            sums_step=sums_step,
            work=ws.get("winograd", (parts[0] * parts[1] * step // 4,)).ctypes.data,
            work_step=step,
            dw=dw.ctypes.data,
            db=db.ctypes.data,
        )
        weight_gradient_worker.run(parts[0] * parts[1], **fields)
        weight_gradient_end.run(parts[0] * parts[1], **fields)


def _address(array):
    return 0 if array is None else array.ctypes.data


def _pair(tensors):
    """The plan's fields for one tensor, or for two to be read as their concatenation."""
    first, second = tensors if isinstance(tensors, tuple) else (tensors, None)
    channels = 0 if second is None else second.shape[3]
    return dict(x1=first.ctypes.data, c1=first.shape[3], x2=_address(second), c2=channels, shape=first.shape)


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
        blank=BLANK.ctypes.data,
    )


PLAIN = Convolution(algorithms.CONV, algorithms.CONV_DX)
DOWN0 = Convolution(algorithms.DOWN0, algorithms.DOWN_DX0)  # stride 2, zeros only after the last pixel
DOWN1 = Convolution(algorithms.DOWN1, algorithms.DOWN_DX1)  # stride 2, zeros on both sides
UP = Convolution(algorithms.UP, algorithms.UP_DX)
