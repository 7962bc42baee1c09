"""Multi-head scaled dot-product attention, alone and with the normalisation and the linear map before it."""

from typing import Any, NamedTuple

from backends.ops.analytic import real_part
from backends.ops.linear import LinearContext, linear, linear_backward
from backends.ops.normalization import NormContext, group_norm, group_norm_again, group_norm_backward


class AttentionContext(NamedTuple):
    """What `attention` keeps: the weights are made again from each row's log-sum-exp, lse: (N, heads, L)."""

    q: Any
    k: Any
    v: Any
    lse: Any


class NormAttentionContext(NamedTuple):
    """What `norm_attention` keeps: arguments and statistics; queries, keys and values are made again."""

    x: Any
    gamma: Any
    beta: Any
    weight: Any
    bias: Any
    mean: Any
    rstd: Any
    lse: Any


def split_heads(xp: Any, x: Any, num_heads: int) -> Any:
    """(N, L, C) -> (N, heads, L, C / heads)."""
    n, length, channels = x.shape
    return xp.permute_dims(xp.reshape(x, (n, length, num_heads, channels // num_heads)), (0, 2, 1, 3))


def merge_heads(xp: Any, x: Any) -> Any:
    """(N, heads, L, C / heads) -> (N, L, C): undoes `split_heads`."""
    n, heads, length, width = x.shape
    return xp.reshape(xp.permute_dims(x, (0, 2, 1, 3)), (n, length, heads * width))


def attention(xp: Any, q: Any, k: Any, v: Any, num_heads: int = 1) -> tuple[Any, Any]:
    """softmax(q k^T / sqrt(d)) v for each head of width d = C / num_heads (Vaswani et al. 2017, eq. 1).

    q: (N, L, C), k, v: (N, M, C). Returns y: (N, L, C) and ctx for `attention_backward`.
    Raises ValueError if num_heads does not divide C or the shapes do not match.
    """
    n, _, channels = q.shape
    if k.shape != v.shape or (k.shape[0], k.shape[2]) != (n, channels):
        raise ValueError(
            f"attention takes q (N, L, C) and k, v (N, M, C), got {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
        )
    if num_heads < 1 or channels % num_heads:
        raise ValueError(f"num_heads={num_heads} does not divide {channels} channels; choose a divisor")
    qh, kh, vh = (split_heads(xp, a, num_heads) for a in (q, k, v))
    scale = (channels // num_heads) ** -0.5
    scores = (qh @ xp.matrix_transpose(kh)) * scale
    # The maximum of the real part is a constant to the complex step, as a shift of a softmax may be
    largest = xp.max(real_part(xp, scores), axis=-1, keepdims=True)
    weights = xp.exp(scores - largest)
    total = xp.sum(weights, axis=-1, keepdims=True)
    lse = (largest + xp.log(total))[..., 0]
    return merge_heads(xp, (weights / total) @ vh), AttentionContext(q, k, v, lse)


def attention_backward(xp: Any, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
    """Gradients of `attention`: (dq, dk, dv); through the softmax, ds = p (dp - sum(dp p)) over each row."""
    q, k, v, lse = ctx
    num_heads = lse.shape[1]
    scale = (q.shape[2] // num_heads) ** -0.5
    qh, kh, vh, dyh = (split_heads(xp, a, num_heads) for a in (q, k, v, dy))
    weights = xp.exp((qh @ xp.matrix_transpose(kh)) * scale - lse[..., None])
    dvh = xp.matrix_transpose(weights) @ dyh
    dweights = dyh @ xp.matrix_transpose(vh)
    dscores = weights * (dweights - xp.sum(dweights * weights, axis=-1, keepdims=True)) * scale
    dqh = dscores @ kh
    dkh = xp.matrix_transpose(dscores) @ qh
    return merge_heads(xp, dqh), merge_heads(xp, dkh), merge_heads(xp, dvh)


def pixels(xp: Any, x: Any) -> Any:
    """(N, ..., C) as (N, L, C)."""
    return xp.reshape(x, (x.shape[0], -1, x.shape[-1]))


def thirds(qkv: Any) -> tuple[Any, Any, Any]:
    """(N, L, 3C) cut into three (N, L, C)."""
    c = qkv.shape[-1] // 3
    return qkv[..., :c], qkv[..., c : 2 * c], qkv[..., 2 * c :]


def norm_attention(
    xp: Any, x: Any, gamma: Any, beta: Any, weight: Any, bias: Any, groups: int, eps: float = 1e-5, num_heads: int = 1
) -> tuple[Any, Any]:
    """y = attention(q, k, v) of all pixels to all, with [q, k, v] = group_norm(x) W + b.

    x: (N, ..., C) with L pixels; gamma, beta: (C,); weight: (C, 3C), bias: (3C,). Returns y: (N, L, C) and ctx
    for `norm_attention_backward`. Raises ValueError as `group_norm` and `attention` do.
    """
    h, norm_ctx = group_norm(xp, x, gamma, beta, groups, eps)
    qkv, _ = linear(xp, pixels(xp, h), weight, bias)
    y, ctx = attention(xp, *thirds(qkv), num_heads)
    return y, NormAttentionContext(x, gamma, beta, weight, bias, norm_ctx.mean, norm_ctx.rstd, ctx.lse)


def norm_attention_backward(xp: Any, dy: Any, ctx: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Gradients of `norm_attention`: (dx, dgamma, dbeta, dweight, dbias)."""
    x, gamma, beta, weight, bias, mean, rstd, lse = ctx
    norm_ctx = NormContext(x, gamma, beta, mean, rstd)
    h = pixels(xp, group_norm_again(xp, norm_ctx))
    qkv, _ = linear(xp, h, weight, bias)
    dqkv = xp.concat(list(attention_backward(xp, dy, AttentionContext(*thirds(qkv), lse))), axis=-1)
    dh, dweight, dbias = linear_backward(xp, dqkv, LinearContext(h, weight, True))
    dx, dgamma, dbeta = group_norm_backward(xp, xp.reshape(dh, x.shape), norm_ctx)
    return dx, dgamma, dbeta, dweight, dbias
