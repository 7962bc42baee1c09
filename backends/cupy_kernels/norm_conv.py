"""The convolution of a residual block: normalised, through SiLU and dropout, by the loader of `convolution.cu`.

The activation is never written: forward, the kernel normalises what it has loaded, once for all taps; backward, the
weight gradient does so again. What is written is the gradient of the activation, which `through_norm` takes back.
"""

from typing import Any

from backends.backend import Backend
from backends.cupy_kernels import geometry as geometries
from backends.cupy_kernels.convolution import LARGEST_KERNEL, Added, Inputs, NormInput, are_floats
from backends.cupy_kernels.elementwise import sum_pixels
from backends.cupy_kernels.geometry import Geometry
from backends.cupy_kernels.limits import are_images, has_shape
from backends.cupy_kernels.normalization import MOST_IMAGES, Normalised
from backends.fallback import unless_reference
from backends.ops.fused import NormConvContext


def fits_norm_conv2d(
    x: Any,
    skip: Any,
    gamma: Any,
    beta: Any,
    weight: Any,
    bias: Any,
    groups: int,
    eps: float = 1e-5,
    shift: Any = None,
    residual: Any = None,
    mask: Any = None,
) -> bool:
    fits = are_images(x, skip, residual, mask)
    fits = fits and are_floats(x, skip, gamma, beta, weight, bias, shift, residual, mask)
    if not fits or weight.ndim != 4 or x.shape[0] > MOST_IMAGES or (skip is not None and skip.shape[:3] != x.shape[:3]):
        return False
    channels, size, outputs = x.shape[3] + (0 if skip is None else skip.shape[3]), weight.shape[0], weight.shape[3]
    shapes = gamma.shape == beta.shape == (channels,) and weight.shape[:3] == (size, size, channels)
    shapes = shapes and has_shape(bias, outputs) and has_shape(shift, x.shape[0], outputs)
    shapes = shapes and has_shape(residual, *x.shape[:3], outputs) and has_shape(mask, *x.shape[:3], channels)
    return shapes and size % 2 == 1 and size <= LARGEST_KERNEL and groups >= 1 and channels % groups == 0


def fits_norm_conv2d_backward(dy: Any, ctx: Any, dx: Any = None) -> bool:
    x, skip, gamma, beta, weight, mean, rstd, mask, _, _ = ctx
    fits = are_floats(dy, dx, mean, rstd)
    fits = fits and fits_norm_conv2d(x, skip, gamma, beta, weight, None, mean.shape[1], mask=mask)
    return fits and has_shape(dy, *x.shape[:3], weight.shape[3]) and has_shape(dx, *x.shape)


def same_size(x: Any, skip: Any, weight: Any) -> Geometry:
    """A convolution of [x, skip] padded to keep the size."""
    second = 0 if skip is None else skip.shape[-1]
    return geometries.plain(x.shape, second, weight.shape, 1, (weight.shape[0] // 2,) * 4)


class NormConvolution(Backend):
    """`norm_conv2d`, on top of `Convolution` and `Normalization`."""

    convolve: Any
    weight_gradient: Any
    input_gradient: Any
    norm_statistics: Any
    through_norm: Any

    @unless_reference(fits_norm_conv2d)
    def norm_conv2d(
        self,
        x: Any,
        skip: Any,
        gamma: Any,
        beta: Any,
        weight: Any,
        bias: Any,
        groups: int,
        eps: float = 1e-5,
        shift: Any = None,
        residual: Any = None,
        mask: Any = None,
    ) -> tuple[Any, Any]:
        mean, rstd = self.norm_statistics(x, skip, groups, eps)
        inputs = Inputs(x, skip, NormInput(mean, rstd, gamma, beta, mask))
        y, _ = self.convolve(same_size(x, skip, weight), inputs, weight, Added(bias, shift, residual))
        kept = (x, skip, gamma, beta, weight, mean, rstd, mask)
        return y, NormConvContext(*kept, shift is not None, residual is not None)

    @unless_reference(fits_norm_conv2d_backward)
    def norm_conv2d_backward(self, dy: Any, ctx: Any, dx: Any = None) -> tuple[Any, ...]:
        x, skip, gamma, beta, weight, mean, rstd, mask, has_shift, has_residual = ctx
        geometry = same_size(x, skip, weight)
        inputs = Inputs(x, skip, NormInput(mean, rstd, gamma, beta, mask))
        dweight, dbias = self.weight_gradient(geometry, inputs, dy, weight.shape)
        parts = self.input_gradient(geometry, dy, weight)  # of the activation; those of x and skip take their place
        norm = Normalised(x, skip, gamma, beta, mean, rstd, mask)
        dgamma, dbeta = self.through_norm(parts, norm, parts, dx)
        dshift = None
        if has_shift:
            dshift = self.xp.empty((dy.shape[0], dy.shape[3]), "float32")
            sum_pixels(dy, dshift)
        return *parts, dgamma, dbeta, dweight, dbias, dshift, dy if has_residual else None
