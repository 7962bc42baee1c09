"""Which arguments each kernel is written for, apart from the kernels so that asking does not import Numba.

`fits_conv2d` guards `NumbaBackend.conv2d`, and so on: each takes that operation's arguments (`backends.fallback`).
"""

import math
from typing import Any

import numpy as np

from backends.array import Array, DType
from backends.ops.attention import AttentionContext
from backends.ops.bound import STEPS
from backends.ops.convolution import ConvContext, Padding, four_sides
from backends.ops.dropout import DropoutContext
from backends.ops.fused import NormAttentionContext, NormConvContext, PointwiseContext, UpsampleContext
from backends.ops.linear import LinearContext
from backends.ops.normalization import NormContext
from backends.ops.philox import MOST_NUMBERS, row_size

# Axes of an array that they copy
AXES = 5
# Channels, on either side of a product: the length of the array of zeros that stands in for a missing bias
CHANNELS = 4096
# Strides and zeros above, below, left and right of the 3x3 convolutions that there are
STRIDES_AND_SIDES = {(1, (1, 1, 1, 1)), (2, (1, 1, 1, 1)), (2, (0, 1, 0, 1))}
# Fewer numbers than these are drawn faster by NumPy than a kernel's threads wake up
FEW = 4096


def is_float32(*arrays: Array) -> bool:
    """Whether all arrays are float32."""
    return all(a.dtype == np.float32 for a in arrays)


def given(*arrays: Array) -> list[Array]:
    """Those that are not None."""
    return [a for a in arrays if a is not None]


def have_shape(shape: tuple[int, ...], *arrays: Array | None) -> bool:
    """Whether all arrays are of that shape and float32; None is."""
    return all(a is None or (a.shape == shape and a.dtype == np.float32) for a in arrays)


def is_flat(*arrays: Array) -> bool:
    """Whether all arrays are float32, of one shape and without gaps."""
    return have_shape(arrays[0].shape, *arrays) and all(a.flags.c_contiguous for a in arrays)


def is_images(x: Array) -> bool:
    """Whether this is (N, H, W, C) in float32, and not empty."""
    return x.ndim == 4 and min(x.shape) > 0 and is_float32(x)


# Products over channels


def fits_linear(x: Array, weight: Array, bias: Array | None = None) -> bool:
    """Also for each part of a product over joined channels."""
    fits = 2 <= x.ndim <= AXES and weight.ndim == 2 and x.shape[-1] == weight.shape[0]
    fits = fits and min(x.size, *weight.shape) > 0 and max(weight.shape) <= CHANNELS
    return fits and is_float32(x, weight) and have_shape(weight.shape[1:], bias)


def fits_linear_backward(dy: Array, ctx: LinearContext) -> bool:
    x, weight, _ = ctx
    return fits_linear(x, weight) and have_shape((*x.shape[:-1], weight.shape[1]), dy)


def parts_of(x: Array, skip: Array, weight: Array) -> list[tuple[Array, Array]]:
    """x and, where there is one, skip, each with its rows of the weight."""
    first = x.shape[-1]
    return [(x, weight)] if skip is None else [(x, weight[:first]), (skip, weight[first:])]


def fits_pointwise(x: Array, skip: Array | None, weight: Array, bias: Array | None) -> bool:
    of_one_image = skip is None or skip.shape[:-1] == x.shape[:-1]
    return of_one_image and all(fits_linear(*part, bias) for part in parts_of(x, skip, weight))


def fits_pointwise_backward(
    dy: Array, ctx: PointwiseContext, dx: Array | None = None, dskip: Array | None = None
) -> bool:
    x, skip, weight = ctx
    fits = fits_pointwise(x, skip, weight, None) and have_shape((*x.shape[:-1], weight.shape[1]), dy)
    fits = fits and have_shape(x.shape, dx) and (skip is None or have_shape(skip.shape, dskip))
    return fits and all(a.flags.c_contiguous for a in given(dx, dskip))  # else the sum would go to a copy of them


# Convolution


def fits_conv2d(
    x: Array, weight: Array, bias: Array | None = None, stride: int = 1, padding: int | Padding = 0
) -> bool:
    sides = four_sides(padding)
    fits = is_images(x) and weight.ndim == 4 and weight.shape[:3] == (3, 3, x.shape[3])
    fits = fits and weight.size > 0 and max(weight.shape) <= CHANNELS and is_float32(weight)
    fits = fits and have_shape(weight.shape[3:], bias) and (stride, sides) in STRIDES_AND_SIDES
    return fits and (stride == 1 or x.shape[1] % 2 == x.shape[2] % 2 == 0)


def fits_conv2d_backward(dy: Array, ctx: ConvContext) -> bool:
    x, weight, _, stride, sides = ctx
    if not fits_conv2d(x, weight, None, stride, sides):
        return False
    n, h, w, _ = x.shape
    return have_shape((n, h // stride, w // stride, weight.shape[3]), dy)


def fits_upsample_conv2d(x: Array, weight: Array, bias: Array | None) -> bool:
    return fits_conv2d(x, weight, bias, padding=1)


def fits_upsample_conv2d_backward(dy: Array, ctx: UpsampleContext) -> bool:
    x, weight = ctx
    if not fits_upsample_conv2d(x, weight, None):
        return False
    n, h, w, _ = x.shape
    return have_shape((n, 2 * h, 2 * w, weight.shape[3]), dy)


# Normalisation


def fits_norm(x: Array, skip: Array | None, gamma: Array, beta: Array, groups: int) -> bool:
    """A normalisation of x, or of x and skip joined along channels."""
    fits = x.ndim >= 2 and min(x.shape) > 0 and is_float32(x) and gamma.ndim == 1
    if not fits or not have_shape(gamma.shape, gamma, beta) or groups < 1 or gamma.size % groups:
        return False
    joined = gamma.size - x.shape[-1]
    return joined == 0 if skip is None else joined > 0 and have_shape((*x.shape[:-1], joined), skip)


def fits_group_norm(x: Array, gamma: Array, beta: Array, groups: int, *rest: Any, **more: Any) -> bool:
    """With `silu` or without."""
    return fits_norm(x, None, gamma, beta, groups)


def fits_group_norm_backward(dy: Array, ctx: NormContext) -> bool:
    return fits_group_norm(ctx.x, ctx.gamma, ctx.beta, ctx.mean.shape[1]) and have_shape(ctx.x.shape, dy)


# Residual blocks


def fits_norm_conv2d(
    x: Array,
    skip: Array | None,
    gamma: Array,
    beta: Array,
    weight: Array,
    bias: Array | None,
    groups: int,
    eps: float = 1e-5,
    shift: Array | None = None,
    residual: Array | None = None,
    mask: Array | None = None,
) -> bool:
    fits = x.ndim == 4 and weight.ndim == 4 and weight.shape[:3] == (3, 3, gamma.size)
    fits = fits and weight.size > 0 and max(weight.shape) <= CHANNELS and is_float32(weight)
    if not fits or not fits_norm(x, skip, gamma, beta, groups):
        return False
    k, pixels = weight.shape[3], x.shape[:-1]
    fits = have_shape((k,), bias) and have_shape((len(x), k), shift)
    return fits and have_shape((*pixels, k), residual) and have_shape((*pixels, gamma.size), mask)


def fits_norm_conv2d_backward(dy: Array, ctx: NormConvContext, dx: Array | None = None) -> bool:
    x, skip, gamma, beta, weight, mean, _, mask, _, _ = ctx
    fits = fits_norm_conv2d(x, skip, gamma, beta, weight, None, mean.shape[1], mask=mask)
    return fits and have_shape((*x.shape[:-1], weight.shape[3]), dy) and have_shape(x.shape, dx)


# Attention


def fits_attention(q: Array, k: Array, v: Array, num_heads: int = 1) -> bool:
    fits = q.ndim == k.ndim == 3 and k.shape == v.shape and (q.shape[0], q.shape[2]) == (k.shape[0], k.shape[2])
    fits = fits and is_float32(q, k, v) and min(*q.shape, *k.shape) > 0
    return fits and num_heads >= 1 and q.shape[2] % num_heads == 0


def fits_attention_backward(dy: Array, ctx: AttentionContext) -> bool:
    return fits_attention(ctx.q, ctx.k, ctx.v, ctx.lse.shape[1]) and have_shape(ctx.q.shape, dy)


def fits_norm_attention(
    x: Array,
    gamma: Array,
    beta: Array,
    weight: Array,
    bias: Array | None,
    groups: int,
    eps: float = 1e-5,
    num_heads: int = 1,
) -> bool:
    fits = fits_group_norm(x, gamma, beta, groups) and fits_linear(x, weight, bias)
    fits = fits and weight.shape[1] == 3 * x.shape[-1]
    return fits and num_heads >= 1 and x.shape[-1] % num_heads == 0


def fits_norm_attention_backward(dy: Array, ctx: NormAttentionContext) -> bool:
    x, gamma, beta, weight, _, mean, _, _ = ctx
    n, *sides, c = x.shape
    return fits_norm_attention(x, gamma, beta, weight, None, mean.shape[1]) and have_shape((n, math.prod(sides), c), dy)


# Resolution, and joining


def fits_upsample_nearest(x: Array) -> bool:
    return is_images(x)


def fits_average_pool(x: Array) -> bool:
    """Whether the sides can be halved; also of the gradient of up-sampling."""
    return is_images(x) and x.shape[1] % 2 == 0 and x.shape[2] % 2 == 0


def fits_halving_gradient(dy: Array, ctx: Any) -> bool:
    """For a backward that halves dy."""
    return fits_average_pool(dy)


def fits_image_gradient(dy: Array, ctx: Any) -> bool:
    """For the backward of operations that need no more than dy."""
    return is_images(dy)


def fits_add_shift(x: Array, shift: Array) -> bool:
    return is_images(x) and have_shape((x.shape[0], x.shape[3]), shift)


def fits_concat_channels(a: Array, b: Array) -> bool:
    return is_images(a) and is_images(b) and a.shape[:-1] == b.shape[:-1]


# Element by element


def fits_silu(x: Array) -> bool:
    return is_float32(x)


def fits_silu_backward(dy: Array, ctx: Array) -> bool:
    return is_float32(ctx) and have_shape(ctx.shape, dy)


def fits_add(a: Array, b: Array) -> bool:
    return is_float32(a) and have_shape(a.shape, b)


# Random numbers


def fits_noise(shape: tuple[int, ...], seed: int, stream: int, step: int, dtype: DType = None, first: int = 0) -> bool:
    """Also whether the numbers are enough to be worth the generator's threads."""
    in_range = 0 <= seed < 1 << 64 and 0 <= stream < 1 << 32 and 0 <= step < 1 << 32
    in_range = in_range and 0 <= first * row_size(shape) <= MOST_NUMBERS - math.prod(shape)
    return in_range and math.prod(shape) >= FEW and np.dtype(dtype or np.float32) in (np.float32, np.float64)


def fits_dropout_mask(
    shape: tuple[int, ...],
    rate: float,
    seed: int,
    stream: int,
    step: int,
    dtype: DType | None = None,
    first: int = 0,
) -> bool:
    return 0 <= rate < 1 and fits_noise(shape, seed, stream, step, dtype, first)


def fits_dropout(x: Array, rate: float, seed: int, stream: int, step: int, first: int = 0) -> bool:
    return is_float32(x) and fits_noise(x.shape, seed, stream, step, x.dtype, first)


def fits_dropout_backward(dy: Array, ctx: DropoutContext) -> bool:
    return is_float32(dy) and fits_noise(dy.shape, *ctx[1:])


# Embeddings


def fits_embedding(table: Array, indices: Array) -> bool:
    fits = table.ndim == 2 and indices.ndim == 1 and min(*table.shape, indices.size) > 0
    fits = fits and is_float32(table) and indices.dtype == np.int64 and indices.flags.c_contiguous
    # A recording allows this look at numbers, as the kernel checks them again
    numbers = np.asarray(indices)
    return fits and numbers.min() >= 0 and numbers.max() < table.shape[0]


def fits_embedding_backward(dy: Array, ctx: tuple[Array, Array]) -> bool:
    table, indices = ctx
    return fits_embedding(table, indices) and have_shape((indices.size, table.shape[1]), dy)


def fits_sinusoidal_embedding(
    t: Array,
    dim: int,
    max_period: float = 10000.0,
    frequency_shift: float = 0.0,
    cos_first: bool = True,
    dtype: DType | None = None,
) -> bool:
    fits = t.dtype in (np.int64, np.float64) and t.ndim == 1 and t.size > 0 and t.flags.c_contiguous
    return fits and np.dtype(dtype or np.float32) == np.float32 and dim // 2 > frequency_shift


# Losses


def fits_loss(prediction: Array, target: Array, weights: Array | None = None) -> bool:
    fits = is_float32(prediction) and prediction.size > 0 and have_shape(prediction.shape, target)
    return fits and (weights is None or have_shape(prediction.shape[:1], weights))


def fits_huber_loss(prediction: Array, target: Array, delta: float = 1.0, weights: Array | None = None) -> bool:
    return fits_loss(prediction, target, weights) and delta > 0


def fits_vlb_loss(output: Array, target: Array, x0: Array, steps: Array, hybrid: bool) -> bool:
    fits = is_float32(output, target) and target.ndim > 1 and target.size > 0
    return (
        fits
        and have_shape((*target.shape[:-1], 2 * target.shape[-1]), output)
        and have_shape(target.shape, x0)
        and have_shape((target.shape[0], len(STEPS)), steps)
    )


def fits_vlb_loss_backward(dy: Any, ctx: Any) -> bool:
    """dy: a number, or each image's."""
    one = isinstance(dy, int | float) or have_shape((1 + ctx[1].shape[0],), dy)
    return fits_vlb_loss(*ctx) and one


def fits_loss_gradient(dy: Array, ctx: Array) -> bool:
    """dy must be a number, not in memory that may change."""
    return isinstance(dy, int | float | np.floating) and is_float32(ctx) and ctx.size > 0


# One pass over flat arrays, in place


def fits_adam(params: Array, grads: Array, m: Array, v: Array, *rest: Any, **more: Any) -> bool:
    return is_flat(params, grads, m, v)


def fits_ema(average: Array, params: Array, decay: float) -> bool:
    return is_flat(average, params)


def fits_adam_ema(params: Array, grads: Array, m: Array, v: Array, average: Array, *rest: Any, **more: Any) -> bool:
    return is_flat(params, grads, m, v, average)


def fits_global_norm(grads: Array, *rest: Any, **more: Any) -> bool:
    """Also for clipping by it."""
    return is_flat(grads)
