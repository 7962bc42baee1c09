"""The operations that `NumpyBackend` overrides, block by block.

Each `work` reads and writes its own slice of the arrays around it and returns its part of the parameters' gradients.
"""

from typing import Any

import numpy as np

from backends import ops
from backends.array import Array
from backends.numpy_kernels.convolution import convolve, convolve_backward, turned
from backends.numpy_kernels.normalization import (
    centre,
    multiply_by_slope,
    normalise_backward,
    scale,
    scale_silu,
    statistics,
)
from backends.numpy_kernels.rows import add_to_pixels, rows_of, sum_pixels
from backends.numpy_kernels.workers import WORKERS
from backends.ops.attention import AttentionContext
from backends.ops.convolution import ConvContext, Padding, output_size
from backends.ops.fused import NormAttentionContext, NormConvContext
from backends.ops.normalization import NormContext


def image_blocks(x: Array, width: int) -> list[slice]:
    """Blocks of the images (N, ..., C) where `width` numbers are made for each pixel."""
    return WORKERS.blocks(len(x), x.nbytes // x.shape[-1] * width)


def some(block: slice, *arrays: Array) -> list[Array]:
    """The block of each array; None for None."""
    return [None if a is None else a[block] for a in arrays]


def summed(results: list[Any]) -> list[Any]:
    """The blocks' tuples of gradients added up, in their order."""
    return [sum(gradients[1:], start=gradients[0]) for gradients in zip(*results, strict=True)]


# Products over channels


def multiply(inputs: list[tuple[Array, Array]], bias: Array) -> Array:
    """x W added up over the inputs (x, W), plus bias, which may be None: (..., C), (C, K) -> (..., K)."""
    (x, weight), *others = [(x.reshape(-1, len(weight)), weight) for x, weight in inputs]
    y = np.empty((len(x), weight.shape[1]), x.dtype)

    def work(block: slice) -> None:
        np.matmul(x[block], weight, out=y[block])
        for x_more, weight_more in others:
            y[block] += x_more[block] @ weight_more
        if bias is not None:
            y[block] += bias

    WORKERS.run(work, WORKERS.blocks(len(y), 2 * y.nbytes + x.nbytes))
    return y.reshape(*inputs[0][0].shape[:-1], -1)


def multiply_backward(dy: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """(dx, dweight, dbias) of one input of `multiply`."""
    rows, drows = x.reshape(-1, len(weight)), dy.reshape(-1, weight.shape[1])
    dx = np.empty(rows.shape, x.dtype)

    def work(block: slice) -> Any:
        np.matmul(drows[block], weight.T, out=dx[block])
        return rows[block].T @ drows[block], drows[block].sum(axis=0)

    dweight, dbias = summed(WORKERS.run(work, WORKERS.blocks(len(rows), 2 * rows.nbytes + drows.nbytes)))
    return dx.reshape(x.shape), dweight, dbias


# Convolution


def conv2d(x: Array, weight: Array, bias: Array, stride: int, sides: Padding, enlarge: bool = False) -> Array:
    """y of the reference operation; enlarge: of `upsample_conv2d`."""
    (n, h, w, c), (kh, kw, _, outputs), factor = x.shape, weight.shape, 2 if enlarge else 1
    rows = output_size(factor * h, kh, stride, *sides[:2])
    y = np.empty((n, rows, output_size(factor * w, kw, stride, *sides[2:]), outputs), x.dtype)

    def work(block: slice) -> None:
        images = ops.upsample_nearest(np, x[block])[0] if enlarge else x[block]
        convolve(images, weight, y[block], stride, sides)
        if bias is not None:
            add_to_pixels(y[block], bias)

    WORKERS.run(work, image_blocks(y, kh * kw * c))
    return y


def conv2d_backward(
    dy: Array, x: Array, weight: Array, sides: Padding, enlarge: bool = False
) -> tuple[Array, Array, Array]:
    """(dx, dweight, dbias) of `conv2d` of stride 1."""
    kernel, dx = turned(weight), np.empty(x.shape, x.dtype)

    def work(block: slice) -> Any:
        images = ops.upsample_nearest(np, x[block])[0] if enlarge else x[block]
        dimages, dkernel = convolve_backward(dy[block], images, kernel, sides)
        dx[block] = ops.upsample_nearest_backward(np, dimages, None)[0] if enlarge else dimages
        return dkernel, sum_pixels(rows_of(dy[block]), dy.shape[3]).sum(axis=0)

    dkernel, dbias = summed(WORKERS.run(work, image_blocks(dy, kernel[..., 0].size)))
    return dx, turned(dkernel), dbias


def conv2d_backward_strided(
    dy: Array, x: Array, weight: Array, stride: int, sides: Padding
) -> tuple[Array, Array, Array]:
    """(dx, dweight, dbias) of `conv2d` of any stride: the reference operation's."""
    dx = np.empty(x.shape, x.dtype)

    def work(block: slice) -> Any:
        dx[block], dweight, dbias = ops.conv2d_backward(
            np, dy[block], ConvContext(x[block], weight, True, stride, sides)
        )
        return dweight, dbias

    dweight, dbias = summed(WORKERS.run(work, image_blocks(dy, 2 * weight[..., 0].size)))
    return dx, dweight, dbias


# Normalisation


def of_groups(values: Array, groups: int) -> Array:
    """(N, C), equal within each group, as (N, groups)."""
    return np.ascontiguousarray(values[:, :: values.shape[1] // groups])


def of_channels(values: Array, channels: int) -> Array:
    """Undoes `of_groups`."""
    return np.repeat(values, channels // values.shape[1], axis=1)


def group_norm(x: Array, gamma: Array, beta: Array, groups: int, eps: float, silu: bool) -> tuple[Array, NormContext]:
    """The reference operation, or `group_norm_silu`."""
    y, (mean, rstd) = np.empty(x.shape, x.dtype), np.empty((2, len(x), gamma.size), x.dtype)

    def work(block: slice) -> None:
        centred, mean[block], rstd[block] = statistics(x[block], groups, eps)
        z = scale_silu(centred, rstd[block], gamma, beta)[0] if silu else scale(centred, rstd[block], gamma, beta)
        y[block] = z.reshape(y[block].shape)

    WORKERS.run(work, image_blocks(x, 4 * gamma.size))
    return y, NormContext(x, gamma, beta, of_groups(mean, groups), of_groups(rstd, groups))


def group_norm_backward(dy: Array, ctx: NormContext, silu: bool) -> tuple[Array, Array, Array]:
    """(dx, dgamma, dbeta) of `group_norm`."""
    x, gamma, beta, mean, rstd = ctx
    groups, mean, rstd = mean.shape[1], of_channels(mean, gamma.size), of_channels(rstd, gamma.size)
    dx = np.empty(x.shape, x.dtype)

    def work(block: slice) -> Any:
        dx[block] = dy[block]
        dz, centred = rows_of(dx[block]), centre(x[block], mean[block])
        if silu:
            multiply_by_slope(dz, *scale_silu(centred, rstd[block], gamma, beta))
        return normalise_backward(dz, centred, rstd[block], gamma, groups)

    dgamma, dbeta = summed(WORKERS.run(work, image_blocks(x, 5 * gamma.size)))
    return dx, dgamma, dbeta


# Residual blocks


def joined(x: Array, skip: Array) -> Array:
    """[x, skip] along channels; x itself without a skip."""
    return x if skip is None else np.concatenate([x, skip], axis=-1)


def norm_conv2d(
    x: Array,
    skip: Array,
    gamma: Array,
    beta: Array,
    weight: Array,
    bias: Array,
    groups: int,
    eps: float,
    shift: Array,
    residual: Array,
    mask: Array,
) -> tuple[Array, NormConvContext]:
    """The reference operation."""
    size, _, channels, outputs = weight.shape
    y, (mean, rstd) = np.empty((*x.shape[:3], outputs), x.dtype), np.empty((2, len(x), channels), x.dtype)

    def work(block: slice) -> None:
        x_, skip_, shift_, residual_, mask_ = some(block, x, skip, shift, residual, mask)
        images = joined(x_, skip_)
        centred, mean[block], rstd[block] = statistics(images, groups, eps)
        activation = scale_silu(centred, rstd[block], gamma, beta)[0].reshape(images.shape)
        if mask is not None:
            activation *= mask_
        convolve(activation, weight, y[block], 1, (size // 2,) * 4)
        add_to_pixels(y[block], bias if shift is None else shift_ + bias)
        if residual is not None:
            y[block] += residual_

    WORKERS.run(work, image_blocks(x, (size * size + 4) * channels))
    kept = x, skip, gamma, beta, weight, of_groups(mean, groups), of_groups(rstd, groups), mask
    return y, NormConvContext(*kept, shift is not None, residual is not None)


def norm_conv2d_backward(dy: Array, ctx: NormConvContext, more: Array) -> tuple[Array, ...]:
    """The reference operation's gradients; more: to be added to the first, or None."""
    x, skip, gamma, beta, weight, mean, rstd, mask, has_shift, has_residual = ctx
    size, _, channels, outputs = weight.shape
    groups, mean, rstd = mean.shape[1], of_channels(mean, channels), of_channels(rstd, channels)
    dx = np.empty(x.shape, x.dtype)
    dskip: Array = None if skip is None else np.empty(skip.shape, skip.dtype)
    kernel, dshift = turned(weight), np.empty((len(x), outputs), x.dtype)

    def work(block: slice) -> Any:
        x_, skip_, mask_, dy_, more_ = some(block, x, skip, mask, dy, more)
        images = joined(x_, skip_)
        centred = centre(images, mean[block])
        y, t = scale_silu(centred, rstd[block], gamma, beta)
        activation = y.reshape(images.shape)
        if mask is not None:
            activation = activation * mask_
        dimages, dkernel = convolve_backward(dy_, activation, kernel, (size // 2,) * 4)
        if mask is not None:
            dimages *= mask_
        dz = rows_of(dimages)
        multiply_by_slope(dz, y, t)
        dgamma, dbeta = normalise_backward(dz, centred, rstd[block], gamma, groups)
        part, part_skip = np.split(dimages, [x.shape[3]], axis=3)
        np.add(part, 0.0 if more is None else more_, out=dx[block])
        if skip is not None:
            dskip[block] = part_skip
        dshift[block] = sum_pixels(rows_of(dy_), outputs)
        return dkernel, dgamma, dbeta

    dkernel, dgamma, dbeta = summed(WORKERS.run(work, image_blocks(x, size * size * outputs + 6 * channels)))
    extras = dshift if has_shift else None, dy if has_residual else None
    return dx, dskip, dgamma, dbeta, turned(dkernel), dshift.sum(axis=0), *extras


# Attention


def attention(q: Array, k: Array, v: Array, num_heads: int) -> tuple[Array, Array]:
    """The reference operation."""
    y, lse = np.empty(q.shape, q.dtype), np.empty((len(q), num_heads, q.shape[1]), q.dtype)

    def work(block: slice) -> None:
        y[block], ctx = ops.attention(np, q[block], k[block], v[block], num_heads)
        lse[block] = ctx.lse

    WORKERS.run(work, WORKERS.blocks(len(q), 3 * lse.nbytes * k.shape[1]))
    return y, AttentionContext(q, k, v, lse)


def attention_backward(dy: Array, ctx: AttentionContext) -> tuple[Array, ...]:
    """(dq, dk, dv) of `attention`."""
    gradients = [np.empty(a.shape, a.dtype) for a in ctx[:3]]

    def work(block: slice) -> None:
        parts = ops.attention_backward(np, dy[block], AttentionContext(*some(block, *ctx)))
        for gradient, part in zip(gradients, parts, strict=True):
            gradient[block] = part

    WORKERS.run(work, WORKERS.blocks(len(dy), 5 * ctx.lse.nbytes * ctx.k.shape[1]))
    return tuple(gradients)


def norm_attention(
    x: Array, gamma: Array, beta: Array, weight: Array, bias: Array, groups: int, eps: float, num_heads: int
) -> tuple[Array, Array]:
    """The reference operation."""
    pixels = x.size // (len(x) * gamma.size)
    y, lse = np.empty((len(x), pixels, gamma.size), x.dtype), np.empty((len(x), num_heads, pixels), x.dtype)
    mean, rstd = np.empty((2, len(x), groups), x.dtype)

    def work(block: slice) -> None:
        y[block], ctx = ops.norm_attention(np, x[block], gamma, beta, weight, bias, groups, eps, num_heads)
        mean[block], rstd[block], lse[block] = ctx.mean, ctx.rstd, ctx.lse

    WORKERS.run(work, WORKERS.blocks(len(x), 3 * lse.nbytes * pixels + 6 * x.nbytes))
    return y, NormAttentionContext(x, gamma, beta, weight, bias, mean, rstd, lse)


def norm_attention_backward(dy: Array, ctx: NormAttentionContext) -> tuple[Array, ...]:
    """The reference operation's gradients."""
    x, gamma, beta, weight, bias, mean, rstd, lse = ctx
    dx = np.empty(x.shape, x.dtype)

    def work(block: slice) -> Any:
        here = NormAttentionContext(x[block], gamma, beta, weight, bias, mean[block], rstd[block], lse[block])
        dx[block], *gradients = ops.norm_attention_backward(np, dy[block], here)
        return gradients

    return dx, *summed(WORKERS.run(work, WORKERS.blocks(len(x), 5 * lse.nbytes * lse.shape[2] + 9 * x.nbytes)))


# One pass over flat arrays


def adam(params: Array, grads: Array, m: Array, v: Array, *options: Any) -> None:
    """The reference operation, in place."""

    def work(block: slice) -> None:
        arrays = params[block], grads[block], m[block], v[block]
        params[block], m[block], v[block] = ops.adam(np, *arrays, *options)

    WORKERS.run(work, WORKERS.blocks(len(params), 6 * params.nbytes))


def adam_ema(params: Array, grads: Array, m: Array, v: Array, average: Array, *options: Any) -> None:
    """The reference operation, in place."""

    def work(block: slice) -> None:
        arrays = params[block], grads[block], m[block], v[block], average[block]
        params[block], m[block], v[block], average[block] = ops.adam_ema(np, *arrays, *options)

    WORKERS.run(work, WORKERS.blocks(len(params), 8 * params.nbytes))
