"""Compositions that fast backends compute in one go; here, what they must equal."""

from typing import NamedTuple

from backends.array import Array, Namespace
from backends.ops.activation import silu, silu_backward
from backends.ops.attention import AttentionContext, attention, attention_backward
from backends.ops.convolution import ConvContext, conv2d, conv2d_backward, four_sides
from backends.ops.joining import concat_channels, concat_channels_backward
from backends.ops.linear import LinearContext, linear, linear_backward
from backends.ops.normalization import NormContext, group_norm, group_norm_backward, group_norm_from_statistics
from backends.ops.resampling import upsample_nearest, upsample_nearest_backward


class NormConvContext(NamedTuple):
    """What `norm_conv2d` keeps: arguments and the statistics (N, G); the activation is recomputed."""

    x: Array
    skip: Array
    gamma: Array
    beta: Array
    weight: Array
    mean: Array
    rstd: Array
    mask: Array
    has_shift: bool
    has_residual: bool


class PointwiseContext(NamedTuple):
    """What `pointwise` keeps."""

    x: Array
    skip: Array
    weight: Array


class UpsampleContext(NamedTuple):
    """What `upsample_conv2d` keeps: the small image."""

    x: Array
    weight: Array


def join(xp: Namespace, x: Array, skip: Array | None) -> Array:
    """[x, skip] along channels; x itself without a skip."""
    return x if skip is None else concat_channels(xp, x, skip)[0]


def split_joined(xp: Namespace, dy: Array, x: Array, skip: Array | None) -> tuple[Array, Array]:
    """The gradients of `join`: (dx, dskip), dskip None without a skip."""
    return (dy, None) if skip is None else concat_channels_backward(xp, dy, x.shape[-1])


def plus(gradient: Array, more: Array) -> Array:
    """gradient + more, where there is more."""
    return gradient if more is None else gradient + more


def norm_conv2d(
    xp: Namespace,
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
) -> tuple[Array, NormConvContext]:
    """y = conv(mask silu(group_norm([x, skip]))) + bias + shift + residual, padded to keep the size.

    x: (N, H, W, A); skip: (N, H, W, B) to be joined to it, or None (B = 0); gamma, beta: (A + B,);
    weight: (k, k, A + B, K), k odd; bias: (K,); shift: (N, K), added to every pixel, or None; residual:
    (N, H, W, K) or None; mask: of dropout, (N, H, W, A + B) or None. Returns y: (N, H, W, K) and ctx for
    `norm_conv2d_backward`. Raises ValueError as `group_norm` and `conv2d` do.
    """
    h, norm_ctx = group_norm_silu(xp, join(xp, x, skip), gamma, beta, groups, eps)
    if mask is not None:
        h = h * mask
    y, _ = conv2d(xp, h, weight, bias, 1, weight.shape[0] // 2)
    if shift is not None:
        y = y + shift[:, None, None, :]
    if residual is not None:
        y = y + residual
    kept = (x, skip, gamma, beta, weight, norm_ctx.mean, norm_ctx.rstd, mask)
    return y, NormConvContext(*kept, shift is not None, residual is not None)


def norm_conv2d_backward(xp: Namespace, dy: Array, ctx: NormConvContext, dx: Array | None = None) -> tuple[Array, ...]:
    """Gradients of `norm_conv2d`: (dx, dskip, dgamma, dbeta, dweight, dbias, dshift, dresidual).

    Each of its argument's shape, from dy: (N, H, W, K); None for what was not given. dx: (N, H, W, A), a gradient from
    elsewhere, added to the first.
    """
    x, skip, gamma, beta, weight, mean, rstd, mask, has_shift, has_residual = ctx
    dresidual = dy if has_residual else None
    dshift = xp.sum(dy, axis=(1, 2)) if has_shift else None
    norm_ctx = NormContext(join(xp, x, skip), gamma, beta, mean, rstd)
    h, _ = silu(xp, group_norm_from_statistics(xp, norm_ctx))
    if mask is not None:
        h = h * mask
    dh, dweight, dbias = conv2d_backward(xp, dy, ConvContext(h, weight, True, 1, four_sides(weight.shape[0] // 2)))
    if mask is not None:
        dh = dh * mask
    djoined, dgamma, dbeta = group_norm_silu_backward(xp, dh, norm_ctx)
    more, (dx, dskip) = dx, split_joined(xp, djoined, x, skip)
    return plus(dx, more), dskip, dgamma, dbeta, dweight, dbias, dshift, dresidual


def pointwise(
    xp: Namespace, x: Array, skip: Array | None, weight: Array, bias: Array
) -> tuple[Array, PointwiseContext]:
    """y = [x, skip] W + b for every pixel: a 1x1 convolution.

    x: (N, H, W, A); skip: (N, H, W, B) or None (B = 0); weight: (A + B, K); bias: (K,). Returns y: (N, H, W, K).
    Raises ValueError if x and skip together have not A + B channels.
    """
    y, _ = linear(xp, join(xp, x, skip), weight, bias)
    return y, PointwiseContext(x, skip, weight)


def pointwise_backward(
    xp: Namespace, dy: Array, ctx: PointwiseContext, dx: Array | None = None, dskip: Array | None = None
) -> tuple[Array, Array, Array, Array]:
    """Gradients of `pointwise`: (dx, dskip or None, dweight, dbias).

    dy: (N, H, W, K); dx, dskip: gradients from elsewhere, of x's and skip's shapes, added to the first two. A backend
    may add to these very arrays.
    """
    x, skip, weight = ctx
    djoined, dweight, dbias = linear_backward(xp, dy, LinearContext(join(xp, x, skip), weight, True))
    more, more_skip = split_joined(xp, djoined, x, skip)
    return plus(more, dx), plus(more_skip, dskip), dweight, dbias


def upsample_conv2d(xp: Namespace, x: Array, weight: Array, bias: Array) -> tuple[Array, UpsampleContext]:
    """conv(upsample_nearest(x)) + b, padded to keep the size.

    x: (N, H, W, C), weight: (k, k, C, K), k odd; bias: (K,). Returns y: (N, 2H, 2W, K). Raises ValueError
    as `conv2d` does.
    """
    large, _ = upsample_nearest(xp, x)
    y, _ = conv2d(xp, large, weight, bias, 1, weight.shape[0] // 2)
    return y, UpsampleContext(x, weight)


def upsample_conv2d_backward(xp: Namespace, dy: Array, ctx: UpsampleContext) -> tuple[Array, Array, Array]:
    """Gradients of `upsample_conv2d`, from dy: (N, 2H, 2W, K): (dx, dweight, dbias)."""
    x, weight = ctx
    large, up_ctx = upsample_nearest(xp, x)
    conv_ctx = ConvContext(large, weight, True, 1, four_sides(weight.shape[0] // 2))
    dlarge, dweight, dbias = conv2d_backward(xp, dy, conv_ctx)
    (dx,) = upsample_nearest_backward(xp, dlarge, up_ctx)
    return dx, dweight, dbias


class NormAttentionContext(NamedTuple):
    """What `norm_attention` keeps: arguments and statistics; queries, keys and values are recomputed."""

    x: Array
    gamma: Array
    beta: Array
    weight: Array
    bias: Array
    mean: Array
    rstd: Array
    lse: Array


def pixels(xp: Namespace, x: Array) -> Array:
    """(N, ..., C) as (N, L, C)."""
    return xp.reshape(x, (x.shape[0], -1, x.shape[-1]))


def thirds(qkv: Array) -> tuple[Array, Array, Array]:
    """(N, L, 3C) cut into three (N, L, C)."""
    c = qkv.shape[-1] // 3
    return qkv[..., :c], qkv[..., c : 2 * c], qkv[..., 2 * c :]


def norm_attention(
    xp: Namespace,
    x: Array,
    gamma: Array,
    beta: Array,
    weight: Array,
    bias: Array,
    groups: int,
    eps: float = 1e-5,
    num_heads: int = 1,
) -> tuple[Array, NormAttentionContext]:
    """y = attention(q, k, v) of all pixels to all, with [q, k, v] = group_norm(x) W + b (Ho et al. 2020, appendix B).

    x: (N, ..., C) with L pixels; gamma, beta: (C,); weight: (C, 3C), bias: (3C,). Returns y: (N, L, C) and ctx
    for `norm_attention_backward`. Raises ValueError as `group_norm` and `attention` do.
    """
    h, norm_ctx = group_norm(xp, x, gamma, beta, groups, eps)
    qkv, _ = linear(xp, pixels(xp, h), weight, bias)
    y, ctx = attention(xp, *thirds(qkv), num_heads)
    return y, NormAttentionContext(x, gamma, beta, weight, bias, norm_ctx.mean, norm_ctx.rstd, ctx.lse)


def norm_attention_backward(
    xp: Namespace, dy: Array, ctx: NormAttentionContext
) -> tuple[Array, Array, Array, Array, Array]:
    """Gradients of `norm_attention`, from dy: (N, L, C): (dx, dgamma, dbeta, dweight, dbias)."""
    x, gamma, beta, weight, bias, mean, rstd, lse = ctx
    norm_ctx = NormContext(x, gamma, beta, mean, rstd)
    h = pixels(xp, group_norm_from_statistics(xp, norm_ctx))
    qkv, _ = linear(xp, h, weight, bias)
    dqkv = xp.concat(list(attention_backward(xp, dy, AttentionContext(*thirds(qkv), lse))), axis=-1)
    dh, dweight, dbias = linear_backward(xp, dqkv, LinearContext(h, weight, True))
    dx, dgamma, dbeta = group_norm_backward(xp, xp.reshape(dh, x.shape), norm_ctx)
    return dx, dgamma, dbeta, dweight, dbias


def group_norm_silu(
    xp: Namespace, x: Array, gamma: Array, beta: Array, groups: int, eps: float = 1e-5
) -> tuple[Array, NormContext]:
    """silu(group_norm(x)): the pair that stands before every convolution of a residual block.

    x: (N, ..., C), gamma, beta: (C,); groups divides C. Returns y of x's shape and ctx for `group_norm_silu_backward`.
    Raises ValueError as `group_norm` does.
    """
    normal, ctx = group_norm(xp, x, gamma, beta, groups, eps)
    return silu(xp, normal)[0], ctx


def group_norm_silu_backward(xp: Namespace, dy: Array, ctx: NormContext) -> tuple[Array, Array, Array]:
    """Gradients of `group_norm_silu`: (dx, dgamma, dbeta). SiLU's input is recomputed, not kept."""
    (dnormal,) = silu_backward(xp, dy, group_norm_from_statistics(xp, ctx))
    return group_norm_backward(xp, dnormal, ctx)
