"""NumPy arrays with Numba kernels for the hot operations: float32 only, everything else runs the reference."""

import importlib
import importlib.util
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from backends import ops
from backends.backend import Backend, BackendUnavailable
from backends.numba_kernels.limits import (
    AXES,
    CHANNELS,
    attends,
    compares,
    convolves_normalised,
    draws,
    given,
    is_flat,
    is_float32,
    is_images,
    multiplies,
    normalises,
    scales,
    takes,
)
from backends.ops.attention import AttentionContext
from backends.ops.convolution import ConvContext, Padding, four_sides, output_size
from backends.ops.fused import NormAttentionContext, NormConvContext, PointwiseContext, UpsampleContext, thirds
from backends.ops.linear import LinearContext
from backends.ops.normalization import NormContext


class NumbaBackend(Backend):
    """NumPy arrays; what is defined below replaces the reference operation of the same name.

    Each override leaves to the reference what its kernel is not written for, bad arguments included, and keeps for
    backward what the reference keeps, so that either's backward takes it. Kernels are compiled at first use and
    cached on disk. Raises BackendUnavailable where Numba is missing.
    """

    name: ClassVar[str] = "numba"
    # Measured, of the peak of training steps: what lies between the pool's arrays
    unused_share: ClassVar[float] = 0.1

    def __init__(self) -> None:
        if importlib.util.find_spec("numba") is None:
            raise BackendUnavailable("numba is not installed; run: pip install numba")
        # OpenMP threads that spin after a kernel take the cores from BLAS, those that sleep at once need 50 us to wake:
        # a short spin does neither. Read when Numba loads OpenMP.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        super().__init__(np)

    @cached_property
    def kernels(self) -> Any:
        """The module of the kernels; it loads Numba, hence at first use only."""
        return importlib.import_module("backends.numba_kernels.functions")

    def memory(self) -> int:
        return self.kernels.held()

    def recorder(self, params: Any, grads: Any) -> Any:
        return self.kernels.recorder(params, grads) if is_flat(params, grads) else super().recorder(params, grads)

    def store(self, source: Any, target: Any) -> None:
        if is_float32(source, target) and source.shape == target.shape and source.ndim <= AXES:
            self.kernels.store(source, target)
        else:
            self.kernels.not_recordable()  # NumPy's
            super().store(source, target)

    @contextmanager
    def plain_arrays(self) -> Iterator[None]:
        pool = self.kernels.POOL
        smallest, pool.smallest = pool.smallest, sys.maxsize
        try:
            yield
        finally:
            pool.smallest = smallest

    # Products over channels

    def linear(self, x: Any, weight: Any, bias: Any = None) -> tuple[Any, Any]:
        if not multiplies(x, weight, bias):
            return ops.linear(np, x, weight, bias)
        return self.kernels.multiply(x, weight, bias), LinearContext(x, weight, bias is not None)

    def linear_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        x, weight, has_bias = ctx
        if not (multiplies(x, weight) and is_float32(dy)):
            return ops.linear_backward(np, dy, ctx)
        dweight, dbias = self.kernels.multiply_transposed([x], dy, weight)
        return self.kernels.multiply(dy, weight.T), dweight, dbias if has_bias else None

    def pointwise(self, x: Any, skip: Any, weight: Any, bias: Any) -> tuple[Any, Any]:
        parts = parts_of(x, skip, weight)
        if not all(multiplies(*part, bias) for part in parts):
            return ops.pointwise(np, x, skip, weight, bias)
        y = self.kernels.multiply(*parts[0], bias)
        for part in parts[1:]:
            y = self.kernels.multiply(*part, add_to=y)
        return y, PointwiseContext(x, skip, weight)

    def pointwise_backward(self, dy: Any, ctx: Any, dx: Any = None, dskip: Any = None) -> tuple[Any, Any, Any, Any]:
        x, skip, weight = ctx
        parts = parts_of(x, skip, weight)
        extras = [a for a in (dx, dskip) if a is not None]
        contiguous = all(a.flags.c_contiguous for a in extras)  # or adding to them would miss
        if not (all(multiplies(*part) for part in parts) and is_float32(dy, *extras) and contiguous):
            return ops.pointwise_backward(np, dy, ctx, dx, dskip)
        kernels = self.kernels
        dweight, dbias = kernels.multiply_transposed([part for part, _ in parts], dy, weight)
        dx = kernels.multiply(dy, parts[0][1].T, add_to=dx)
        if skip is not None:
            dskip = kernels.multiply(dy, parts[1][1].T, add_to=dskip)
        return dx, dskip, dweight, dbias

    # Convolution

    def conv2d(
        self, x: Any, weight: Any, bias: Any = None, stride: int = 1, padding: int | Padding = 0
    ) -> tuple[Any, Any]:
        sides = four_sides(padding)
        kind = self.kind_of(x, weight, stride, sides, bias)
        if kind is None:
            return ops.conv2d(np, x, weight, bias, stride, padding)
        n, h, w, _ = x.shape
        rows, columns = output_size(h, 3, stride, *sides[:2]), output_size(w, 3, stride, *sides[2:])
        y = self.kernels.convolve(kind, x, weight, (n, rows, columns, weight.shape[3]), bias)
        return y, ConvContext(x, weight, bias is not None, stride, sides)

    def conv2d_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        x, weight, has_bias, stride, sides = ctx
        kind = self.kind_of(x, weight, stride, sides)
        if kind is None or not is_float32(dy):
            return ops.conv2d_backward(np, dy, ctx)
        dweight, dbias = self.kernels.weight_gradient(kind, x, dy, weight)
        return self.kernels.input_gradient(kind, dy, weight, x.shape), dweight, dbias if has_bias else None

    def kind_of(self, x: Any, weight: Any, stride: int, sides: Padding, bias: Any = None) -> Any:
        """The fast convolution for these arguments, or None where only the reference serves."""
        fits = weight.shape[:2] == (3, 3) and x.shape[3] == weight.shape[2] and max(weight.shape) <= CHANNELS
        fits = fits and is_float32(x, weight, *given(bias))
        if not fits or min(x.shape) == 0 or (stride == 2 and (x.shape[1] % 2 or x.shape[2] % 2)):
            return None
        return self.kernels.KINDS.get((stride, sides))

    def upsample_conv2d(self, x: Any, weight: Any, bias: Any) -> tuple[Any, Any]:
        if self.kind_of(x, weight, 1, (1, 1, 1, 1), bias) is None:
            return ops.upsample_conv2d(np, x, weight, bias)
        n, h, w, _ = x.shape
        y = self.kernels.convolve(self.kernels.UP, x, weight, (n, 2 * h, 2 * w, weight.shape[3]), bias)
        return y, UpsampleContext(x, weight)

    def upsample_conv2d_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        x, weight = ctx
        if self.kind_of(x, weight, 1, (1, 1, 1, 1)) is None or not is_float32(dy):
            return ops.upsample_conv2d_backward(np, dy, ctx)
        dweight, dbias = self.kernels.weight_gradient(self.kernels.UP, x, dy, weight)
        return self.kernels.input_gradient(self.kernels.UP, dy, weight, x.shape), dweight, dbias

    # Normalisation

    def group_norm(self, x: Any, gamma: Any, beta: Any, groups: int, eps: float = 1e-5) -> tuple[Any, Any]:
        if not normalises(x, gamma, beta, groups):
            return ops.group_norm(np, x, gamma, beta, groups, eps)
        y, mean, rstd = self.kernels.normalise(x, None, gamma, beta, groups, eps, False)
        return y, NormContext(x, gamma, beta, mean, rstd)

    def group_norm_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        if not (normalises(ctx.x, ctx.gamma, ctx.beta, ctx.mean.shape[1]) and is_float32(dy)):
            return ops.group_norm_backward(np, dy, ctx)
        return self.kernels.normalise_backward(dy, *ctx, silu=False)

    def group_norm_silu(self, x: Any, gamma: Any, beta: Any, groups: int, eps: float = 1e-5) -> tuple[Any, Any]:
        if not normalises(x, gamma, beta, groups):
            return ops.group_norm_silu(np, x, gamma, beta, groups, eps)
        y, mean, rstd = self.kernels.normalise(x, None, gamma, beta, groups, eps, True)
        return y, NormContext(x, gamma, beta, mean, rstd)

    def group_norm_silu_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        if not (normalises(ctx.x, ctx.gamma, ctx.beta, ctx.mean.shape[1]) and is_float32(dy)):
            return ops.group_norm_silu_backward(np, dy, ctx)
        return self.kernels.normalise_backward(dy, *ctx, silu=True)

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
        if not convolves_normalised(x, gamma, beta, weight, groups, bias, skip, shift, residual, mask):
            return ops.norm_conv2d(np, x, skip, gamma, beta, weight, bias, groups, eps, shift, residual, mask)
        h, mean, rstd = self.kernels.normalise(x, skip, gamma, beta, groups, eps, True)
        if mask is not None:
            self.kernels.drop(h, mask)
        total = bias if shift is None else self.kernels.add_row(shift, bias)
        y = self.kernels.convolve(self.kernels.PLAIN, h, weight, (*x.shape[:3], weight.shape[3]), total, residual)
        kept = (x, skip, gamma, beta, weight, mean, rstd, mask)
        return y, NormConvContext(*kept, shift is not None, residual is not None)

    def norm_conv2d_backward(self, dy: Any, ctx: Any, dx: Any = None) -> tuple[Any, ...]:
        x, skip, gamma, beta, weight, mean, rstd, mask, has_shift, has_residual = ctx
        if not convolves_normalised(x, gamma, beta, weight, mean.shape[1], skip, mask, dy, dx):
            return ops.norm_conv2d_backward(np, dy, ctx, dx)
        kernels, more = self.kernels, dx
        h = kernels.normalise_again(x, skip, gamma, beta, mean, rstd, True)
        if mask is not None:
            kernels.drop(h, mask)
        dweight, dbias = kernels.weight_gradient(kernels.PLAIN, h, dy, weight)
        del h  # its memory serves for dx and dskip, which first hold the gradient of the activation
        dx, dskip = kernels.joined_gradient(dy, weight, x, skip)
        if mask is not None:
            kernels.drop(dx, mask[..., : x.shape[-1]])
            if skip is not None:
                kernels.drop(dskip, mask[..., x.shape[-1] :])
        dgamma, dbeta = kernels.through_norm(dx, dskip, x, skip, gamma, beta, mean, rstd, True, more=more)
        dshift = kernels.sum_pixels(dy) if has_shift else None
        return dx, dskip, dgamma, dbeta, dweight, dbias, dshift, dy if has_residual else None

    # Attention

    def attention(self, q: Any, k: Any, v: Any, num_heads: int = 1) -> tuple[Any, Any]:
        if not attends(q, k, v, num_heads):
            return ops.attention(np, q, k, v, num_heads)
        y, lse = self.kernels.attend(q, k, v, num_heads)
        return y, AttentionContext(q, k, v, lse)

    def attention_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        if not (attends(ctx.q, ctx.k, ctx.v, ctx.lse.shape[1]) and is_float32(dy)):
            return ops.attention_backward(np, dy, ctx)
        return self.kernels.attend_backward(dy, *ctx)

    def norm_attention(
        self,
        x: Any,
        gamma: Any,
        beta: Any,
        weight: Any,
        bias: Any,
        groups: int,
        eps: float = 1e-5,
        num_heads: int = 1,
    ) -> tuple[Any, Any]:
        fits = normalises(x, gamma, beta, groups) and multiplies(x, weight, bias)
        if not (fits and x.shape[-1] % max(1, num_heads) == 0):
            return ops.norm_attention(np, x, gamma, beta, weight, bias, groups, eps, num_heads)
        kernels = self.kernels
        h, mean, rstd = kernels.normalise(x, None, gamma, beta, groups, eps, False)
        qkv = kernels.multiply(kernels.pixels(h), weight, bias)
        y, lse = kernels.attend(*thirds(qkv), num_heads)
        return y, NormAttentionContext(x, gamma, beta, weight, bias, mean, rstd, lse)

    def norm_attention_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any, Any, Any]:
        x, gamma, beta, weight, bias, mean, rstd, lse = ctx
        if not (normalises(x, gamma, beta, mean.shape[1]) and multiplies(x, weight) and is_float32(dy)):
            return ops.norm_attention_backward(np, dy, ctx)
        kernels = self.kernels
        h = kernels.pixels(kernels.normalise_again(x, None, gamma, beta, mean, rstd, False))
        qkv = kernels.multiply(h, weight, bias)
        dqkv = kernels.attend_backward_joined(dy, *thirds(qkv), lse)
        del qkv
        dweight, dbias = kernels.multiply_transposed([h], dqkv, weight)
        del h
        dx = kernels.multiply(dqkv, weight.T).reshape(x.shape)
        dgamma, dbeta = kernels.through_norm(dx, None, x, None, gamma, beta, mean, rstd, False)
        return dx, dgamma, dbeta, dweight, dbias

    # Resolution, and joining

    def upsample_nearest(self, x: Any) -> tuple[Any, None]:
        return (self.kernels.double(x, 1.0), None) if is_images(x) else ops.upsample_nearest(np, x)

    def upsample_nearest_backward(self, dy: Any, ctx: None) -> tuple[Any]:
        return (self.kernels.halve(dy, 1.0),) if is_images(dy) else ops.upsample_nearest_backward(np, dy, ctx)

    def average_pool(self, x: Any) -> tuple[Any, None]:
        if not is_images(x) or x.shape[1] % 2 or x.shape[2] % 2:
            return ops.average_pool(np, x)
        return self.kernels.halve(x, 0.25), None

    def average_pool_backward(self, dy: Any, ctx: None) -> tuple[Any]:
        if not is_images(dy):
            return ops.average_pool_backward(np, dy, ctx)
        return (self.kernels.double(dy, 0.25),)

    def add_shift(self, x: Any, shift: Any) -> tuple[Any, None]:
        if not (is_images(x) and is_float32(shift) and shift.shape == (x.shape[0], x.shape[3])):
            return ops.add_shift(np, x, shift)
        return self.kernels.add_shift(x, shift), None

    def add_shift_backward(self, dy: Any, ctx: None) -> tuple[Any, Any]:
        return (dy, self.kernels.sum_pixels(dy)) if is_images(dy) else ops.add_shift_backward(np, dy, ctx)

    def concat_channels(self, a: Any, b: Any) -> tuple[Any, Any]:
        if not (is_images(a) and is_images(b) and a.shape[:-1] == b.shape[:-1]):
            return ops.concat_channels(np, a, b)
        return self.kernels.join(a, b), a.shape[-1]

    # Element by element

    def silu(self, x: Any) -> tuple[Any, Any]:
        return (self.kernels.silu(x), x) if is_float32(x) else ops.silu(np, x)

    def silu_backward(self, dy: Any, ctx: Any) -> tuple[Any]:
        return (self.kernels.silu_backward(dy, ctx),) if is_float32(dy, ctx) else ops.silu_backward(np, dy, ctx)

    def add(self, a: Any, b: Any) -> tuple[Any, None]:
        return (self.kernels.add(a, b), None) if is_float32(a, b) and a.shape == b.shape else ops.add(np, a, b)

    def dropout_mask(
        self, shape: tuple[int, ...], rate: float, seed: int, stream: int, step: int, dtype: Any = None
    ) -> tuple[Any, None]:
        if not (0 <= rate < 1 and draws(shape, seed, stream, step, dtype)):
            return ops.dropout_mask(np, shape, rate, seed, stream, step, dtype)
        u, _ = self.random_uniform(shape, seed, stream, step, dtype)
        return np.multiply(np.greater_equal(u, rate, out=u), 1.0 / (1.0 - rate), out=u), None

    def dropout(self, x: Any, rate: float, seed: int, stream: int, step: int) -> tuple[Any, Any]:
        if not (is_float32(x) and draws(x.shape, seed, stream, step, x.dtype)):
            return ops.dropout(np, x, rate, seed, stream, step)
        drawn = (rate, seed, stream, step, x.dtype)
        y, _ = self.dropout_mask(x.shape, *drawn)
        return np.multiply(x, y, out=y), drawn

    def dropout_backward(self, dy: Any, ctx: Any) -> tuple[Any]:
        if not (is_float32(dy) and draws(dy.shape, *ctx[1:])):
            return ops.dropout_backward(np, dy, ctx)
        dx, _ = self.dropout_mask(dy.shape, *ctx)
        return (np.multiply(dy, dx, out=dx),)

    def random_normal(
        self, shape: tuple[int, ...], seed: int, stream: int, step: int, dtype: Any = None
    ) -> tuple[Any, None]:
        if not draws(shape, seed, stream, step, dtype):
            return ops.random_normal(np, shape, seed, stream, step, dtype)
        return self.kernels.draw(shape, seed, stream, step, dtype or np.float32, True), None

    def random_uniform(
        self, shape: tuple[int, ...], seed: int, stream: int, step: int, dtype: Any = None
    ) -> tuple[Any, None]:
        if not draws(shape, seed, stream, step, dtype):
            return ops.random_uniform(np, shape, seed, stream, step, dtype)
        return self.kernels.draw(shape, seed, stream, step, dtype or np.float32, False), None

    # Embeddings

    def embedding(self, table: Any, indices: Any) -> tuple[Any, Any]:
        if not takes(table, indices):
            return ops.embedding(np, table, indices)
        return self.kernels.take(table, indices), (table, indices)

    def embedding_backward(self, dy: Any, ctx: Any) -> tuple[Any]:
        table, indices = ctx
        if not (takes(table, indices) and is_float32(dy)):
            return ops.embedding_backward(np, dy, ctx)
        return (self.kernels.take_backward(dy, indices, table.shape[0]),)

    def sinusoidal_embedding(
        self,
        t: Any,
        dim: int,
        max_period: float = 10000.0,
        frequency_shift: float = 0.0,
        cos_first: bool = True,
        dtype: Any = None,
    ) -> tuple[Any, None]:
        fits = t.dtype in (np.int64, np.float64) and t.ndim == 1 and t.size > 0 and t.flags.c_contiguous
        if not (fits and np.dtype(dtype or np.float32) == np.float32 and dim // 2 > frequency_shift):
            return ops.sinusoidal_embedding(np, t, dim, max_period, frequency_shift, cos_first, dtype)
        frequencies = geometric(dim // 2, max_period, frequency_shift)
        return self.kernels.sinusoids(t, frequencies, dim, cos_first), None

    # Losses

    def mse_loss(self, prediction: Any, target: Any) -> tuple[Any, Any]:
        if not compares(prediction, target):
            return ops.mse_loss(np, prediction, target)
        return self.kernels.loss("mse", prediction, target)

    def mse_loss_backward(self, dy: Any, ctx: Any) -> tuple[Any]:
        if not scales(dy, ctx):
            return ops.mse_loss_backward(np, dy, ctx)
        return (self.kernels.times(ctx, dy * (2.0 / ctx.size)),)

    def l1_loss(self, prediction: Any, target: Any) -> tuple[Any, Any]:
        if not compares(prediction, target):
            return ops.l1_loss(np, prediction, target)
        return self.kernels.loss("l1", prediction, target)

    def l1_loss_backward(self, dy: Any, ctx: Any) -> tuple[Any]:
        return (self.kernels.times(ctx, dy / ctx.size),) if scales(dy, ctx) else ops.l1_loss_backward(np, dy, ctx)

    def huber_loss(self, prediction: Any, target: Any, delta: float = 1.0) -> tuple[Any, Any]:
        if not (compares(prediction, target) and delta > 0):
            return ops.huber_loss(np, prediction, target, delta)
        return self.kernels.loss("huber", prediction, target, delta)

    def huber_loss_backward(self, dy: Any, ctx: Any) -> tuple[Any]:
        return (self.kernels.times(ctx, dy / ctx.size),) if scales(dy, ctx) else ops.huber_loss_backward(np, dy, ctx)

    # One pass over flat arrays, in place

    def adam(self, params: Any, grads: Any, m: Any, v: Any, step: int, lr: float, *rest: Any, **more: Any) -> Any:
        if not is_flat(params, grads, m, v):
            return ops.adam(np, params, grads, m, v, step, lr, *rest, **more)
        defaults = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
        options = defaults | dict(zip(defaults, rest, strict=False)) | more
        self.kernels.adam(params, grads, m, v, step, lr, *options.values())
        return params, m, v

    def ema(self, average: Any, params: Any, decay: float) -> Any:
        if not is_flat(average, params):
            return ops.ema(np, average, params, decay)
        self.kernels.ema(average, params, decay)
        return average

    def adam_ema(
        self,
        params: Any,
        grads: Any,
        m: Any,
        v: Any,
        average: Any,
        step: int,
        lr: float,
        decay: float,
        scale: float = 1.0,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> Any:
        rest = (beta1, beta2, eps, weight_decay)
        if not is_flat(params, grads, m, v, average):
            return ops.adam_ema(np, params, grads, m, v, average, step, lr, decay, scale, *rest)
        self.kernels.adam(params, grads, m, v, step, lr, *rest, average, decay, scale)
        return params, m, v, average

    def global_norm(self, grads: Any) -> Any:
        return np.float32(math.sqrt(self.kernels.squared_norm(grads))) if is_flat(grads) else ops.global_norm(np, grads)

    def clip_by_global_norm(self, grads: Any, max_norm: float) -> tuple[Any, Any]:
        if not is_flat(grads):
            return ops.clip_by_global_norm(np, grads, max_norm)
        norm = self.global_norm(grads)
        if not norm <= max_norm:  # not `norm > max_norm`: NaN must spread
            np.multiply(grads, np.float32(max_norm / norm), out=grads)
        return grads, norm


def parts_of(x: Any, skip: Any, weight: Any) -> list[tuple[Any, Any]]:
    """x and, where there is one, skip, each with its rows of the weight."""
    first = x.shape[-1]
    return [(x, weight)] if skip is None else [(x, weight[:first]), (skip, weight[first:])]


def geometric(half: int, max_period: float, shift: float) -> tuple[float, ...]:
    """The frequencies of `sinusoidal_embedding`."""
    return tuple(np.exp(np.arange(half, dtype=np.float64) * (-math.log(max_period) / (half - shift))).tolist())
