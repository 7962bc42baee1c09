"""What the blocked operations are written for.

`fits_conv2d` guards `NumpyBackend.conv2d`, and so on: each takes the backend's dtype and then that
operation's arguments (`backends.fallback`).
"""

import math
from typing import Any

from backends.array import Array, DType
from backends.ops.attention import AttentionContext
from backends.ops.convolution import ConvContext, Padding, four_sides, output_size
from backends.ops.fused import NormAttentionContext, NormConvContext, PointwiseContext, UpsampleContext
from backends.ops.linear import LinearContext
from backends.ops.normalization import NormContext


def usable(dtype: DType, *arrays: Array) -> bool:
    """Whether each is of this dtype and not empty, or None."""
    return all(a is None or (a.dtype == dtype and a.size > 0) for a in arrays)


def have_shape(dtype: DType, shape: tuple[int, ...], *arrays: Array | None) -> bool:
    """Whether each is of this dtype and shape, and not empty, or None."""
    return usable(dtype, *arrays) and all(a is None or a.shape == shape for a in arrays)


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
    fits = usable(dtype, x, weight) and weight.ndim == 2 and x.ndim >= 2 and x.shape[-1] == len(weight)
    return fits and have_shape(dtype, weight.shape[1:], bias)


def fits_linear_backward(dtype: DType, dy: Array, ctx: LinearContext) -> bool:
    """As forward, and dy of its result's shape."""
    x, weight, _ = ctx
    return fits_linear(dtype, x, weight) and have_shape(dtype, (*x.shape[:-1], weight.shape[1]), dy)


def fits_pointwise(dtype: DType, x: Array, skip: Array | None, weight: Array, bias: Array | None) -> bool:
    """The arrays usable, and the weight of the channels of x and skip together."""
    if not usable(dtype, x, skip, weight) or weight.ndim != 2 or x.ndim < 2:
        return False
    joined = len(weight) - x.shape[-1]
    fits = joined == 0 if skip is None else skip.shape == (*x.shape[:-1], joined)
    return fits and have_shape(dtype, weight.shape[1:], bias)


def fits_pointwise_backward(
    dtype: DType, dy: Array, ctx: PointwiseContext, dx: Array | None = None, dskip: Array | None = None
) -> bool:
    """As forward, dy of its result's shape, and dx and dskip of the arguments'."""
    x, skip, weight = ctx
    fits = fits_pointwise(dtype, x, skip, weight, None)
    fits = fits and have_shape(dtype, (*x.shape[:-1], weight.shape[1]), dy) and have_shape(dtype, x.shape, dx)
    return fits and (skip is None or have_shape(dtype, skip.shape, dskip))


def fits_conv2d(
    dtype: DType, x: Array, weight: Array, bias: Array | None = None, stride: int = 1, padding: int | Padding = 0
) -> bool:
    """The arrays usable, and stride and padding no error."""
    fits = usable(dtype, x, weight) and x.ndim == weight.ndim == 4 and x.shape[3] == weight.shape[2]
    fits = fits and have_shape(dtype, weight.shape[3:], bias)
    return fits and stride >= 1 and min(four_sides(padding)) >= 0


def fits_conv2d_backward(dtype: DType, dy: Array, ctx: ConvContext) -> bool:
    """As forward, and dy of its result's shape."""
    x, weight, _, stride, sides = ctx
    if not fits_conv2d(dtype, x, weight, None, stride, sides):
        return False
    rows = output_size(x.shape[1], weight.shape[0], stride, *sides[:2])
    columns = output_size(x.shape[2], weight.shape[1], stride, *sides[2:])
    return have_shape(dtype, (len(x), rows, columns, weight.shape[3]), dy)


def fits_upsample_conv2d(dtype: DType, x: Array, weight: Array, bias: Array | None) -> bool:
    """The arrays usable, and the kernel's side odd."""
    fits = usable(dtype, x, weight) and x.ndim == weight.ndim == 4
    return fits and weight.shape[:3] == (*odd_square(weight), x.shape[3]) and have_shape(dtype, weight.shape[3:], bias)


def fits_upsample_conv2d_backward(dtype: DType, dy: Array, ctx: UpsampleContext) -> bool:
    """As forward, and dy of its result's shape."""
    x, weight = ctx
    if not fits_upsample_conv2d(dtype, x, weight, None):
        return False
    n, h, w, _ = x.shape
    return have_shape(dtype, (n, 2 * h, 2 * w, weight.shape[3]), dy)


def fits_group_norm(dtype: DType, x: Array, gamma: Array, beta: Array, groups: int, *rest: Any, **more: Any) -> bool:
    """With `silu` or without."""
    return x.ndim >= 2 and fits_norm(dtype, x.shape[-1], x, gamma, beta, groups)


def fits_group_norm_backward(dtype: DType, dy: Array, ctx: NormContext) -> bool:
    """The arrays usable, and dy of x's shape."""
    return usable(dtype, *ctx) and have_shape(dtype, ctx.x.shape, dy)


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
    """The arrays usable and of the shapes that the operation says, and the kernel's side odd."""
    if not usable(dtype, x, skip, weight) or x.ndim != 4 or weight.ndim != 4:
        return False
    pixels, k, joined = x.shape[:-1], weight.shape[3], 0 if skip is None else skip.shape[-1]
    channels = x.shape[-1] + joined
    fits = weight.shape[:3] == (*odd_square(weight), channels) and fits_norm(dtype, channels, x, gamma, beta, groups)
    fits = fits and have_shape(dtype, (*pixels, joined), skip) and have_shape(dtype, (k,), bias)
    fits = fits and have_shape(dtype, (len(x), k), shift) and have_shape(dtype, (*pixels, k), residual)
    return fits and have_shape(dtype, (*pixels, channels), mask)


def fits_norm_conv2d_backward(dtype: DType, dy: Array, ctx: NormConvContext, dx: Array | None = None) -> bool:
    """The arrays usable, the kernel's side odd, dy of the result's shape and dx of x's."""
    x, weight = ctx.x, ctx.weight
    fits = usable(dtype, *ctx[:8]) and weight.shape[:2] == odd_square(weight)
    return fits and have_shape(dtype, (*x.shape[:-1], weight.shape[3]), dy) and have_shape(dtype, x.shape, dx)


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
    c = x.shape[-1]
    fits = x.ndim >= 2 and fits_norm(dtype, c, x, gamma, beta, groups) and num_heads >= 1
    return fits and have_shape(dtype, (c, 3 * c), weight) and have_shape(dtype, (3 * c,), bias)


def fits_attention_backward(dtype: DType, dy: Array, ctx: AttentionContext) -> bool:
    """The arrays usable, and dy of q's shape."""
    return usable(dtype, *ctx) and have_shape(dtype, ctx.q.shape, dy)


def fits_norm_attention_backward(dtype: DType, dy: Array, ctx: NormAttentionContext) -> bool:
    """The arrays usable, and dy of the result's shape."""
    n, *sides, c = ctx.x.shape
    return usable(dtype, *ctx) and have_shape(dtype, (n, math.prod(sides), c), dy)


def fits_adam(dtype: DType, params: Array, grads: Array, m: Array, v: Array, *rest: Any, **more: Any) -> bool:
    """The arrays usable and of one shape."""
    return have_shape(dtype, params.shape, params, grads, m, v)


def fits_adam_ema(
    dtype: DType, params: Array, grads: Array, m: Array, v: Array, average: Array, *rest: Any, **more: Any
) -> bool:
    """The arrays usable and of one shape."""
    return have_shape(dtype, params.shape, params, grads, m, v, average)
