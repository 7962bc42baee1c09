"""Launchers of `convolution.cu` and `conv_weight_gradient.cu`: tiles, grids and shared memory.

`Convolutions` has what the backend's operations are made of. All arrays are float32 and C-contiguous.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from backends.cupy_kernels import geometry as geometries
from backends.cupy_kernels import tuning
from backends.cupy_kernels.geometry import Geometry, ceil

# What `--precision` names -> how numbers are multiplied: its name in the kernels, and the thinnest slice of depth
PRODUCTS = {"fp32": ("Split", 8), "tf32": ("Tf32", 8), "bf16": ("Rounded", 16)}


class NormInput(NamedTuple):
    """The normalisation that a kernel applies to its input: mean, rstd: (N, G); gamma, beta: (C,); mask or None."""

    mean: Any
    rstd: Any
    gamma: Any
    beta: Any
    mask: Any


class Inputs(NamedTuple):
    """x and what is joined to it along channels, or None; and the normalisation of both, or None."""

    x: Any
    skip: Any = None
    norm: NormInput | None = None


class Added(NamedTuple):
    """What a convolution's epilogue adds: bias (K,), shift (N, K), and a residual for each array of the result."""

    bias: Any = None
    shift: Any = None
    residual: Any = None
    residual2: Any = None


def aligned(a: Any, size: int = 16) -> bool:
    """Whether an array, if there is one, begins at a multiple of so many bytes: a view may begin anywhere."""
    return a is None or a.data.ptr % size == 0


def copied_wide(*arrays: Any) -> bool:
    """Whether the channels of all arrays that there are can be copied 16 bytes at a time."""
    return all(a is None or (a.shape[-1] % 4 == 0 and aligned(a)) for a in arrays)


def word(value: bool) -> str:
    """As C++ writes it."""
    return str(bool(value)).lower()


@dataclass(frozen=True)
class Convolutions:
    """The convolutions of one device.

    launch(source, name, grid, block, args, shared_memory); empty(shape): a float32 array; precision: a key of PRODUCTS.
    """

    launch: Any
    empty: Any
    multiprocessors: int
    precision: str

    def convolve(
        self, geometry: Geometry, inputs: Inputs, weight: Any, added: Added = Added(), by_columns: bool = False
    ) -> tuple[Any, Any]:
        """(y, y2), y2 None unless the geometry has two outputs. by_columns: weight is (taps, outputs, channels)."""
        x, skip, norm = inputs
        n, outputs = geometry.image[0], geometry.outputs
        y, y2 = (self.empty((n, *geometry.out, k)) if k else None for k in outputs)
        if norm is None and added.shift is None:
            geometry = geometries.flat(geometry)
        math, least = PRODUCTS[self.precision]
        wide = copied_wide(x, skip, *(norm or ())[-1:])
        tile = tuning.conv_tile(geometry, wide, least, self.multiprocessors)
        fit = tuning.fit_conv(geometry, tile, by_columns)
        row = sum(geometry.channels) if by_columns else sum(outputs)
        pairs = all(k % 2 == 0 for k in outputs)
        pairs = pairs and all(aligned(a, 8) for a in (y, y2, added.residual, added.residual2))
        groups = norm.mean.shape[1] if norm else 0
        record = geometries.record(geometry, fit.tiling, fit.slots, row % 4 == 0 and aligned(weight), pairs, groups)
        shape = ", ".join(map(str, tile))
        name = f"convolve<{math}, {shape}, {word(wide)}, {word(by_columns)}, {word(norm is not None)}>"
        grid = fit.tiling.count(geometry.image[0]) * ceil(sum(outputs), tile.outputs), 1, len(geometry.phases)
        args = (x, skip, weight, *(norm or [None] * 5), *added, y, y2, record)
        self.launch("convolution", name, grid, (tile.threads, 1, 1), args, fit.shared)
        return y, y2

    def input_gradient(
        self, forward: Geometry, dy: Any, weight: Any, residual: Any = None, residual2: Any = None
    ) -> tuple[Any, Any]:
        """(dx, dskip) of a convolution, plus residuals. weight: as the forward pass took it."""
        added = Added(residual=residual, residual2=residual2)
        return self.convolve(geometries.gradient(forward), Inputs(dy), weight, added, by_columns=True)

    def weight_gradient(self, forward: Geometry, inputs: Inputs, dy: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
        """(dweight, dbias); shape: of dweight. After up-sampling the taps of 4 x 4 weights are summed to 3 x 3."""
        x, skip, norm = inputs
        geometry = forward if norm else geometries.flat(forward)
        channels, outputs, phases = sum(geometry.channels), geometry.outputs[0], len(geometry.phases)
        tile = tuning.gradient_tile(geometry)
        fit = tuning.fit_gradient(geometry, tile)
        wide = copied_wide(x, skip, *(norm or ())[-1:])
        groups = norm.mean.shape[1] if norm else 0
        record = geometries.record(geometry, fit.tiling, 0, copied_wide(dy), outputs % 2 == 0, groups)
        windows = ceil(geometry.window[0], tile.rows) * ceil(geometry.window[1], tile.columns)
        blocks = ceil(channels, tile.channels) * windows * ceil(outputs, tile.outputs)
        tiles = fit.tiling.count(geometry.image[0])
        each = ceil(tiles, max(1, tuning.BLOCKS_EACH * self.multiprocessors // (blocks * phases)))
        shares = ceil(tiles, each)
        partial = self.empty((shares, geometry.taps, channels, outputs))
        partial_bias = self.empty((shares * phases, outputs))
        math, _ = PRODUCTS[self.precision]
        name = f"weight_gradient<{math}, {', '.join(map(str, tile))}, {word(wide)}, {word(norm is not None)}>"
        args = (x, skip, dy, *(norm or [None] * 5), partial, partial_bias, record, np.int32(each))
        grid = blocks, shares, phases
        self.launch("conv_weight_gradient", name, grid, (tile.threads, 1, 1), args, fit.shared)
        dweight = self.add_shares(partial, shape, channels * outputs)
        return dweight, self.add_shares(partial_bias, (outputs,), outputs)

    def add_shares(self, partial: Any, shape: tuple[int, ...], matrix: int) -> Any:
        """The sum of partial gradients of a shape; matrix: numbers of a tap."""
        shares, count = partial.shape[0], int(np.prod(shape))
        summed = partial.size // shares != count
        if shares == 1 and not summed:
            return partial.reshape(shape)
        out = self.empty(shape)
        args = partial, out, np.int32(shares), np.int32(count), np.int32(matrix)
        self.launch("conv_weight_gradient", f"add_shares<{word(summed)}>", (ceil(count, 32), 1, 1), (32, 8, 1), args, 0)
        return out

    def summed_taps(self, weight: Any) -> Any:
        """The weights that pixels see after nearest x2 up-sampling: (3, 3, C, K) -> (4, 4, C, K)."""
        out = self.empty((4, 4, *weight.shape[2:]))
        count = weight.shape[2] * weight.shape[3]
        self.launch("convolution", "sum_taps", (ceil(count, 256), 16, 1), (256, 1, 1), (weight, out, np.int32(count)), 0)
        return out
