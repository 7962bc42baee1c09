"""NumPy arrays with Numba kernels for the hot operations: float32 only, everything else runs the reference."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from backends.array import Array, DType
from backends.backend import Backend, Recorder
from backends.fallback import unless_reference
from backends.numba_kernels import limits
from backends.numba_kernels.limits import AXES, is_flat, is_float32, parts_of
from backends.numba_kernels.loading import load
from backends.ops.attention import AttentionContext
from backends.ops.convolution import ConvContext, Padding, four_sides, output_size
from backends.ops.dropout import DropoutContext
from backends.ops.fused import NormAttentionContext, NormConvContext, PointwiseContext, UpsampleContext, thirds
from backends.ops.linear import LinearContext
from backends.ops.normalization import NormContext


class NumbaBackend(Backend):
    """NumPy arrays; what is defined below replaces the reference operation of the same name.

    Each override leaves to the reference what its kernel is not written for, bad arguments included (`limits`), and
    keeps for backward what the reference keeps, so that either's backward takes it. Kernels are compiled at first use
    and cached on disk. Raises BackendUnavailable where Numba is missing, does not load, or is told not to compile.
    """

    name: ClassVar[str] = "numba"
    # Measured, of the peak of training steps: gaps between arrays in the pool
    unused_share: ClassVar[float] = 0.1

    def __init__(self) -> None:
        super().__init__(np)
        _ = self.kernels

    if TYPE_CHECKING:
        from backends.numba_kernels import functions as kernels
    else:

        @cached_property
        def kernels(self) -> Any:
            """The module of the kernels; it loads Numba, hence not when this module does."""
            return load()

    def memory(self) -> int:
        return self.kernels.held()

    def recorder(self, params: Array, grads: Array, *state: Array | None) -> Recorder:
        flat = is_flat(params, grads)
        return self.kernels.recorder(self, params, grads) if flat else super().recorder(params, grads)

    def not_recordable(self) -> None:
        self.kernels.not_recordable()

    def store(self, source: Array, target: Array) -> None:
        if is_float32(source, target) and source.shape == target.shape and source.ndim <= AXES:
            self.kernels.store(source, target)
        else:
            self.not_recordable()  # runs in NumPy, which a recording cannot replay
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

    @unless_reference(limits.fits_linear)
    def linear(self, x: Array, weight: Array, bias: Array | None = None) -> tuple[Array, LinearContext]:
        return self.kernels.multiply(x, weight, bias), LinearContext(x, weight, bias is not None)

    @unless_reference(limits.fits_linear_backward)
    def linear_backward(self, dy: Array, ctx: LinearContext) -> tuple[Array, Array, Array]:
        x, weight, has_bias = ctx
        dweight, dbias = self.kernels.multiply_transposed([x], dy, weight)
        return self.kernels.multiply(dy, weight.T), dweight, dbias if has_bias else None

    @unless_reference(limits.fits_pointwise)
    def pointwise(self, x: Array, skip: Array | None, weight: Array, bias: Array) -> tuple[Array, PointwiseContext]:
        parts = parts_of(x, skip, weight)
        y = self.kernels.multiply(*parts[0], bias)
        for part in parts[1:]:
            y = self.kernels.multiply(*part, add_to=y)
        return y, PointwiseContext(x, skip, weight)

    @unless_reference(limits.fits_pointwise_backward)
    def pointwise_backward(
        self, dy: Array, ctx: PointwiseContext, dx: Array | None = None, dskip: Array | None = None
    ) -> tuple[Array, Array, Array, Array]:
        x, skip, weight = ctx
        parts = parts_of(x, skip, weight)
        kernels = self.kernels
        dweight, dbias = kernels.multiply_transposed([part for part, _ in parts], dy, weight)
        dx = kernels.multiply(dy, parts[0][1].T, add_to=dx)
        if skip is not None:
            dskip = kernels.multiply(dy, parts[1][1].T, add_to=dskip)
        return dx, dskip, dweight, dbias

    # Convolution

    @unless_reference(limits.fits_conv2d)
    def conv2d(
        self, x: Array, weight: Array, bias: Array | None = None, stride: int = 1, padding: int | Padding = 0
    ) -> tuple[Array, ConvContext]:
        sides = four_sides(padding)
        kind = self.kernels.KINDS[stride, sides]
        n, h, w, _ = x.shape
        rows, columns = output_size(h, 3, stride, *sides[:2]), output_size(w, 3, stride, *sides[2:])
        y = self.kernels.convolve(kind, x, weight, (n, rows, columns, weight.shape[3]), bias)
        return y, ConvContext(x, weight, bias is not None, stride, sides)

    @unless_reference(limits.fits_conv2d_backward)
    def conv2d_backward(self, dy: Array, ctx: ConvContext) -> tuple[Array, Array, Array]:
        x, weight, has_bias, stride, sides = ctx
        kind = self.kernels.KINDS[stride, sides]
        dweight, dbias = self.kernels.weight_gradient(kind, x, dy, weight)
        return self.kernels.input_gradient(kind, dy, weight, x.shape), dweight, dbias if has_bias else None

    @unless_reference(limits.fits_upsample_conv2d)
    def upsample_conv2d(self, x: Array, weight: Array, bias: Array) -> tuple[Array, UpsampleContext]:
        n, h, w, _ = x.shape
        y = self.kernels.convolve(self.kernels.UP, x, weight, (n, 2 * h, 2 * w, weight.shape[3]), bias)
        return y, UpsampleContext(x, weight)

    @unless_reference(limits.fits_upsample_conv2d_backward)
    def upsample_conv2d_backward(self, dy: Array, ctx: UpsampleContext) -> tuple[Array, Array, Array]:
        x, weight = ctx
        dweight, dbias = self.kernels.weight_gradient(self.kernels.UP, x, dy, weight)
        return self.kernels.input_gradient(self.kernels.UP, dy, weight, x.shape), dweight, dbias

    # Normalisation

    @unless_reference(limits.fits_group_norm)
    def group_norm(
        self, x: Array, gamma: Array, beta: Array, groups: int, eps: float = 1e-5
    ) -> tuple[Array, NormContext]:
        y, norm = self.kernels.normalise(x, None, gamma, beta, groups, eps, False)
        return y, NormContext(x, gamma, beta, norm.mean, norm.rstd)

    @unless_reference(limits.fits_group_norm_backward)
    def group_norm_backward(self, dy: Array, ctx: NormContext) -> tuple[Array, Array, Array]:
        x, gamma, beta, mean, rstd = ctx
        norm = self.kernels.norm_of(x, None, gamma, beta, mean, rstd, False)
        return self.kernels.normalise_backward(dy, norm)

    @unless_reference(limits.fits_group_norm)
    def group_norm_silu(
        self, x: Array, gamma: Array, beta: Array, groups: int, eps: float = 1e-5
    ) -> tuple[Array, NormContext]:
        y, norm = self.kernels.normalise(x, None, gamma, beta, groups, eps, True)
        return y, NormContext(x, gamma, beta, norm.mean, norm.rstd)

    @unless_reference(limits.fits_group_norm_backward)
    def group_norm_silu_backward(self, dy: Array, ctx: NormContext) -> tuple[Array, Array, Array]:
        x, gamma, beta, mean, rstd = ctx
        norm = self.kernels.norm_of(x, None, gamma, beta, mean, rstd, True)
        return self.kernels.normalise_backward(dy, norm)

    # Residual blocks

    @unless_reference(limits.fits_norm_conv2d)
    def norm_conv2d(
        self,
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
        h, norm = self.kernels.normalise(x, skip, gamma, beta, groups, eps, True)
        if mask is not None:
            self.kernels.drop(h, mask)
        total = bias if shift is None else self.kernels.add_row(shift, bias)
        y = self.kernels.convolve(self.kernels.PLAIN, h, weight, (*x.shape[:3], weight.shape[3]), total, residual)
        kept = (x, skip, gamma, beta, weight, norm.mean, norm.rstd, mask)
        return y, NormConvContext(*kept, shift is not None, residual is not None)

    @unless_reference(limits.fits_norm_conv2d_backward)
    def norm_conv2d_backward(self, dy: Array, ctx: NormConvContext, dx: Array | None = None) -> tuple[Array, ...]:
        x, skip, gamma, beta, weight, mean, rstd, mask, has_shift, has_residual = ctx
        kernels, more = self.kernels, dx
        norm = kernels.norm_of(x, skip, gamma, beta, mean, rstd, True)
        h = kernels.normalise_again(norm)
        if mask is not None:
            kernels.drop(h, mask)
        dweight, dbias = kernels.weight_gradient(kernels.PLAIN, h, dy, weight)
        del h  # frees it for dx and dskip, which first hold the activation's gradient
        dx, dskip = kernels.joined_gradient(dy, weight, x, skip)
        if mask is not None:
            kernels.drop(dx, mask[..., : x.shape[-1]])
            if skip is not None:
                kernels.drop(dskip, mask[..., x.shape[-1] :])
        dgamma, dbeta = kernels.through_norm(norm, dx, dskip, more=more)
        dshift = kernels.sum_pixels(dy) if has_shift else None
        return dx, dskip, dgamma, dbeta, dweight, dbias, dshift, dy if has_residual else None

    # Attention

    @unless_reference(limits.fits_attention)
    def attention(self, q: Array, k: Array, v: Array, num_heads: int = 1) -> tuple[Array, AttentionContext]:
        y, lse = self.kernels.attend(q, k, v, num_heads)
        return y, AttentionContext(q, k, v, lse)

    @unless_reference(limits.fits_attention_backward)
    def attention_backward(self, dy: Array, ctx: AttentionContext) -> tuple[Array, Array, Array]:
        return self.kernels.attend_backward(dy, *ctx)

    @unless_reference(limits.fits_norm_attention)
    def norm_attention(
        self,
        x: Array,
        gamma: Array,
        beta: Array,
        weight: Array,
        bias: Array,
        groups: int,
        eps: float = 1e-5,
        num_heads: int = 1,
    ) -> tuple[Array, NormAttentionContext]:
        kernels = self.kernels
        h, norm = kernels.normalise(x, None, gamma, beta, groups, eps, False)
        qkv = kernels.multiply(kernels.pixels(h), weight, bias)
        y, lse = kernels.attend(*thirds(qkv), num_heads)
        return y, NormAttentionContext(x, gamma, beta, weight, bias, norm.mean, norm.rstd, lse)

    @unless_reference(limits.fits_norm_attention_backward)
    def norm_attention_backward(self, dy: Array, ctx: NormAttentionContext) -> tuple[Array, Array, Array, Array, Array]:
        x, gamma, beta, weight, bias, mean, rstd, lse = ctx
        kernels = self.kernels
        norm = kernels.norm_of(x, None, gamma, beta, mean, rstd, False)
        h = kernels.pixels(kernels.normalise_again(norm))
        qkv = kernels.multiply(h, weight, bias)
        dqkv = kernels.attend_backward_joined(dy, *thirds(qkv), lse)
        del qkv
        dweight, dbias = kernels.multiply_transposed([h], dqkv, weight)
        del h
        dx = kernels.multiply(dqkv, weight.T).reshape(x.shape)
        dgamma, dbeta = kernels.through_norm(norm, dx, None)
        return dx, dgamma, dbeta, dweight, dbias

    # Resolution, and joining

    @unless_reference(limits.fits_upsample_nearest)
    def upsample_nearest(self, x: Array) -> tuple[Array, None]:
        return self.kernels.double(x, 1.0), None

    @unless_reference(limits.fits_halving_gradient)
    def upsample_nearest_backward(self, dy: Array, ctx: None) -> tuple[Array]:
        return (self.kernels.halve(dy, 1.0),)

    @unless_reference(limits.fits_average_pool)
    def average_pool(self, x: Array) -> tuple[Array, None]:
        return self.kernels.halve(x, 0.25), None

    @unless_reference(limits.fits_image_gradient)
    def average_pool_backward(self, dy: Array, ctx: None) -> tuple[Array]:
        return (self.kernels.double(dy, 0.25),)

    @unless_reference(limits.fits_add_shift)
    def add_shift(self, x: Array, shift: Array) -> tuple[Array, None]:
        return self.kernels.add_shift(x, shift), None

    @unless_reference(limits.fits_image_gradient)
    def add_shift_backward(self, dy: Array, ctx: None) -> tuple[Array, Array]:
        return dy, self.kernels.sum_pixels(dy)

    @unless_reference(limits.fits_concat_channels)
    def concat_channels(self, a: Array, b: Array) -> tuple[Array, int]:
        return self.kernels.join(a, b), a.shape[-1]

    # Element by element

    @unless_reference(limits.fits_silu)
    def silu(self, x: Array) -> tuple[Array, Array]:
        return self.kernels.silu(x), x

    @unless_reference(limits.fits_silu_backward)
    def silu_backward(self, dy: Array, ctx: Array) -> tuple[Array]:
        return (self.kernels.silu_backward(dy, ctx),)

    @unless_reference(limits.fits_add)
    def add(self, a: Array, b: Array) -> tuple[Array, None]:
        return self.kernels.add(a, b), None

    @unless_reference(limits.fits_dropout_mask)
    def dropout_mask(
        self,
        shape: tuple[int, ...],
        rate: float,
        seed: int,
        stream: int,
        step: int,
        dtype: DType | None = None,
        first: int = 0,
    ) -> tuple[Array, None]:
        u, _ = self.random_uniform(shape, seed, stream, step, dtype, first)
        return np.multiply(np.greater_equal(u, rate, out=u), 1.0 / (1.0 - rate), out=u), None

    @unless_reference(limits.fits_dropout)
    def dropout(
        self, x: Array, rate: float, seed: int, stream: int, step: int, first: int = 0
    ) -> tuple[Array, DropoutContext]:
        drawn = DropoutContext(rate, seed, stream, step, x.dtype, first)
        y, _ = self.dropout_mask(x.shape, *drawn)
        return np.multiply(x, y, out=y), drawn

    @unless_reference(limits.fits_dropout_backward)
    def dropout_backward(self, dy: Array, ctx: DropoutContext) -> tuple[Array]:
        dx, _ = self.dropout_mask(dy.shape, *ctx)
        return (np.multiply(dy, dx, out=dx),)

    @unless_reference(limits.fits_noise)
    def random_normal(
        self, shape: tuple[int, ...], seed: int, stream: int, step: int, dtype: DType | None = None, first: int = 0
    ) -> tuple[Array, None]:
        return self.kernels.draw(shape, seed, stream, step, dtype or np.float32, first, True), None

    @unless_reference(limits.fits_noise)
    def random_uniform(
        self, shape: tuple[int, ...], seed: int, stream: int, step: int, dtype: DType | None = None, first: int = 0
    ) -> tuple[Array, None]:
        return self.kernels.draw(shape, seed, stream, step, dtype or np.float32, first, False), None

    # Embeddings

    @unless_reference(limits.fits_embedding)
    def embedding(self, table: Array, indices: Array) -> tuple[Array, tuple[Array, Array]]:
        return self.kernels.take(table, indices), (table, indices)

    @unless_reference(limits.fits_embedding_backward)
    def embedding_backward(self, dy: Array, ctx: tuple[Array, Array]) -> tuple[Array]:
        table, indices = ctx
        return (self.kernels.take_backward(dy, indices, table.shape[0]),)

    @unless_reference(limits.fits_sinusoidal_embedding)
    def sinusoidal_embedding(
        self,
        t: Array,
        dim: int,
        max_period: float = 10000.0,
        frequency_shift: float = 0.0,
        cos_first: bool = True,
        dtype: DType | None = None,
    ) -> tuple[Array, None]:
        frequencies = geometric(dim // 2, max_period, frequency_shift)
        return self.kernels.sinusoids(t, frequencies, dim, cos_first), None

    # Losses

    @unless_reference(limits.fits_loss)
    def mse_loss(self, prediction: Array, target: Array, weights: Array | None = None) -> tuple[Array, Array]:
        return self.kernels.loss("mse", prediction, target, weights)

    @unless_reference(limits.fits_loss_gradient)
    def mse_loss_backward(self, dy: Array, ctx: Array) -> tuple[Array]:
        return (self.kernels.times(ctx, dy * (2.0 / ctx.size)),)

    @unless_reference(limits.fits_loss)
    def l1_loss(self, prediction: Array, target: Array, weights: Array | None = None) -> tuple[Array, Array]:
        return self.kernels.loss("l1", prediction, target, weights)

    @unless_reference(limits.fits_loss_gradient)
    def l1_loss_backward(self, dy: Array, ctx: Array) -> tuple[Array]:
        return (self.kernels.times(ctx, dy / ctx.size),)

    @unless_reference(limits.fits_huber_loss)
    def huber_loss(
        self, prediction: Array, target: Array, delta: float = 1.0, weights: Array | None = None
    ) -> tuple[Array, Array]:
        return self.kernels.loss("huber", prediction, target, weights, delta)

    @unless_reference(limits.fits_loss_gradient)
    def huber_loss_backward(self, dy: Array, ctx: Array) -> tuple[Array]:
        return (self.kernels.times(ctx, dy / ctx.size),)

    @unless_reference(limits.fits_vlb_loss)
    def vlb_loss(self, output: Array, target: Array, x0: Array, steps: Array, hybrid: bool) -> tuple[Array, Any]:
        ctx = output, target, x0, steps, hybrid
        return self.kernels.vlb_loss(*ctx), ctx

    @unless_reference(limits.fits_vlb_loss_backward)
    def vlb_loss_backward(self, dy: Array, ctx: Any) -> tuple[Array]:
        return (self.kernels.vlb_loss_backward(dy, *ctx),)

    # One pass over flat arrays, in place

    @unless_reference(limits.fits_adam)
    def adam(
        self,
        params: Array,
        grads: Array,
        m: Array,
        v: Array,
        step: int,
        lr: float,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> tuple[Array, Array, Array]:
        self.kernels.adam(params, grads, m, v, step, lr, beta1, beta2, eps, weight_decay)
        return params, m, v

    @unless_reference(limits.fits_ema)
    def ema(self, average: Array, params: Array, decay: float) -> Array:
        self.kernels.ema(average, params, decay)
        return average

    @unless_reference(limits.fits_adam_ema)
    def adam_ema(
        self,
        params: Array,
        grads: Array,
        m: Array,
        v: Array,
        average: Array,
        step: int,
        lr: float,
        decay: float,
        scale: float = 1.0,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> tuple[Array, Array, Array, Array]:
        self.kernels.adam(params, grads, m, v, step, lr, beta1, beta2, eps, weight_decay, average, decay, scale)
        return params, m, v, average

    @unless_reference(limits.fits_global_norm)
    def global_norm(self, grads: Array) -> Array:
        return np.float32(math.sqrt(self.kernels.squared_norm(grads)))

    @unless_reference(limits.fits_global_norm)
    def clip_by_global_norm(self, grads: Array, max_norm: float) -> tuple[Array, Array]:
        norm = self.global_norm(grads)
        if not norm <= max_norm:  # not `norm > max_norm`: NaN must spread
            np.multiply(grads, np.float32(max_norm / norm), out=grads)
        return grads, norm


def geometric(half: int, max_period: float, shift: float) -> tuple[float, ...]:
    """The frequencies of `sinusoidal_embedding`."""
    return tuple(np.exp(np.arange(half, dtype=np.float64) * (-math.log(max_period) / (half - shift))).tolist())
