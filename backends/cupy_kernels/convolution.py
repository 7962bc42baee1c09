"""Launchers of `convolution.cu` and `conv_weight_gradient.cu`, and the operations that they override."""

import math
from typing import Any, NamedTuple

from backends.backend import Backend
from backends.cupy_kernels import geometry as geometries
from backends.cupy_kernels import tuning, tuning_hopper
from backends.cupy_kernels.geometry import Geometry, ceil
from backends.cupy_kernels.limits import are_images, has_shape, usable
from backends.cupy_kernels.runtime import launch
from backends.cupy_kernels.runtime.compilation import cupy
from backends.cupy_kernels.runtime.launch import Kernel, Template
from backends.fallback import unless_reference
from backends.ops.convolution import ConvContext, Padding, four_sides, output_size
from backends.ops.fused import PointwiseContext, UpsampleContext

# How numbers are multiplied, by the backend's precision
PRODUCTS = {"fp32": "Split", "tf32": "Tf32", "bf16": "Rounded"}
# Rows and columns of a kernel: what a tile sees must fit in shared memory
LARGEST_KERNEL = 7

CONVOLVE = Kernel(
    "convolution.cu",
    "convolve",
    tuple(t for p in PRODUCTS.values() for t in tuning.conv_templates(p)),
    threads=lambda _, *template: tuning.ConvTile(*template[:6]).threads,
    shared=tuning.usual_conv,
)
CONVOLVE_PATCHES = Kernel(
    "convolution_hopper.cu",
    "convolve_patches",
    tuple(t for p in PRODUCTS.values() for t in tuning_hopper.patch_templates(p)),
    threads=lambda _, *template: tuning_hopper.PatchTile(*template[:5]).threads,
    shared=tuning_hopper.usual_patches,
    target="sm_90a",
)
# The compute capability that has its instructions
HOPPER = "90"
SUM_TAPS = Kernel("convolution.cu", "sum_taps")
GRADIENT = Kernel(
    "conv_weight_gradient.cu",
    "weight_gradient",
    tuple(t for p in PRODUCTS.values() for t in tuning.gradient_templates(p)),
    threads=lambda _, *template: tuning.GradientTile(*template[:8]).threads,
    shared=tuning.usual_gradient,
)
GRADIENT_UNITS = Kernel(
    "conv_weight_gradient_hopper.cu",
    "weight_gradient_units",
    tuple(t for p in PRODUCTS.values() for t in tuning_hopper.unit_templates(p)),
    threads=lambda _, *template: tuning_hopper.UnitTile(*template[:4]).threads,
    shared=tuning_hopper.usual_units,
    target="sm_90a",
)
ADD_SHARES = Kernel("conv_weight_gradient.cu", "add_shares", tuple((s, v) for s in (False, True) for v in (1, 4)))


class NormInput(NamedTuple):
    """The normalisation that a kernel applies to its input: mean, rstd: (N, G); gamma, beta: (C,); mask or None."""

    mean: Any
    rstd: Any
    gamma: Any
    beta: Any
    mask: Any


NO_NORM = (None,) * 5


class Inputs(NamedTuple):
    """x and what is joined to it along channels, or None; and the normalisation of both, or None."""

    x: Any
    skip: Any = None
    norm: NormInput | None = None

    @property
    def groups(self) -> int:
        """Groups of the normalisation; 0 without one."""
        return self.norm.mean.shape[1] if self.norm else 0

    @property
    def copied_wide(self) -> bool:
        """Whether the channels of all arrays can be copied 16 bytes at a time."""
        return copied_wide(self.x, self.skip, self.norm and self.norm.mask)


class Added(NamedTuple):
    """What the epilogue adds: bias (K,), shift (N, K), and a residual for each array of the result."""

    bias: Any = None
    shift: Any = None
    residual: Any = None
    residual2: Any = None


NOTHING = Added()


def is_aligned(a: Any, size: int = 16) -> bool:
    """Whether an array, if there is one, begins at a multiple of `size` bytes: a view may begin anywhere."""
    return a is None or a.data.ptr % size == 0


def copied_wide(*arrays: Any) -> bool:
    """Whether rows of all arrays that there are can be copied 16 bytes at a time."""
    return all(a is None or (a.shape[-1] % 4 == 0 and is_aligned(a)) for a in arrays)


# Guards


def are_floats(*arrays: Any) -> bool:
    """Whether all that are given are usable, and float32."""
    return usable(*arrays) and all(a is None or a.dtype.name == "float32" for a in arrays)


def fits_conv2d(x: Any, weight: Any, bias: Any = None, stride: int = 1, padding: int | Padding = 0) -> bool:
    sides = four_sides(padding)
    fits = are_images(x, weight) and are_floats(x, weight, bias) and x.shape[3] == weight.shape[2]
    fits = fits and has_shape(bias, *weight.shape[3:])
    if not fits or min(sides) < 0 or stride not in (1, 2):
        return False
    sizes = [size + a + b for size, a, b in zip(x.shape[1:3], sides[::2], sides[1::2], strict=True)]
    return all(k <= min(n, LARGEST_KERNEL) for k, n in zip(weight.shape[:2], sizes, strict=True))


def fits_conv2d_backward(dy: Any, ctx: Any) -> bool:
    x, weight, _, stride, sides = ctx
    if not are_floats(dy) or not fits_conv2d(x, weight, None, stride, sides):
        return False
    rows = output_size(x.shape[1], weight.shape[0], stride, *sides[:2])
    columns = output_size(x.shape[2], weight.shape[1], stride, *sides[2:])
    return has_shape(dy, x.shape[0], rows, columns, weight.shape[3])


def fits_upsample_conv2d(x: Any, weight: Any, bias: Any) -> bool:
    return weight.shape[:2] == (3, 3) and fits_conv2d(x, weight, bias, padding=1)


def fits_upsample_conv2d_backward(dy: Any, ctx: Any) -> bool:
    x, weight = ctx
    if not are_floats(dy) or not fits_upsample_conv2d(x, weight, None):
        return False
    n, h, w, _ = x.shape
    return has_shape(dy, n, 2 * h, 2 * w, weight.shape[3])


def fits_pointwise(x: Any, skip: Any, weight: Any, bias: Any) -> bool:
    joined = x.shape[-1] + (0 if skip is None else skip.shape[-1])
    fits = are_images(x, skip) and are_floats(x, skip, weight, bias) and weight.ndim == 2 and joined == weight.shape[0]
    return fits and (skip is None or skip.shape[:3] == x.shape[:3]) and has_shape(bias, *weight.shape[1:])


def fits_pointwise_backward(dy: Any, ctx: Any, dx: Any = None, dskip: Any = None) -> bool:
    x, skip, weight = ctx
    fits = are_floats(dy, dx, dskip) and fits_pointwise(x, skip, weight, None)
    fits = fits and has_shape(dy, *x.shape[:3], weight.shape[1]) and has_shape(dx, *x.shape)
    return fits and (skip is None or has_shape(dskip, *skip.shape))


class Choice(NamedTuple):
    """A kernel, its template and tiles; blocks: outputs of one, or for a gradient the blocks of a share, and wanted:
    how many blocks there should be."""

    kernel: Kernel
    template: Template
    fit: tuning.Fit
    blocks: int
    wanted: int = 0


def has_warpgroups(inputs: Inputs) -> bool:
    """Whether Hopper's own kernels take these arrays."""
    return inputs.copied_wide and launch.capability(cupy()) == HOPPER


def chosen(geometry: Geometry, product: str, inputs: Inputs, by_columns: bool) -> Choice:
    """What computes a convolution."""
    count, normed = launch.multiprocessors(cupy()), inputs.norm is not None
    patches = tuning_hopper.patch_tile(geometry, product, count) if has_warpgroups(inputs) else None
    if patches is not None:
        fit = tuning_hopper.fit_patches(geometry, patches, product)
        return Choice(CONVOLVE_PATCHES, (product, *patches, by_columns, normed), fit, patches.outputs)
    tile = tuning.conv_tile(geometry, inputs.copied_wide, product, count)
    fit = tuning.fit_conv(geometry, tile, by_columns)
    return Choice(CONVOLVE, (product, *tile, inputs.copied_wide, by_columns, normed), fit, tile.outputs)


def chosen_gradient(geometry: Geometry, product: str, inputs: Inputs) -> Choice:
    """What computes the gradient of its weights."""
    count, normed = launch.multiprocessors(cupy()), inputs.norm is not None
    units = tuning_hopper.unit_tile(geometry, product) if has_warpgroups(inputs) else None
    if units is not None:
        fit, wanted = tuning_hopper.fit_units(geometry, units, product), tuning_hopper.blocks_each(units) * count
        blocks = ceil(sum(geometry.channels), 16 * units.sixteens) * ceil(geometry.outputs[0], units.outputs)
        return Choice(GRADIENT_UNITS, (product, *units, normed), fit, blocks, wanted)
    tile = tuning.gradient_tile(geometry, inputs.copied_wide)
    template = (product, *tile, inputs.copied_wide, normed)
    blocks, wanted = tuning.gradient_blocks(geometry, tile), tuning.BLOCKS_EACH * count
    return Choice(GRADIENT, template, tuning.fit_gradient(geometry, tile), blocks, wanted)


class Convolution(Backend):
    """Convolutions, alone and after up-sampling or a normalisation; products over the channels of images."""

    precision: str

    # The pieces that the operations are made of

    def convolve(
        self, geometry: Geometry, inputs: Inputs, weight: Any, added: Added = NOTHING, by_columns: bool = False
    ) -> tuple[Any, Any]:
        """(y, y2), y2 None unless the geometry has two outputs. by_columns: weight is (taps, outputs, channels)."""
        outputs = geometry.outputs
        y, y2 = (self.xp.empty((geometry.image[0], *geometry.out, k), "float32") if k else None for k in outputs)
        if inputs.norm is None and added.shift is None:
            geometry = geometries.flat(geometry)
        kernel, template, fit, panel, _ = chosen(geometry, PRODUCTS[self.precision], inputs, by_columns)
        row = sum(geometry.channels) if by_columns else sum(outputs)
        pairs = all(k % 2 == 0 for k in outputs)
        pairs = pairs and all(is_aligned(a, 8) for a in (y, y2, added.residual, added.residual2))
        record = geometries.record(
            geometry, fit.tiling, fit.slots, row % 4 == 0 and is_aligned(weight), pairs, inputs.groups
        )
        kernel.run(
            (fit.tiling.count(geometry.image[0]) * ceil(sum(outputs), panel), 1, len(geometry.phases)),
            *inputs[:2],
            weight,
            *(inputs.norm or NO_NORM),
            *added,
            y,
            y2,
            record,
            template=template,
            shared=fit.shared,
        )
        return y, y2

    def input_gradient(self, forward: Geometry, dy: Any, weight: Any, dx: Any = None, dskip: Any = None) -> tuple:
        """(dx, dskip) of a convolution, plus gradients from elsewhere. weight: as the forward pass took it."""
        added = Added(residual=dx, residual2=dskip)
        return self.convolve(geometries.gradient(forward), Inputs(dy), weight, added, by_columns=True)

    def weight_gradient(self, forward: Geometry, inputs: Inputs, dy: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
        """(dweight, dbias); shape: of dweight. After up-sampling the gradients of 4 x 4 taps are summed to 3 x 3."""
        geometry = forward if inputs.norm else geometries.flat(forward)
        channels, outputs, phases = sum(geometry.channels), geometry.outputs[0], len(geometry.phases)
        kernel, template, fit, blocks, wanted = chosen_gradient(geometry, PRODUCTS[self.precision], inputs)
        tiles = fit.tiling.count(geometry.image[0])
        each = tuning.tiles_a_share(tiles, blocks * phases, wanted)
        shares = ceil(tiles, each)
        partial = self.xp.empty((shares, geometry.taps, channels, outputs), "float32")
        partial_bias = self.xp.empty((shares * phases, outputs), "float32")
        kernel.run(
            (blocks, shares, phases),
            *inputs[:2],
            dy,
            *(inputs.norm or NO_NORM),
            partial,
            partial_bias,
            geometries.record(geometry, fit.tiling, 0, copied_wide(dy), outputs % 2 == 0, inputs.groups),
            each,
            template=template,
            shared=fit.shared,
        )
        if shares == 1 and phases == 1:
            return partial.reshape(shape), partial_bias.reshape((outputs,))
        return self.add_shares(partial, partial_bias, shape, channels * outputs)

    def add_shares(self, partial: Any, partial_bias: Any, shape: tuple[int, ...], matrix: int) -> tuple[Any, Any]:
        """The sums of partial gradients: the weights' of a shape, and the bias's; matrix: numbers of a tap."""
        outputs, count = partial_bias.shape[1], math.prod(shape)
        dweight, dbias = self.xp.empty(shape, "float32"), self.xp.empty((outputs,), "float32")
        summed = partial.size != partial.shape[0] * count
        width = 4 if matrix % 4 == 0 and is_aligned(partial) and is_aligned(dweight) else 1
        ADD_SHARES.run(
            (ceil(count, 32 * width) + ceil(outputs, 32),),
            partial,
            dweight,
            partial.shape[0],
            count,
            matrix,
            partial_bias,
            dbias,
            partial_bias.shape[0],
            outputs,
            template=(summed, width),
            block=(32, 8),
        )
        return dweight, dbias

    def summed_taps(self, weight: Any) -> Any:
        """The weights that pixels see after nearest x2 up-sampling: (3, 3, C, K) -> (4, 4, C, K)."""
        out = self.xp.empty((4, 4, *weight.shape[2:]), "float32")
        count = weight.shape[2] * weight.shape[3]
        SUM_TAPS.run((ceil(count, launch.THREADS), 16), weight, out, count)
        return out

    # Operations

    @unless_reference(fits_conv2d)
    def conv2d(
        self, x: Any, weight: Any, bias: Any = None, stride: int = 1, padding: int | Padding = 0
    ) -> tuple[Any, Any]:
        sides = four_sides(padding)
        y, _ = self.convolve(geometries.plain(x.shape, 0, weight.shape, stride, sides), Inputs(x), weight, Added(bias))
        return y, ConvContext(x, weight, bias is not None, stride, sides)

    @unless_reference(fits_conv2d_backward)
    def conv2d_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        x, weight, has_bias, stride, sides = ctx
        geometry = geometries.plain(x.shape, 0, weight.shape, stride, sides)
        dweight, dbias = self.weight_gradient(geometry, Inputs(x), dy, weight.shape)
        return self.input_gradient(geometry, dy, weight)[0], dweight, dbias if has_bias else None

    @unless_reference(fits_upsample_conv2d)
    def upsample_conv2d(self, x: Any, weight: Any, bias: Any) -> tuple[Any, Any]:
        geometry = geometries.upsampled(x.shape, weight.shape)
        y, _ = self.convolve(geometry, Inputs(x), self.summed_taps(weight), Added(bias))
        return y, UpsampleContext(x, weight)

    @unless_reference(fits_upsample_conv2d_backward)
    def upsample_conv2d_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        x, weight = ctx
        geometry = geometries.upsampled(x.shape, weight.shape)
        dweight, dbias = self.weight_gradient(geometry, Inputs(x), dy, weight.shape)
        return self.input_gradient(geometry, dy, self.summed_taps(weight))[0], dweight, dbias

    @unless_reference(fits_pointwise)
    def pointwise(self, x: Any, skip: Any, weight: Any, bias: Any) -> tuple[Any, Any]:
        y, _ = self.convolve(products(x, skip, weight), Inputs(x, skip), weight, Added(bias))
        return y, PointwiseContext(x, skip, weight)

    @unless_reference(fits_pointwise_backward)
    def pointwise_backward(self, dy: Any, ctx: Any, dx: Any = None, dskip: Any = None) -> tuple[Any, Any, Any, Any]:
        x, skip, weight = ctx
        geometry = products(x, skip, weight)
        dweight, dbias = self.weight_gradient(geometry, Inputs(x, skip), dy, weight.shape)
        return *self.input_gradient(geometry, dy, weight, dx, dskip), dweight, dbias


def products(x: Any, skip: Any, weight: Any) -> Geometry:
    """The product [x, skip] W for every pixel: a 1 x 1 convolution."""
    second = 0 if skip is None else skip.shape[-1]
    return geometries.plain(x.shape, second, (1, 1, *weight.shape), 1, (0, 0, 0, 0))
