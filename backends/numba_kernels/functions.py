"""The kernels as functions from NumPy arrays to new arrays: what `backends.numba_backend` is written in.

All arrays are float32; results and scratch are in pooled memory. A plan holds addresses, not references: every array
must stay in a variable until its kernel has run.
"""

from typing import Any

import numpy as np

from backends.array import Array, DType
from backends.numba_kernels import (
    attention,
    bound,
    copying,
    elementwise,
    embedding,
    losses,
    matmul,
    noise,
    normalization,
    optimizer,
    resampling,
)
from backends.numba_kernels.convolution import choice, kinds
from backends.numba_kernels.convolution.kinds import Kind
from backends.numba_kernels.normalization import Norm
from backends.numba_kernels.runtime.addresses import ACTIVE, address
from backends.numba_kernels.runtime.pool import POOL
from backends.numba_kernels.runtime.recording import ARENA, Recorder, not_recordable
from backends.ops.philox import row_size

PLAIN, UP = kinds.PLAIN, kinds.UP
# By stride and padding; halving is written for even sides
KINDS = {
    (1, (1, 1, 1, 1)): PLAIN,
    (2, (1, 1, 1, 1)): kinds.HALVE_PAD_AROUND,
    (2, (0, 1, 0, 1)): kinds.HALVE_PAD_AFTER,
}

adam, ema, squared_norm = optimizer.adam, optimizer.ema, optimizer.squared_norm
recorder = Recorder


def held() -> int:
    """Bytes held by both pools, in use or free."""
    return POOL.held + ARENA.held


def pixels(x: Array) -> Array:
    """(N, ..., C) as (N, P, C)."""
    return whole(x).reshape(x.shape[0], -1, x.shape[-1])


def whole(a: Array) -> Array:
    """The array itself if it is contiguous, else a copy; None for None."""
    if a is None or a.flags.c_contiguous:
        return a
    if a.ndim > copying.AXES:
        not_recordable()
        return np.ascontiguousarray(a)
    return copying.copied(a)


def rows(a: Array) -> Array:
    """The array itself if its last axis is contiguous, else a copy."""
    return a if a.strides[-1] == a.itemsize else whole(a)


def store(source: Array, target: Array) -> None:
    """target[...] = source."""
    if address(source) != address(target):
        copying.copy(source, target)
    elif source.strides != target.strides:  # or it is there already, see `gradient_of`
        copying.copy(copying.copied(source), target)


def gradient_of(parameter: Array) -> Array:
    """An array for a parameter's gradient: in a recording the place where it belongs, else a new one."""
    place = None if ACTIVE.recording is None else ACTIVE.recording.gradient_of(parameter)
    return POOL.empty(parameter.shape) if place is None else place


# Products over channels


def multiply(x: Array, weight: Array, bias: Array = None, add_to: Array = None) -> Array:
    """x W + b over the last axis in a new array, or added to the one given."""
    y = POOL.empty((*x.shape[:-1], weight.shape[1])) if add_to is None else add_to
    matmul.multiply(whole(x), weight, y, whole(bias), add_to)
    return y


def multiply_transposed(parts: list[Array], dy: Array, weight: Array) -> tuple[Array, Array]:
    """dweight = x^T dy, x being the parts joined along channels, and the sum of dy."""
    dy, dweight, dbias = whole(dy), gradient_of(weight), POOL.empty(weight.shape[1:])
    first = 0
    for x in parts:
        last = first + x.shape[-1]
        matmul.multiply_gradient(whole(x), dy, dweight[first:last], dbias)
        first = last
    return dweight, dbias


# 3x3 convolutions; kind is one of KINDS or UP


def convolve(
    kind: Kind, x: Array, weight: Array, shape: tuple[int, ...], shift: Array, residual: Array = None
) -> Array:
    """A new array of this shape: the convolution, plus shift (K,) or (N, K), plus residual."""
    y = POOL.empty(shape)
    choice.forward(kind, whole(x), whole(weight), y, whole(shift), whole(residual))
    return y


def input_gradient(kind: Kind, dy: Array, weight: Array, shape: tuple[int, ...]) -> Array:
    """dx, of the given shape, of `convolve`."""
    dx = POOL.empty(shape)
    choice.input_gradient(kind, whole(dy), whole(weight), dx)
    return dx


def joined_gradient(dy: Array, weight: Array, x: Array, skip: Array) -> tuple[Array, Array]:
    """(dx, dskip or None) of a PLAIN `convolve` of x and skip joined along channels."""
    if skip is None:
        return input_gradient(PLAIN, dy, weight, x.shape), None
    dx, dskip = POOL.empty(x.shape), POOL.empty(skip.shape)
    choice.joined_gradient(PLAIN, whole(dy), whole(weight), dx, dskip)
    return dx, dskip


def weight_gradient(kind: Kind, x: Array, dy: Array, weight: Array) -> tuple[Array, Array]:
    """dweight and dbias of `convolve`."""
    dweight, dbias = gradient_of(weight), POOL.empty(weight.shape[3:])
    choice.weight_gradient(kind, whole(x), whole(dy), dweight, dbias)
    return dweight, dbias


# Group normalisation of x, or of x and skip joined along channels


def norm_of(x: Array, skip: Array, gamma: Array, beta: Array, mean: Array, rstd: Array, silu: bool) -> Norm:
    """A normalisation whose statistics are known, as kernels take it; silu: whether SiLU follows."""
    return Norm(whole(x), whole(skip), whole(gamma), whole(beta), mean, rstd, silu)


def normalise(
    x: Array, skip: Array, gamma: Array, beta: Array, groups: int, eps: float, silu: bool
) -> tuple[Array, Norm]:
    """The normalisation, with SiLU if so asked, and what was computed on the way: means and reciprocal deviations."""
    mean, rstd = POOL.empty((x.shape[0], groups)), POOL.empty((x.shape[0], groups))
    norm, y = norm_of(x, skip, gamma, beta, mean, rstd, silu), POOL.empty((*x.shape[:-1], gamma.size))
    normalization.forward(norm, eps, y)
    return y, norm


def normalise_again(norm: Norm) -> Array:
    """The result of `normalise`, from its statistics."""
    y = POOL.empty((*norm.x.shape[:-1], norm.gamma.size))
    normalization.repeat(norm, y)
    return y


def normalise_backward(dy: Array, norm: Norm) -> tuple[Array, Array, Array]:
    """(dx, dgamma, dbeta) of `normalise` without a skip."""
    dx = POOL.empty(norm.x.shape)
    dgamma, dbeta = through_norm(norm, dx, None, dy=dy)
    return dx, dgamma, dbeta


def through_norm(norm: Norm, dx: Array, dskip: Array, dy: Array = None, more: Array = None) -> tuple[Array, Array]:
    """(dgamma, dbeta) of `normalise`; dx and dskip hold the gradients of y's two parts and become those of x and skip.

    dy: y's gradient instead, which is left as it is; more: is added to dx.
    """
    dgamma, dbeta = (POOL.empty((norm.x.shape[0], norm.gamma.size)) for _ in range(2))
    normalization.backward(norm, dx, dskip, dgamma, dbeta, whole(dy), whole(more))
    return sum_pixels(dgamma[None])[0], sum_pixels(dbeta[None])[0]


# Attention


def attend(q: Array, k: Array, v: Array, heads: int) -> tuple[Array, Array]:
    """softmax(q k^T / sqrt(d)) v and the log-sum-exp of each row, (N, heads, L)."""
    q, k, v = rows(q), rows(k), rows(v)
    y = POOL.empty(q.shape)
    lse = POOL.empty((q.shape[0], heads, q.shape[1]))
    attention.forward(q, k, v, heads, y, lse)
    return y, lse


def attend_backward(dy: Array, q: Array, k: Array, v: Array, lse: Array) -> tuple[Array, Array, Array]:
    """(dq, dk, dv) of `attend`."""
    gradients = POOL.empty(q.shape), POOL.empty(k.shape), POOL.empty(v.shape)
    attention.backward(rows(q), rows(k), rows(v), rows(dy), lse, lse.shape[1], *gradients)
    return gradients


def attend_backward_joined(dy: Array, q: Array, k: Array, v: Array, lse: Array) -> Array:
    """`attend_backward` for q, k, v of one shape, the three side by side along channels."""
    joined = POOL.empty((*q.shape[:2], 3 * q.shape[2]))
    attention.backward(q, k, v, rows(dy), lse, lse.shape[1], *np.split(joined, 3, axis=-1))
    return joined


# Resolution, and joining


def halve(x: Array, factor: float) -> Array:
    """A factor times the sums over squares of 2x2 pixels: (N, H / 2, W / 2, C)."""
    n, h, w, c = x.shape
    y = POOL.empty((n, h // 2, w // 2, c))
    resampling.halve(whole(x), y, factor)
    return y


def double(x: Array, factor: float) -> Array:
    """A factor times each pixel, four times: (N, 2H, 2W, C)."""
    n, h, w, c = x.shape
    y = POOL.empty((n, 2 * h, 2 * w, c))
    resampling.double(whole(x), y, factor)
    return y


def join(a: Array, b: Array) -> Array:
    """Joined along channels."""
    first = a.shape[-1]
    y = POOL.empty((*a.shape[:-1], first + b.shape[-1]))
    copying.copy(a, y[..., :first])
    copying.copy(b, y[..., first:])
    return y


# Element by element


def add(a: Array, b: Array) -> Array:
    """a + b."""
    y = POOL.empty(a.shape)
    elementwise.add(whole(a), whole(b), y)
    return y


def add_row(a: Array, row: Array) -> Array:
    """a + row, a being (N, C) and row (C,)."""
    y = POOL.empty(a.shape)
    copying.copy(a, y)
    copying.copy(row, y, add=True)
    return y


def add_shift(x: Array, shift: Array) -> Array:
    """x (N, ..., C) + shift (N, C) at every pixel."""
    y = POOL.empty(x.shape)
    elementwise.add_shift(whole(x), whole(shift), y)
    return y


def drop(x: Array, mask: Array) -> None:
    """x *= mask."""
    not_recordable()  # runs in NumPy, which a recording cannot replay
    np.multiply(x, mask, out=x)


def silu(x: Array) -> Array:
    """x sigmoid(x)."""
    y = POOL.empty(x.shape)
    elementwise.silu(whole(x), y)
    return y


def silu_backward(dy: Array, x: Array) -> Array:
    """dx of `silu`."""
    dx = POOL.empty(dy.shape)
    elementwise.silu_backward(whole(x), whole(dy), dx)
    return dx


def sum_pixels(x: Array) -> Array:
    """(N, ..., C) summed to (N, C)."""
    total = POOL.empty((x.shape[0], x.shape[-1]))
    elementwise.sum_pixels(whole(x), total)
    return total


def draw(shape: tuple[int, ...], seed: int, stream: int, step: int, dtype: DType, first: int, normal: bool) -> Array:
    """Normal or uniform Philox numbers in float32 or float64."""
    not_recordable()  # other numbers at every step
    x = POOL.empty(shape, dtype)
    noise.fill(x.reshape(-1), seed, stream, step, normal, first * row_size(shape))
    return x


# Embeddings


def take(table: Array, indices: Array) -> Array:
    """Rows of a table (V, C) by int64 indices (N,): (N, C)."""
    y = POOL.empty((indices.size, table.shape[1]))
    embedding.take(whole(table), indices, y)
    return y


def take_backward(dy: Array, indices: Array, count: int) -> Array:
    """dtable (count, C) of `take`."""
    dtable = POOL.empty((count, dy.shape[1]))
    embedding.take_backward(whole(dy), indices, dtable)
    return dtable


def sinusoids(t: Array, frequencies: tuple[float, ...], dim: int, cos_first: bool) -> Array:
    """Sines and cosines of the angles t_n f_i, (N, dim); t int64 or float64."""
    y = POOL.empty((t.size, dim))
    embedding.sinusoids(t, frequencies, cos_first, y)
    return y


# Losses


def loss(kind: str, prediction: Array, target: Array, weights: Array | None, delta: float = 1.0) -> tuple[Array, Array]:
    """The mean loss, of shape (), and an array proportional to its gradient. kind: "mse", "l1" or "huber"."""
    value, slope = POOL.empty(()), POOL.empty(prediction.shape)
    weights = None if weights is None else whole(weights)
    losses.forward(kind, whole(prediction), whole(target), weights, delta, value, slope)
    return value, slope


def vlb_loss(output: Array, target: Array, x0: Array, steps: Array, hybrid: bool) -> Array:
    """The mean loss and each image's, (1 + N,)."""
    found = POOL.empty((1 + target.shape[0],))
    bound.forward(found, whole(output), whole(target), whole(x0), whole(steps), hybrid)
    return found


def vlb_loss_backward(dy: Any, output: Array, target: Array, x0: Array, steps: Array, hybrid: bool) -> Array:
    """doutput; dy: (1 + N,), or a number."""
    doutput = POOL.empty(output.shape)
    dy = whole(dy) if isinstance(dy, np.ndarray) else dy
    bound.backward(dy, doutput, whole(output), whole(target), whole(x0), whole(steps), hybrid)
    return doutput


def times(a: Array, factor: float) -> Array:
    """a times a number."""
    y = POOL.empty(a.shape)
    elementwise.times(whole(a), factor, y)
    return y
