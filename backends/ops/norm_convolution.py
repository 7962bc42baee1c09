"""What a residual block is made of, one operation each: normalise and convolve, and its 1x1 shortcut."""

from typing import Any

from backends.ops.convolution import conv2d, conv2d_backward
from backends.ops.linear import linear, linear_backward
from backends.ops.normalization import group_norm_silu, group_norm_silu_backward
from backends.ops.resampling import (
    concat_channels,
    concat_channels_backward,
    upsample_nearest,
    upsample_nearest_backward,
)


def join(xp: Any, x: Any, skip: Any) -> tuple[Any, Any]:
    """[x, skip] along channels and where to cut; x itself and None without a skip."""
    return (x, None) if skip is None else concat_channels(xp, x, skip)


def cut_joined(xp: Any, dy: Any, cut: Any, dx: Any, dskip: Any) -> tuple[Any, Any]:
    """The gradients of `join`, added to dx and dskip where these are given."""
    more, more_skip = (dy, None) if cut is None else concat_channels_backward(xp, dy, cut)
    return more if dx is None else dx + more, more_skip if dskip is None else dskip + more_skip


def norm_conv2d(
    xp: Any,
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
    """y = conv(mask silu(group_norm([x, skip]))) + bias + shift + residual, padded to keep the size.

    x: (N, H, W, A); skip: (N, H, W, B) to be joined to it, or None (B = 0); gamma, beta: (A + B,);
    weight: (k, k, A + B, K), k odd; bias: (K,); shift: (N, K), added to every pixel, or None; residual:
    (N, H, W, K) or None; mask: of dropout, (N, H, W, A + B) or None. Returns y: (N, H, W, K) and ctx for
    `norm_conv2d_backward`.
    """
    joined, cut = join(xp, x, skip)
    h, norm_ctx = group_norm_silu(xp, joined, gamma, beta, groups, eps)
    if mask is not None:
        h = h * mask
    y, conv_ctx = conv2d(xp, h, weight, bias, 1, weight.shape[0] // 2)
    if shift is not None:
        y = y + shift[:, None, None, :]
    if residual is not None:
        y = y + residual
    return y, (cut, norm_ctx, mask, conv_ctx, shift is not None, residual is not None)


def norm_conv2d_backward(xp: Any, dy: Any, ctx: Any, dx: Any = None, dskip: Any = None) -> tuple[Any, ...]:
    """Gradients of `norm_conv2d`: (dx, dskip, dgamma, dbeta, dweight, dbias, dshift, dresidual).

    None for what was not given. dx, dskip: gradients from elsewhere, added to the first two.
    """
    cut, norm_ctx, mask, conv_ctx, has_shift, has_residual = ctx
    dresidual = dy if has_residual else None
    dshift = xp.sum(dy, axis=(1, 2)) if has_shift else None
    dh, dweight, dbias = conv2d_backward(xp, dy, conv_ctx)
    if mask is not None:
        dh = dh * mask
    djoined, dgamma, dbeta = group_norm_silu_backward(xp, dh, norm_ctx)
    dx, dskip = cut_joined(xp, djoined, cut, dx, dskip)
    return dx, dskip, dgamma, dbeta, dweight, dbias, dshift, dresidual


def pointwise(xp: Any, x: Any, skip: Any, weight: Any, bias: Any) -> tuple[Any, Any]:
    """y = [x, skip] W + b for every pixel: a 1x1 convolution.

    x: (N, H, W, A); skip: (N, H, W, B) or None (B = 0); weight: (A + B, K); bias: (K,). Returns y: (N, H, W, K).
    """
    joined, cut = join(xp, x, skip)
    y, ctx = linear(xp, joined, weight, bias)
    return y, (cut, ctx)


def pointwise_backward(xp: Any, dy: Any, ctx: Any) -> tuple[Any, Any, Any, Any]:
    """Gradients of `pointwise`: (dx, dskip or None, dweight, dbias)."""
    cut, linear_ctx = ctx
    djoined, dweight, dbias = linear_backward(xp, dy, linear_ctx)
    dx, dskip = cut_joined(xp, djoined, cut, None, None)
    return dx, dskip, dweight, dbias


def upsample_conv2d(xp: Any, x: Any, weight: Any, bias: Any) -> tuple[Any, Any]:
    """conv(upsample_nearest(x)) + b, padded to keep the size.

    x: (N, H, W, C), weight: (k, k, C, K), k odd; bias: (K,). Returns y: (N, 2H, 2W, K).
    """
    large, up_ctx = upsample_nearest(xp, x)
    y, conv_ctx = conv2d(xp, large, weight, bias, 1, weight.shape[0] // 2)
    return y, (up_ctx, conv_ctx)


def upsample_conv2d_backward(xp: Any, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
    """Gradients of `upsample_conv2d`: (dx, dweight, dbias)."""
    up_ctx, conv_ctx = ctx
    dlarge, dweight, dbias = conv2d_backward(xp, dy, conv_ctx)
    (dx,) = upsample_nearest_backward(xp, dlarge, up_ctx)
    return dx, dweight, dbias
