"""Affine map over the last axis."""

from typing import NamedTuple

from backends.array import Array, Namespace


class LinearContext(NamedTuple):
    """What `linear` keeps."""

    x: Array
    weight: Array
    has_bias: bool


def linear(xp: Namespace, x: Array, weight: Array, bias: Array | None = None) -> tuple[Array, LinearContext]:
    """y = x W + b.

    x: (..., C), weight: (C, K), bias: (K,) or None. Returns y of shape (..., K) and ctx for `linear_backward`.
    Raises ValueError if x has not C channels.
    """
    if x.shape[-1] != weight.shape[0]:
        raise ValueError(f"a linear map of {weight.shape[0]} channels got x with {x.shape[-1]}, shape {tuple(x.shape)}")
    rows = xp.reshape(x, (-1, weight.shape[0]))
    y = rows @ weight
    if bias is not None:
        y = y + bias
    return xp.reshape(y, (*x.shape[:-1], weight.shape[1])), LinearContext(x, weight, bias is not None)


def linear_backward(xp: Namespace, dy: Array, ctx: LinearContext) -> tuple[Array, Array, Array]:
    """Gradients of `linear` from dy: (..., K): dx = dy W^T, dW = x^T dy, db = sum of dy (None without a bias)."""
    x, weight, has_bias = ctx
    rows, drows = xp.reshape(x, (-1, weight.shape[0])), xp.reshape(dy, (-1, weight.shape[1]))
    dx = xp.reshape(drows @ weight.T, x.shape)
    return dx, rows.T @ drows, xp.sum(drows, axis=0) if has_bias else None
