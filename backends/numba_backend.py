"""NumPy arrays with Numba kernels for the hot operations: float32 only, everything else runs the reference."""

import importlib.util
import math
import os
from typing import Any, ClassVar, NamedTuple

import numpy as np

from backends import ops
from backends.backend import Backend, BackendUnavailable
from backends.ops.convolution import Padding, four_sides, output_size

# Fewer numbers than these are drawn faster by NumPy than a kernel's threads wake up
FEW = 4096


class NormConvContext(NamedTuple):
    """What `NumbaBackend.norm_conv2d` keeps: its arguments and the statistics; the activation is made again."""

    x: Any
    skip: Any
    gamma: Any
    beta: Any
    weight: Any
    mean: Any
    rstd: Any
    mask: Any
    has_shift: bool
    has_residual: bool


class NormContext(NamedTuple):
    """What `NumbaBackend.group_norm` and `group_norm_silu` keep."""

    x: Any
    gamma: Any
    beta: Any
    mean: Any
    rstd: Any


class AttentionContext(NamedTuple):
    """What `NumbaBackend.attention` keeps: the weights are made again from each row's log-sum-exp."""

    q: Any
    k: Any
    v: Any
    lse: Any


class PointwiseContext(NamedTuple):
    """What `NumbaBackend.pointwise` keeps."""

    x: Any
    skip: Any
    weight: Any


class NumbaBackend(Backend):
    """NumPy arrays; what is defined below replaces the reference operation of the same name.

    Kernels are compiled at first use and cached on disk. Raises BackendUnavailable where Numba is missing.
    """

    name: ClassVar[str] = "numba"

    def __init__(self) -> None:
        if importlib.util.find_spec("numba") is None:
            raise BackendUnavailable("numba is not installed; run: pip install numba")
        # OpenMP threads that spin after a kernel take the cores from BLAS, those that sleep at once need 50 us to wake:
        # a short spin does neither. Read when Numba loads OpenMP.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        super().__init__(np)

    # Products over channels

    def linear(self, x: Any, weight: Any, bias: Any = None) -> tuple[Any, Any]:
        if not multiplies(x, weight):
            return ops.linear(np, x, weight, bias)
        return self.multiply(x, weight, bias), (x, weight, bias is not None)

    def linear_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        x, weight, has_bias = ctx
        if not multiplies(x, weight):
            return ops.linear_backward(np, dy, ctx)
        dweight, dbias = self.multiply_transposed(x, dy, weight.shape)
        return self.multiply(dy, weight.T), dweight, dbias if has_bias else None

    def pointwise(self, x: Any, skip: Any, weight: Any, bias: Any) -> tuple[Any, Any]:
        if not splits(x, skip, weight):
            return ops.pointwise(np, x, skip, weight, bias)
        first = x.shape[-1]
        y = self.multiply(x, weight[:first], bias)
        if skip is not None:
            y = self.multiply(skip, weight[first:], None, y)
        return y, PointwiseContext(x, skip, weight)

    def pointwise_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any, Any]:
        if not isinstance(ctx, PointwiseContext):
            return ops.pointwise_backward(np, dy, ctx)
        x, skip, weight = ctx
        first = x.shape[-1]
        dweight, dbias = self.multiply_transposed(x, dy, (first, weight.shape[1]))
        dx, dskip = self.multiply(dy, weight[:first].T), None
        if skip is not None:
            lower, _ = self.multiply_transposed(skip, dy, (skip.shape[-1], weight.shape[1]))
            dweight, dskip = np.concatenate([dweight, lower]), self.multiply(dy, weight[first:].T)
        return dx, dskip, dweight, dbias

    def multiply(self, x: Any, weight: Any, bias: Any = None, add_to: Any = None) -> Any:
        """x W + b in a new array, or added to the one given."""
        from backends.numba_kernels import memory, pointwise

        y = memory.POOL.empty((*x.shape[:-1], weight.shape[1])) if add_to is None else add_to
        pointwise.forward(np.ascontiguousarray(x), weight, y, memory.WORKSPACE, bias, add_to)
        return y

    def multiply_transposed(self, x: Any, dy: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
        """x^T dy and the sum of dy."""
        from backends.numba_kernels import memory, pointwise

        dweight, dbias = memory.POOL.empty(shape), np.empty(shape[1], np.float32)
        pointwise.weight_gradient(np.ascontiguousarray(x), np.ascontiguousarray(dy), dweight, dbias, memory.WORKSPACE)
        return dweight, dbias

    # Convolution

    def conv2d(
        self, x: Any, weight: Any, bias: Any = None, stride: int = 1, padding: int | Padding = 0
    ) -> tuple[Any, Any]:
        sides = four_sides(padding)
        kind = self.kind_of(x, weight, stride, sides)
        if kind is None:
            return ops.conv2d(np, x, weight, bias, stride, padding)
        n, h, w, _ = x.shape
        shape = (
            n,
            output_size(h, 3, stride, sides[0], sides[1]),
            output_size(w, 3, stride, sides[2], sides[3]),
            weight.shape[3],
        )
        y = self.convolve(kind, np.ascontiguousarray(x), weight, shape, bias)
        return y, (x, weight, bias is not None, stride, sides)

    def conv2d_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        x, weight, has_bias, stride, sides = ctx
        kind = self.kind_of(x, weight, stride, sides)
        if kind is None:
            return ops.conv2d_backward(np, dy, ctx)
        dy, x = np.ascontiguousarray(dy), np.ascontiguousarray(x)
        dweight, dbias = self.weight_gradient(kind, x, dy, weight)
        dx = self.input_gradient(kind, dy, weight, x.shape)
        return dx, dweight, dbias if has_bias else None

    def kind_of(self, x: Any, weight: Any, stride: int, sides: Padding) -> Any:
        """The fast convolution for these arguments, or None where only the reference serves."""
        if not (is_float32(x, weight) and weight.shape[:2] == (3, 3) and x.shape[3] == weight.shape[2]):
            return None
        if min(x.shape) == 0:
            return None
        from backends.numba_kernels import convolution

        even = x.shape[1] % 2 == 0 and x.shape[2] % 2 == 0
        return {
            (1, (1, 1, 1, 1)): convolution.PLAIN,
            (2, (1, 1, 1, 1)): convolution.DOWN1 if even else None,
            (2, (0, 1, 0, 1)): convolution.DOWN0 if even else None,
        }.get((stride, sides))

    def convolve(self, kind: Any, x: Any, weight: Any, shape: tuple[int, ...], shift: Any, residual: Any = None) -> Any:
        """A new array of this shape: the convolution, plus shift and residual."""
        from backends.numba_kernels import any_channels, memory

        y = memory.POOL.empty(shape)
        any_channels.forward(kind, x, np.ascontiguousarray(weight), y, memory.WORKSPACE, shift, residual)
        return y

    def input_gradient(self, kind: Any, dy: Any, weight: Any, shape: tuple[int, ...]) -> Any:
        """dx of `convolve`."""
        from backends.numba_kernels import any_channels, memory

        dx = memory.POOL.empty(shape)
        any_channels.input_gradient(kind, dy, np.ascontiguousarray(weight), dx, memory.WORKSPACE)
        return dx

    def weight_gradient(self, kind: Any, x: Any, dy: Any, weight: Any) -> tuple[Any, Any]:
        """dweight and dbias of `convolve`."""
        from backends.numba_kernels import any_channels, memory

        dweight, dbias = memory.POOL.empty(weight.shape), np.empty(weight.shape[3], np.float32)
        any_channels.weight_gradient(kind, x, dy, dweight, dbias, memory.WORKSPACE)
        return dweight, dbias

    def upsample_conv2d(self, x: Any, weight: Any, bias: Any) -> tuple[Any, Any]:
        if self.kind_of(x, weight, 1, (1, 1, 1, 1)) is None:
            return ops.upsample_conv2d(np, x, weight, bias)
        from backends.numba_kernels import convolution

        n, h, w, _ = x.shape
        x = np.ascontiguousarray(x)
        y = self.convolve(convolution.UP, x, weight, (n, 2 * h, 2 * w, weight.shape[3]), bias)
        return y, ("up", x, weight)

    def upsample_conv2d_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        if ctx[0] != "up":
            return ops.upsample_conv2d_backward(np, dy, ctx)
        from backends.numba_kernels import convolution

        _, x, weight = ctx
        dy = np.ascontiguousarray(dy)
        dweight, dbias = self.weight_gradient(convolution.UP, x, dy, weight)
        return self.input_gradient(convolution.UP, dy, weight, x.shape), dweight, dbias

    # Normalisation

    def group_norm(self, x: Any, gamma: Any, beta: Any, groups: int, eps: float = 1e-5) -> tuple[Any, Any]:
        if not self.normalises(x, gamma, beta, groups):
            return ops.group_norm(np, x, gamma, beta, groups, eps)
        y, mean, rstd = self.normalise(x, None, gamma, beta, groups, eps, False)
        return y, NormContext(x, gamma, beta, mean, rstd)

    def group_norm_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        if not isinstance(ctx, NormContext):
            return ops.group_norm_backward(np, dy, ctx)
        dx, _, dgamma, dbeta = self.normalise_backward(dy, None, *ctx, False)
        return dx, dgamma, dbeta

    def group_norm_silu(self, x: Any, gamma: Any, beta: Any, groups: int, eps: float = 1e-5) -> tuple[Any, Any]:
        if not self.normalises(x, gamma, beta, groups):
            return ops.group_norm_silu(np, x, gamma, beta, groups, eps)
        y, mean, rstd = self.normalise(x, None, gamma, beta, groups, eps, True)
        return y, NormContext(x, gamma, beta, mean, rstd)

    def group_norm_silu_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        if not isinstance(ctx, NormContext):
            return ops.group_norm_silu_backward(np, dy, ctx)
        dx, _, dgamma, dbeta = self.normalise_backward(dy, None, *ctx, True)
        return dx, dgamma, dbeta

    def normalises(self, x: Any, gamma: Any, beta: Any, groups: int) -> bool:
        """Whether the fast kernel takes these; it leaves bad arguments to the reference to refuse."""
        channels = gamma.size
        fits = x.ndim >= 2 and min(x.shape) > 0 and gamma.shape == beta.shape == (channels,)
        return fits and is_float32(x, gamma, beta) and groups >= 1 and channels % groups == 0

    def normalise(
        self, x: Any, skip: Any, gamma: Any, beta: Any, groups: int, eps: float, silu: bool
    ) -> tuple[Any, Any, Any]:
        """The (activated) normalisation of [x, skip], and its means and reciprocal deviations (N, G)."""
        from backends.numba_kernels import memory, normalization

        y = memory.POOL.empty((*x.shape[:-1], gamma.size))
        mean, rstd = np.empty((x.shape[0], groups), np.float32), np.empty((x.shape[0], groups), np.float32)
        normalization.forward(
            pixels(x), skip_pixels(skip, x), gamma, beta, np.float32(eps), silu, pixels(y), mean, rstd
        )
        return y, mean, rstd

    def normalise_backward(
        self,
        dy: Any,
        skip: Any,
        x: Any,
        gamma: Any,
        beta: Any,
        mean: Any,
        rstd: Any,
        silu: bool,
        dx_more: Any = None,
        dskip_more: Any = None,
    ) -> tuple[Any, Any, Any, Any]:
        """(dx, dskip, dgamma, dbeta) of `normalise`, dx_more and dskip_more added to the first two."""
        from backends.numba_kernels import memory, normalization

        dx = memory.POOL.empty(x.shape)
        dskip = None if skip is None else memory.POOL.empty(skip.shape)
        dgamma, dbeta = (np.empty((x.shape[0], gamma.size), np.float32) for _ in range(2))
        more = dx if dx_more is None else np.ascontiguousarray(dx_more)
        more_skip = dskip if dskip_more is None else np.ascontiguousarray(dskip_more)
        normalization.backward(
            pixels(x), skip_pixels(skip, x), pixels(np.ascontiguousarray(dy)), gamma, beta, mean, rstd, silu,
            pixels(dx), skip_pixels(dskip, x), dx_more is not None, pixels(more), skip_pixels(more_skip, x),
            dgamma, dbeta,
        )  # fmt: skip
        return dx, dskip, dgamma.sum(axis=0), dbeta.sum(axis=0)

    def sum_pixels(self, x: Any) -> Any:
        """(N, H, W, C) summed to (N, C)."""
        from backends.numba_kernels import elementwise

        total = np.empty((x.shape[0], x.shape[-1]), np.float32)
        elementwise.sum_pixels(pixels(x), total)
        return total

    # Attention

    def attention(self, q: Any, k: Any, v: Any, num_heads: int = 1) -> tuple[Any, Any]:
        if not attends(q, k, v, num_heads):
            return ops.attention(np, q, k, v, num_heads)
        from backends.numba_kernels import attention, memory

        q, k, v = (rows(a) for a in (q, k, v))
        y = memory.POOL.empty(q.shape)
        lse = np.empty((q.shape[0], num_heads, q.shape[1]), np.float32)
        attention.forward(q, k, v, num_heads, y, lse)
        return y, AttentionContext(q, k, v, lse)

    def attention_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        if not isinstance(ctx, AttentionContext):
            return ops.attention_backward(np, dy, ctx)
        from backends.numba_kernels import attention, memory

        q, k, v, lse = ctx
        dq, dk, dv = (memory.POOL.empty(a.shape) for a in (q, k, v))
        attention.backward(q, k, v, rows(dy), lse, lse.shape[1], dq, dk, dv)
        return dq, dk, dv

    # Elementwise

    def silu(self, x: Any) -> tuple[Any, Any]:
        if not is_float32(x):
            return ops.silu(np, x)
        from backends.numba_kernels import elementwise, memory

        y = memory.POOL.empty(x.shape)
        elementwise.silu(flat(x), flat(y))
        return y, x

    def silu_backward(self, dy: Any, ctx: Any) -> tuple[Any]:
        if not is_float32(dy, ctx):
            return ops.silu_backward(np, dy, ctx)
        from backends.numba_kernels import elementwise, memory

        dx = memory.POOL.empty(dy.shape)
        elementwise.silu_backward(flat(ctx), flat(dy), flat(dx))
        return (dx,)

    def add(self, a: Any, b: Any) -> tuple[Any, None]:
        if not (is_float32(a, b) and a.shape == b.shape):
            return ops.add(np, a, b)
        from backends.numba_kernels import elementwise, memory

        y = memory.POOL.empty(a.shape)
        elementwise.add(flat(a), flat(b), flat(y))
        return y, None

    # Noise

    def random_normal(
        self, shape: tuple[int, ...], seed: int, stream: int, step: int, dtype: Any = None
    ) -> tuple[Any, None]:
        return self.draw(ops.random_normal, shape, seed, stream, step, dtype)

    def random_uniform(
        self, shape: tuple[int, ...], seed: int, stream: int, step: int, dtype: Any = None
    ) -> tuple[Any, None]:
        return self.draw(ops.random_uniform, shape, seed, stream, step, dtype)

    def draw(self, op: Any, shape: tuple[int, ...], seed: int, stream: int, step: int, dtype: Any) -> tuple[Any, None]:
        """What the reference operation `op` draws; few numbers are drawn by that itself."""
        kind = np.dtype(dtype or np.float32)
        count = math.prod(shape)
        in_range = 0 <= seed < 1 << 64 and 0 <= stream < 1 << 32 and 0 <= step < 1 << 32
        if count < FEW or kind not in (np.float32, np.float64) or not in_range:
            return op(np, shape, seed, stream, step, dtype)
        from backends.numba_kernels import memory, noise

        x = memory.POOL.empty(shape, kind)
        noise.fill(flat(x), np.uint64(seed), np.uint64(stream), np.uint64(step), op is ops.random_normal)
        return x, None

    # One pass over flat arrays, in place

    def adam(
        self,
        params: Any,
        grads: Any,
        m: Any,
        v: Any,
        step: int,
        lr: float,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> tuple[Any, Any, Any]:
        if not is_float32(params, grads, m, v):
            return ops.adam(np, params, grads, m, v, step, lr, beta1, beta2, eps, weight_decay)
        from backends.numba_kernels import optimizer

        optimizer.adam(params, grads, m, v, step, lr, beta1, beta2, eps, weight_decay)
        return params, m, v

    def ema(self, average: Any, params: Any, decay: float) -> Any:
        if not is_float32(average, params):
            return ops.ema(np, average, params, decay)
        from backends.numba_kernels import optimizer

        optimizer.ema(average, params, decay)
        return average

    def clip_by_global_norm(self, grads: Any, max_norm: float) -> tuple[Any, Any]:
        if not is_float32(grads):
            return ops.clip_by_global_norm(np, grads, max_norm)
        from backends.numba_kernels import optimizer

        norm = np.float32(math.sqrt(optimizer.squared_norm(grads)))
        # Not `norm > max_norm`: NaN must spread
        return (grads if norm <= max_norm else grads * np.float32(max_norm / norm)), norm

    # Residual blocks

    def norm_conv2d(
        self,
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
        extras = [a for a in (skip, shift, residual, mask) if a is not None]
        if not (self.normalises(x, gamma, beta, groups) and is_float32(weight, *extras) and weight.shape[:2] == (3, 3)):
            return ops.norm_conv2d(np, x, skip, gamma, beta, weight, bias, groups, eps, shift, residual, mask)
        from backends.numba_kernels import convolution

        h, mean, rstd = self.normalise(x, skip, gamma, beta, groups, eps, True)
        if mask is not None:
            np.multiply(h, mask, out=h)
        total = bias if shift is None else shift + bias
        if residual is not None:
            residual = np.ascontiguousarray(residual)
        y = self.convolve(convolution.PLAIN, h, weight, (*x.shape[:3], weight.shape[3]), total, residual)
        return y, NormConvContext(
            x, skip, gamma, beta, weight, mean, rstd, mask, shift is not None, residual is not None
        )

    def norm_conv2d_backward(self, dy: Any, ctx: Any, dx: Any = None, dskip: Any = None) -> tuple[Any, ...]:
        if not isinstance(ctx, NormConvContext):
            return ops.norm_conv2d_backward(np, dy, ctx, dx, dskip)
        from backends.numba_kernels import convolution, memory, normalization

        x, skip, gamma, beta, weight, mean, rstd, mask, has_shift, has_residual = ctx
        dy = np.ascontiguousarray(dy)
        h = memory.POOL.empty((*x.shape[:3], gamma.size))
        normalization.repeat(pixels(x), skip_pixels(skip, x), gamma, beta, mean, rstd, True, pixels(h))
        if mask is not None:
            np.multiply(h, mask, out=h)
        dweight, dbias = self.weight_gradient(convolution.PLAIN, h, dy, weight)
        shape = h.shape
        del h  # its memory serves for dh
        dh = self.input_gradient(convolution.PLAIN, dy, weight, shape)
        if mask is not None:
            np.multiply(dh, mask, out=dh)
        dx, dskip, dgamma, dbeta = self.normalise_backward(dh, skip, x, gamma, beta, mean, rstd, True, dx, dskip)
        dshift = self.sum_pixels(dy) if has_shift else None
        return dx, dskip, dgamma, dbeta, dweight, dbias, dshift, dy if has_residual else None


def is_float32(*arrays: Any) -> bool:
    """Whether all arrays are float32, which is what the kernels are written for."""
    return all(a.dtype == np.float32 for a in arrays)


def attends(q: Any, k: Any, v: Any, num_heads: int) -> bool:
    """Whether the fast attention takes these; it leaves bad arguments to the reference to refuse."""
    fits = q.ndim == k.ndim == 3 and k.shape == v.shape and (q.shape[0], q.shape[2]) == (k.shape[0], k.shape[2])
    return (
        fits and is_float32(q, k, v) and min(*q.shape, *k.shape) > 0 and num_heads >= 1 and q.shape[2] % num_heads == 0
    )


def rows(a: Any) -> Any:
    """The array itself if its last axis is contiguous, else a copy."""
    return a if a.strides[-1] == a.itemsize else np.ascontiguousarray(a)


def flat(a: Any) -> Any:
    """The array as one axis."""
    return np.ascontiguousarray(a).reshape(-1)


def multiplies(x: Any, weight: Any) -> bool:
    """Whether the fast product takes these: channels in multiples of 16 on both sides."""
    fits = x.ndim >= 2 and min(x.shape) > 0 and x.shape[-1] == weight.shape[0]
    return fits and is_float32(x, weight) and weight.shape[0] % 16 == weight.shape[1] % 16 == 0


def splits(x: Any, skip: Any, weight: Any) -> bool:
    """Whether the fast product takes x and skip one after the other."""
    first = x.shape[-1]
    if skip is None:
        return multiplies(x, weight)
    return (
        first + skip.shape[-1] == weight.shape[0] and multiplies(x, weight[:first]) and multiplies(skip, weight[first:])
    )


def pixels(x: Any) -> Any:
    """(N, ..., C) as (N, P, C)."""
    return np.ascontiguousarray(x).reshape(x.shape[0], -1, x.shape[-1])


def skip_pixels(skip: Any, x: Any) -> Any:
    """`pixels` of a skip connection; without one, of an empty array beside x."""
    return np.empty((x.shape[0], 0, 0), np.float32) if skip is None else pixels(skip)
