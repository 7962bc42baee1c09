"""What the blocked operations are written for.

`fits_conv2d` guards `NumpyBackend.conv2d`, and so on: each takes the backend's dtype and then that
operation's arguments (`backends.fallback`).
"""

from typing import Any

from backends.array import Array, DType
from backends.ops.convolution import ConvContext, Padding, four_sides
from backends.ops.fused import NormConvContext, PointwiseContext, UpsampleContext
from backends.ops.linear import LinearContext


def usable(dtype: DType, *arrays: Array) -> bool:
    """Whether each is of this dtype and not empty, or None."""
    return all(a is None or (a.dtype == dtype and a.size > 0) for a in arrays)


def odd_square(weight: Array) -> tuple[int, int]:
    """The shape of a kernel that keeps an image's size: of an odd side, the kernel's own if that is odd."""
    side = len(weight) // 2 * 2 + 1
    return side, side


def fits_norm(dtype: DType, channels: int, x: Array, gamma: Array, beta: Array, groups: int) -> bool:
    """For the normalisation of that number of channels, in x and what may be joined to it."""
    fits = gamma.shape == beta.shape == (channels,) and groups >= 1 and channels % groups == 0
    return fits and x.ndim >= 2 and usable(dtype, x, gamma, beta)


def fits_linear(dtype: DType, x: Array, weight: Array, bias: Array | None = None) -> bool:
    """The arrays usable, and the weight of x's channels."""
    return usable(dtype, x, weight, bias) and x.shape[-1] == len(weight)


def fits_linear_backward(dtype: DType, dy: Array, ctx: LinearContext) -> bool:
    """The arrays usable."""
    x, weight, _ = ctx
    return usable(dtype, dy, x, weight)


def fits_pointwise(dtype: DType, x: Array, skip: Array | None, weight: Array, bias: Array) -> bool:
    """The arrays usable, and the weight of the channels of x and skip together."""
    channels = x.shape[-1] + (0 if skip is None else skip.shape[-1])
    return usable(dtype, x, skip, weight, bias) and len(weight) == channels


def fits_pointwise_backward(
    dtype: DType, dy: Array, ctx: PointwiseContext, dx: Array | None = None, dskip: Array | None = None
) -> bool:
    """The arrays usable."""
    return usable(dtype, dy, *ctx, dx, dskip)


def fits_conv2d(
    dtype: DType, x: Array, weight: Array, bias: Array | None = None, stride: int = 1, padding: int | Padding = 0
) -> bool:
    """The arrays usable, and stride and padding no error."""
    fits = usable(dtype, x, weight, bias) and x.shape[3] == weight.shape[2]
    return fits and stride >= 1 and min(four_sides(padding)) >= 0


def fits_conv2d_backward(dtype: DType, dy: Array, ctx: ConvContext) -> bool:
    """The arrays usable."""
    return usable(dtype, dy, ctx[0], ctx[1])


def fits_upsample_conv2d(dtype: DType, x: Array, weight: Array, bias: Array) -> bool:
    """The arrays usable, and the kernel's side odd."""
    return usable(dtype, x, weight, bias) and weight.shape[:3] == (*odd_square(weight), x.shape[3])


def fits_upsample_conv2d_backward(dtype: DType, dy: Array, ctx: UpsampleContext) -> bool:
    """The arrays usable, and the kernel's side odd."""
    x, weight = ctx
    return usable(dtype, dy, x, weight) and weight.shape[:2] == odd_square(weight)


def fits_group_norm(dtype: DType, x: Array, gamma: Array, beta: Array, groups: int, *rest: Any, **more: Any) -> bool:
    """With `silu` or without."""
    return fits_norm(dtype, x.shape[-1], x, gamma, beta, groups)


def fits_norm_conv2d(
    dtype: DType,
    x: Array,
    skip: Array | None,
    gamma: Array,
    beta: Array,
    weight: Array,
    bias: Array,
    groups: int,
    eps: float = 1e-5,
    shift: Array | None = None,
    residual: Array | None = None,
    mask: Array | None = None,
) -> bool:
    """The arrays usable and of one batch, and the kernel's side odd."""
    channels = x.shape[-1] + (0 if skip is None else skip.shape[-1])
    extras = [a for a in (skip, shift, residual, mask) if a is not None]
    fits = usable(dtype, weight, bias, *extras) and all(len(a) == len(x) for a in extras)
    fits = fits and weight.shape[:3] == (*odd_square(weight), channels)
    return fits and fits_norm(dtype, channels, x, gamma, beta, groups)


def fits_norm_conv2d_backward(dtype: DType, dy: Array, ctx: NormConvContext, dx: Array | None = None) -> bool:
    """The arrays usable, and the kernel's side odd."""
    return usable(dtype, dy, dx, *ctx[:8]) and ctx.weight.shape[:2] == odd_square(ctx.weight)


def fits_attention(dtype: DType, q: Array, k: Array, v: Array, num_heads: int = 1) -> bool:
    """The arrays usable and of one batch."""
    return usable(dtype, q, k, v) and len(q) == len(k) == len(v) and num_heads >= 1


def fits_norm_attention(
    dtype: DType,
    x: Array,
    gamma: Array,
    beta: Array,
    weight: Array,
    bias: Array,
    groups: int,
    eps: float = 1e-5,
    num_heads: int = 1,
) -> bool:
    """The arrays usable, and the normalisation no error."""
    fits = fits_norm(dtype, x.shape[-1], x, gamma, beta, groups)
    return fits and usable(dtype, weight, bias) and num_heads >= 1


def fits_gradient(dtype: DType, dy: Array, ctx: Any) -> bool:
    """For the backward of operations whose ctx is arrays alone: all usable."""
    return usable(dtype, dy, *ctx)


def fits_adam(dtype: DType, params: Array, grads: Array, m: Array, v: Array, *rest: Any, **more: Any) -> bool:
    """The arrays usable."""
    return usable(dtype, params, grads, m, v)


def fits_adam_ema(
    dtype: DType, params: Array, grads: Array, m: Array, v: Array, average: Array, *rest: Any, **more: Any
) -> bool:
    """The arrays usable."""
    return usable(dtype, params, grads, m, v, average)
