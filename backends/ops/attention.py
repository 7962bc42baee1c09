"""Multi-head scaled dot-product attention."""

from typing import NamedTuple

from backends.array import Array, Namespace
from backends.ops.analytic import real_part


class AttentionContext(NamedTuple):
    """What `attention` keeps: the weights are recomputed from each row's log-sum-exp, lse: (N, heads, L)."""

    q: Array
    k: Array
    v: Array
    lse: Array


def split_heads(xp: Namespace, x: Array, num_heads: int) -> Array:
    """(N, L, C) -> (N, heads, L, C / heads)."""
    n, length, channels = x.shape
    return xp.permute_dims(xp.reshape(x, (n, length, num_heads, channels // num_heads)), (0, 2, 1, 3))


def merge_heads(xp: Namespace, x: Array) -> Array:
    """(N, heads, L, C / heads) -> (N, L, C): undoes `split_heads`."""
    n, heads, length, width = x.shape
    return xp.reshape(xp.permute_dims(x, (0, 2, 1, 3)), (n, length, heads * width))


def attention(xp: Namespace, q: Array, k: Array, v: Array, num_heads: int = 1) -> tuple[Array, AttentionContext]:
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


def attention_backward(xp: Namespace, dy: Array, ctx: AttentionContext) -> tuple[Array, Array, Array]:
    """Gradients of `attention`: (dq, dk, dv), of q's, k's and v's shapes, from dy: (N, L, C).

    Through the softmax, ds = p (dp - sum(dp p)) over each row; p is recomputed from lse (Dao et al. 2022, algorithm 4).
    """
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
