"""NumPy arrays; the hot operations block by block in float32, everything else runs the reference."""

from typing import Any, ClassVar, NamedTuple

import numpy as np

from backends import ops
from backends.backend import Backend
from backends.numpy_kernels import convolution, linear, norm_convolution
from backends.numpy_kernels.norm_convolution import NormContext, NormConvContext
from backends.ops.convolution import Padding, four_sides


class PointwiseContext(NamedTuple):
    """What `NumpyBackend.pointwise` keeps."""

    x: Any
    skip: Any
    weight: Any


class UpsampleContext(NamedTuple):
    """What `NumpyBackend.upsample_conv2d` keeps: the small image."""

    x: Any
    weight: Any


class NumpyBackend(Backend):
    """Plain NumPy; what is defined below replaces the reference operation of the same name in float32.

    Each override leaves to the reference what it is not written for, bad arguments included. In float64 and
    complex128 all operations are the reference, so that checks of gradients check its few lines.
    """

    name: ClassVar[str] = "numpy"
    dtype: ClassVar[Any] = np.float32

    def __init__(self) -> None:
        super().__init__(np)

    def takes(self, *arrays: Any) -> bool:
        """Whether the overrides are written for these: none empty, all of `dtype`; None counts as well."""
        return all(a is None or (a.size > 0 and a.dtype == self.dtype) for a in arrays)

    def normalises(self, x: Any, gamma: Any, beta: Any, groups: int) -> bool:
        """Whether the overrides are written for a normalisation of these."""
        fits = x.ndim >= 2 and gamma.shape == beta.shape == (gamma.size,) and groups >= 1
        return fits and self.takes(x, gamma, beta) and gamma.size % groups == 0

    # Convolution

    def conv2d(
        self, x: Any, weight: Any, bias: Any = None, stride: int = 1, padding: int | Padding = 0
    ) -> tuple[Any, Any]:
        sides = four_sides(padding)
        fits = self.takes(x, weight, bias) and x.shape[3] == weight.shape[2] and stride >= 1 and min(sides) >= 0
        if not fits or weight.shape[:2] == (1, 1):
            return ops.conv2d(np, x, weight, bias, stride, padding)
        return convolution.conv2d(x, weight, bias, stride, sides), (x, weight, bias is not None, stride, sides)

    def conv2d_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        x, weight, has_bias, stride, sides = ctx
        fits = self.takes(dy, x, weight) and stride == 1 and min(convolution.turned_sides(weight, sides)) >= 0
        if not fits or weight.shape[:2] == (1, 1):
            return ops.conv2d_backward(np, dy, ctx)
        dx, dweight, dbias = convolution.conv2d_backward(dy, x, weight, sides)
        return dx, dweight, dbias if has_bias else None

    def upsample_conv2d(self, x: Any, weight: Any, bias: Any) -> tuple[Any, Any]:
        (kh, kw, channels, _), pad = weight.shape, weight.shape[0] // 2
        if not (self.takes(x, weight, bias) and kh == kw == 2 * pad + 1 and x.shape[3] == channels):
            return ops.upsample_conv2d(np, x, weight, bias)
        return convolution.conv2d(x, weight, bias, 1, (pad,) * 4, enlarge=True), UpsampleContext(x, weight)

    def upsample_conv2d_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        if not isinstance(ctx, UpsampleContext):
            return ops.upsample_conv2d_backward(np, dy, ctx)
        return convolution.conv2d_backward(dy, *ctx, (len(ctx.weight) // 2,) * 4, enlarge=True)

    # Normalisation

    def group_norm(self, x: Any, gamma: Any, beta: Any, groups: int, eps: float = 1e-5) -> tuple[Any, Any]:
        if not (self.normalises(x, gamma, beta, groups) and x.shape[-1] == gamma.size):
            return ops.group_norm(np, x, gamma, beta, groups, eps)
        return norm_convolution.group_norm(x, gamma, beta, groups, eps, silu=False)

    def group_norm_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        if not isinstance(ctx, NormContext):
            return ops.group_norm_backward(np, dy, ctx)
        return norm_convolution.group_norm_backward(dy, ctx)

    def group_norm_silu(self, x: Any, gamma: Any, beta: Any, groups: int, eps: float = 1e-5) -> tuple[Any, Any]:
        if not (self.normalises(x, gamma, beta, groups) and x.shape[-1] == gamma.size):
            return ops.group_norm_silu(np, x, gamma, beta, groups, eps)
        return norm_convolution.group_norm(x, gamma, beta, groups, eps, silu=True)

    def group_norm_silu_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        if not isinstance(ctx, NormContext):
            return ops.group_norm_silu_backward(np, dy, ctx)
        return norm_convolution.group_norm_backward(dy, ctx)

    # Residual blocks

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
        channels = x.shape[-1] + (0 if skip is None else skip.shape[-1])
        fits = weight.shape[:3] == (weight.shape[0] // 2 * 2 + 1,) * 2 + (channels,) and gamma.size == channels
        fits = fits and self.takes(skip, weight, bias, shift, residual, mask)
        if not (fits and self.normalises(x, gamma, beta, groups)):
            return ops.norm_conv2d(np, x, skip, gamma, beta, weight, bias, groups, eps, shift, residual, mask)
        return norm_convolution.norm_conv2d(
            x, skip, gamma, beta, weight, bias, groups, eps, shift=shift, residual=residual, mask=mask
        )

    def norm_conv2d_backward(self, dy: Any, ctx: Any, dx: Any = None, dskip: Any = None) -> tuple[Any, ...]:
        if not isinstance(ctx, NormConvContext):
            return ops.norm_conv2d_backward(np, dy, ctx, dx, dskip)
        return norm_convolution.norm_conv2d_backward(dy, ctx, dx, dskip)

    def pointwise(self, x: Any, skip: Any, weight: Any, bias: Any) -> tuple[Any, Any]:
        channels = x.shape[-1] + (0 if skip is None else skip.shape[-1])
        if not (self.takes(x, skip, weight, bias) and len(weight) == channels):
            return ops.pointwise(np, x, skip, weight, bias)
        return linear.pointwise(x, skip, weight, bias), PointwiseContext(x, skip, weight)

    def pointwise_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any, Any]:
        if not isinstance(ctx, PointwiseContext):
            return ops.pointwise_backward(np, dy, ctx)
        return linear.pointwise_backward(dy, *ctx)
