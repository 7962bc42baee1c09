"""Group normalisation, SiLU and convolution: what a few images need is made, used and forgotten while in cache."""

from typing import Any, NamedTuple

import numpy as np

from backends.numpy_kernels.blocks import image_blocks
from backends.numpy_kernels.convolution import Bordered, convolve, convolve_backward, turned
from backends.numpy_kernels.normalization import (
    centre,
    centre_again,
    normalise_backward,
    scale,
    scale_silu,
    times_silu_slope,
)
from backends.numpy_kernels.rows import add_to_pixels, rows_of, sum_pixels


class NormContext(NamedTuple):
    """What `group_norm` keeps; mean and rstd: (N, C)."""

    x: Any
    gamma: Any
    beta: Any
    groups: int
    silu: bool
    mean: Any
    rstd: Any


class NormConvContext(NamedTuple):
    """What `norm_conv2d` keeps: its arguments and the statistics; the activation is made again."""

    x: Any
    skip: Any
    gamma: Any
    beta: Any
    weight: Any
    groups: int
    mask: Any
    has_shift: bool
    has_residual: bool
    mean: Any
    rstd: Any


def group_norm(x: Any, gamma: Any, beta: Any, groups: int, eps: float, silu: bool) -> tuple[Any, NormContext]:
    """The reference operation, or `group_norm_silu`."""
    y, mean, rstd = np.empty(x.shape, x.dtype), *np.empty((2, len(x), gamma.size), x.dtype)
    for block in image_blocks(x, 3 * gamma.size):
        centred, mean[block], rstd[block] = centre(x[block], groups, eps)
        z = scale_silu(centred, rstd[block], gamma, beta)[0] if silu else scale(centred, rstd[block], gamma, beta)
        y[block] = z.reshape(y[block].shape)
    return y, NormContext(x, gamma, beta, groups, silu, mean, rstd)


def group_norm_backward(dy: Any, ctx: NormContext) -> tuple[Any, Any, Any]:
    """(dx, dgamma, dbeta) of `group_norm`."""
    x, gamma, beta, groups, silu, mean, rstd = ctx
    dx, dgamma, dbeta = np.array(dy), np.zeros_like(gamma), np.zeros_like(beta)
    for block in image_blocks(x, 5 * gamma.size):
        centred, dz = centre_again(x[block], mean[block]), rows_of(dx[block])
        if silu:
            times_silu_slope(dz, *scale_silu(centred, rstd[block], gamma, beta))
        more, more_beta = normalise_backward(dz, centred, rstd[block], gamma, groups)
        dgamma += more
        dbeta += more_beta
    return dx, dgamma, dbeta


def joined(x: Any, skip: Any) -> Any:
    """[x, skip] along channels; x itself without a skip."""
    return x if skip is None else np.concatenate([x, skip], axis=-1)


def norm_conv2d(
    x: Any,
    skip: Any,
    gamma: Any,
    beta: Any,
    weight: Any,
    bias: Any,
    groups: int,
    eps: float,
    shift: Any,
    residual: Any,
    mask: Any,
) -> tuple[Any, NormConvContext]:
    """The reference operation."""
    (n, h, w, _), (kh, kw, channels, outputs) = x.shape, weight.shape
    y, mean, rstd = np.empty((n, h, w, outputs), x.dtype), *np.empty((2, n, channels), x.dtype)
    blocks = image_blocks(x, (kh * kw + 3) * channels)
    bordered = Bordered((blocks[0].stop, h, w, channels), (kh // 2, kh // 2, kw // 2, kw // 2), x.dtype)
    for block in blocks:
        images = joined(x[block], skip if skip is None else skip[block])
        centred, mean[block], rstd[block] = centre(images, groups, eps)
        activation = scale_silu(centred, rstd[block], gamma, beta)[0].reshape(images.shape)
        if mask is not None:
            activation *= mask[block]
        convolve(bordered(activation), weight, y[block])
        add_to_pixels(y[block], bias if shift is None else shift[block] + bias)
        if residual is not None:
            y[block] += residual[block]
    kept = x, skip, gamma, beta, weight, groups, mask, shift is not None, residual is not None
    return y, NormConvContext(*kept, mean, rstd)


def norm_conv2d_backward(dy: Any, ctx: NormConvContext, dx: Any, dskip: Any) -> tuple[Any, ...]:
    """The reference operation's gradients; dx, dskip: from elsewhere, or None."""
    x, skip, gamma, beta, weight, groups, mask, has_shift, has_residual, mean, rstd = ctx
    kh, kw, channels, outputs = weight.shape
    more, more_skip = dx, dskip
    dx, dskip = np.empty(x.shape, x.dtype), skip if skip is None else np.empty(skip.shape, x.dtype)
    kernel, dgamma, dbeta = turned(weight), np.zeros_like(gamma), np.zeros_like(beta)
    dkernel, dshift = np.zeros_like(kernel), np.empty((len(x), outputs), x.dtype)
    blocks = image_blocks(x, kh * kw * outputs + 5 * channels)
    bordered = Bordered((blocks[0].stop, *dy.shape[1:]), (kh // 2, kh // 2, kw // 2, kw // 2), x.dtype)
    for block in blocks:
        images = joined(x[block], skip if skip is None else skip[block])
        centred = centre_again(images, mean[block])
        y, t = scale_silu(centred, rstd[block], gamma, beta)
        activation = y.reshape(images.shape)
        dshift[block] = sum_pixels(rows_of(dy[block]), outputs)
        dimages, part = convolve_backward(
            bordered(dy[block]), activation if mask is None else activation * mask[block], kernel
        )
        dkernel += part
        if mask is not None:
            dimages *= mask[block]
        dz = rows_of(dimages)
        times_silu_slope(dz, y, t)
        part, part_beta = normalise_backward(dz, centred, rstd[block], gamma, groups)
        dgamma += part
        dbeta += part_beta
        for total, elsewhere, piece in (
            (dx, more, dimages[..., : x.shape[-1]]),
            (dskip, more_skip, dimages[..., x.shape[-1] :]),
        ):
            if total is not None:
                np.add(piece, 0 if elsewhere is None else elsewhere[block], out=total[block])
    dbias, dshift = dshift.sum(axis=0), dshift if has_shift else None
    return dx, dskip, dgamma, dbeta, turned(dkernel), dbias, dshift, dy if has_residual else None
