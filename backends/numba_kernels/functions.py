"""The kernels as functions from NumPy arrays to new arrays: what `backends.numba_backend` is written in.

All arrays are float32; results lie in pooled memory, scratch in one workspace.
"""

from typing import Any

import numpy as np

from backends.numba_kernels import (
    any_channels,
    attention,
    convolution,
    elementwise,
    noise,
    normalization,
    optimizer,
    pointwise,
)
from backends.numba_kernels.memory import POOL
from backends.numba_kernels.workspace import Workspace

PLAIN, UP = convolution.PLAIN, convolution.UP
# By stride and padding; halving is written for even sides
KINDS = {
    (1, (1, 1, 1, 1)): PLAIN,
    (2, (1, 1, 1, 1)): convolution.DOWN1,
    (2, (0, 1, 0, 1)): convolution.DOWN0,
}

adam, ema, squared_norm = optimizer.adam, optimizer.ema, optimizer.squared_norm


def pixels(x: Any) -> Any:
    """(N, ..., C) as (N, P, C)."""
    return np.ascontiguousarray(x).reshape(x.shape[0], -1, x.shape[-1])


def whole(a: Any) -> Any:
    """The array itself if it is contiguous, else a copy; None for None."""
    return None if a is None else np.ascontiguousarray(a)


def rows(a: Any) -> Any:
    """The array itself if its last axis is contiguous, else a copy."""
    return a if a.strides[-1] == a.itemsize else np.ascontiguousarray(a)


def flat(a: Any) -> Any:
    """The array as one axis."""
    return np.ascontiguousarray(a).reshape(-1)


# Products over channels


def multiply(x: Any, weight: Any, bias: Any = None, add_to: Any = None) -> Any:
    """x W + b over the last axis in a new array, or added to the one given."""
    y = POOL.empty((*x.shape[:-1], weight.shape[1])) if add_to is None else add_to
    pointwise.forward(np.ascontiguousarray(x), weight, y, Workspace(), bias, add_to)
    return y


def multiply_transposed(x: Any, dy: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """x^T dy, of the given shape, and the sum of dy."""
    dweight, dbias = POOL.empty(shape), np.empty(shape[1], np.float32)
    pointwise.weight_gradient(np.ascontiguousarray(x), np.ascontiguousarray(dy), dweight, dbias, Workspace())
    return dweight, dbias


# 3x3 convolutions; kind is one of KINDS or UP


def convolve(kind: Any, x: Any, weight: Any, shape: tuple[int, ...], shift: Any, residual: Any = None) -> Any:
    """A new array of this shape: the convolution, plus shift (K,) or (N, K), plus residual."""
    y = POOL.empty(shape)
    residual = None if residual is None else np.ascontiguousarray(residual)
    any_channels.forward(kind, np.ascontiguousarray(x), np.ascontiguousarray(weight), y, Workspace(), shift, residual)
    return y


def input_gradient(kind: Any, dy: Any, weight: Any, shape: tuple[int, ...]) -> Any:
    """dx, of the given shape, of `convolve`."""
    dx = POOL.empty(shape)
    any_channels.input_gradient(kind, np.ascontiguousarray(dy), np.ascontiguousarray(weight), dx, Workspace())
    return dx


def joined_gradient(dy: Any, weight: Any, x: Any, skip: Any) -> tuple[Any, Any]:
    """(dx, dskip or None) of a PLAIN `convolve` of x and skip joined along channels."""
    if skip is None:
        return input_gradient(PLAIN, dy, weight, x.shape), None
    pair = POOL.empty(x.shape), POOL.empty(skip.shape)
    any_channels.input_gradient(PLAIN, np.ascontiguousarray(dy), np.ascontiguousarray(weight), pair, Workspace())
    return pair


def weight_gradient(kind: Any, x: Any, dy: Any, weight: Any) -> tuple[Any, Any]:
    """dweight and dbias of `convolve`."""
    dweight, dbias = POOL.empty(weight.shape), np.empty(weight.shape[3], np.float32)
    any_channels.weight_gradient(kind, np.ascontiguousarray(x), np.ascontiguousarray(dy), dweight, dbias, Workspace())
    return dweight, dbias


# Group normalisation of x, or of x and skip joined along channels


def normalise(x: Any, skip: Any, gamma: Any, beta: Any, groups: int, eps: float, silu: bool) -> tuple[Any, Any, Any]:
    """The normalisation, with SiLU if so asked, and its means and reciprocal deviations (N, G)."""
    y = POOL.empty((*x.shape[:-1], gamma.size))
    mean, rstd = np.empty((x.shape[0], groups), np.float32), np.empty((x.shape[0], groups), np.float32)
    normalization.forward(whole(x), whole(skip), whole(gamma), whole(beta), eps, silu, y, mean, rstd, Workspace())
    return y, mean, rstd


def normalise_again(x: Any, skip: Any, gamma: Any, beta: Any, mean: Any, rstd: Any, silu: bool) -> Any:
    """The result of `normalise`, from its statistics."""
    y = POOL.empty((*x.shape[:-1], gamma.size))
    normalization.repeat(whole(x), whole(skip), whole(gamma), whole(beta), mean, rstd, silu, y, Workspace())
    return y


def normalise_backward(
    dy: Any, x: Any, gamma: Any, beta: Any, mean: Any, rstd: Any, silu: bool
) -> tuple[Any, Any, Any]:
    """(dx, dgamma, dbeta) of `normalise` without a skip."""
    dx = POOL.empty(x.shape)
    dgamma, dbeta = through_norm(dx, None, x, None, gamma, beta, mean, rstd, silu, dy=dy)
    return dx, dgamma, dbeta


def through_norm(
    dx: Any,
    dskip: Any,
    x: Any,
    skip: Any,
    gamma: Any,
    beta: Any,
    mean: Any,
    rstd: Any,
    silu: bool,
    dy: Any = None,
    more: Any = None,
) -> tuple[Any, Any]:
    """(dgamma, dbeta) of `normalise`; dx and dskip hold the gradients of y's two parts and become those of x and skip.

    dy: y's gradient instead, which is left as it is; more: is added to dx.
    """
    dgamma, dbeta = (np.empty((x.shape[0], gamma.size), np.float32) for _ in range(2))
    normalization.backward(
        whole(x), whole(skip), whole(dy), whole(gamma), whole(beta), mean, rstd, silu, dx, dskip, whole(more),
        dgamma, dbeta, Workspace(),
    )  # fmt: skip
    return dgamma.sum(axis=0), dbeta.sum(axis=0)


# Attention


def attend(q: Any, k: Any, v: Any, heads: int) -> tuple[Any, Any]:
    """softmax(q k^T / sqrt(d)) v and the log-sum-exp of each row, (N, heads, L)."""
    q, k, v = rows(q), rows(k), rows(v)
    y = POOL.empty(q.shape)
    lse = np.empty((q.shape[0], heads, q.shape[1]), np.float32)
    attention.forward(q, k, v, heads, y, lse)
    return y, lse


def attend_backward(dy: Any, q: Any, k: Any, v: Any, lse: Any) -> tuple[Any, Any, Any]:
    """(dq, dk, dv) of `attend`."""
    gradients = POOL.empty(q.shape), POOL.empty(k.shape), POOL.empty(v.shape)
    attention.backward(rows(q), rows(k), rows(v), rows(dy), lse, lse.shape[1], *gradients)
    return gradients


def attend_backward_joined(dy: Any, q: Any, k: Any, v: Any, lse: Any) -> Any:
    """`attend_backward` for q, k, v of one shape, the three side by side along channels."""
    joined = POOL.empty((*q.shape[:2], 3 * q.shape[2]))
    attention.backward(q, k, v, rows(dy), lse, lse.shape[1], *np.split(joined, 3, axis=-1))
    return joined


# Element by element


def add(a: Any, b: Any) -> Any:
    """a + b."""
    y = POOL.empty(a.shape)
    elementwise.add(whole(a), whole(b), y)
    return y


def silu(x: Any) -> Any:
    """x sigmoid(x)."""
    y = POOL.empty(x.shape)
    elementwise.silu(whole(x), y)
    return y


def silu_backward(dy: Any, x: Any) -> Any:
    """dx of `silu`."""
    dx = POOL.empty(dy.shape)
    elementwise.silu_backward(whole(x), whole(dy), dx)
    return dx


def sum_pixels(x: Any) -> Any:
    """(N, H, W, C) summed to (N, C)."""
    total = np.empty((x.shape[0], x.shape[-1]), np.float32)
    elementwise.sum_pixels(whole(x), total)
    return total


def draw(shape: tuple[int, ...], seed: int, stream: int, step: int, dtype: Any, normal: bool) -> Any:
    """Normal or uniform Philox numbers in float32 or float64."""
    x = POOL.empty(shape, dtype)
    noise.fill(flat(x), seed, stream, step, normal)
    return x
