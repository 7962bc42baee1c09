"""NumPy arrays; in float32 the hot operations run block by block on all cores, everything else is the reference."""

from typing import ClassVar

import numpy as np

from backends.array import Array, DType
from backends.backend import Backend
from backends.fallback import unless_reference
from backends.numpy_kernels import functions, limits
from backends.numpy_kernels.convolution import turned_sides
from backends.ops.attention import AttentionContext
from backends.ops.convolution import ConvContext, Padding, four_sides
from backends.ops.fused import NormAttentionContext, NormConvContext, PointwiseContext, UpsampleContext
from backends.ops.linear import LinearContext
from backends.ops.normalization import NormContext


class NumpyBackend(Backend):
    """Plain NumPy; what is defined below replaces the reference operation of the same name for float32.

    Each override leaves to the reference what it is not written for, bad arguments included. In float64 and
    complex128 every operation is the reference: that is where its gradients are checked.
    """

    name: ClassVar[str] = "numpy"
    # Measured, of the peak of training steps: what malloc cannot reuse
    unused_share: ClassVar[float] = 0.28
    dtype: ClassVar[DType] = np.float32

    def __init__(self) -> None:
        super().__init__(np)

    # Products over channels

    @unless_reference(limits.fits_linear)
    def linear(self, x: Array, weight: Array, bias: Array | None = None) -> tuple[Array, LinearContext]:
        return functions.multiply([(x, weight)], bias), LinearContext(x, weight, bias is not None)

    @unless_reference(limits.fits_linear_backward)
    def linear_backward(self, dy: Array, ctx: LinearContext) -> tuple[Array, Array, Array]:
        x, weight, has_bias = ctx
        dx, dweight, dbias = functions.multiply_backward(dy, x, weight)
        return dx, dweight, dbias if has_bias else None

    @unless_reference(limits.fits_pointwise)
    def pointwise(self, x: Array, skip: Array | None, weight: Array, bias: Array) -> tuple[Array, PointwiseContext]:
        first = x.shape[-1]
        inputs = [(x, weight[:first])] if skip is None else [(x, weight[:first]), (skip, weight[first:])]
        return functions.multiply(inputs, bias), PointwiseContext(x, skip, weight)

    @unless_reference(limits.fits_pointwise_backward)
    def pointwise_backward(
        self, dy: Array, ctx: PointwiseContext, dx: Array | None = None, dskip: Array | None = None
    ) -> tuple[Array, Array, Array, Array]:
        x, skip, weight = ctx
        first = x.shape[-1]
        mine, dweight, dbias = functions.multiply_backward(dy, x, weight[:first])
        dx = mine if dx is None else np.add(mine, dx, out=mine)
        if skip is None:
            return dx, None, dweight, dbias
        mine, lower, _ = functions.multiply_backward(dy, skip, weight[first:])
        dskip = mine if dskip is None else np.add(mine, dskip, out=mine)
        return dx, dskip, np.concatenate([dweight, lower]), dbias

    # Convolution

    @unless_reference(limits.fits_conv2d)
    def conv2d(
        self, x: Array, weight: Array, bias: Array | None = None, stride: int = 1, padding: int | Padding = 0
    ) -> tuple[Array, ConvContext]:
        sides = four_sides(padding)
        ctx = ConvContext(x, weight, bias is not None, stride, sides)
        return functions.conv2d(x, weight, bias, stride, sides), ctx

    @unless_reference(limits.fits_conv2d_backward)
    def conv2d_backward(self, dy: Array, ctx: ConvContext) -> tuple[Array, Array, Array]:
        x, weight, has_bias, stride, sides = ctx
        if stride == 1 and min(turned_sides(weight.shape[:2], sides)) >= 0:
            dx, dweight, dbias = functions.conv2d_backward(dy, x, weight, sides)
        else:
            dx, dweight, dbias = functions.conv2d_backward_strided(dy, x, weight, stride, sides)
        return dx, dweight, dbias if has_bias else None

    @unless_reference(limits.fits_upsample_conv2d)
    def upsample_conv2d(self, x: Array, weight: Array, bias: Array) -> tuple[Array, UpsampleContext]:
        y = functions.conv2d(x, weight, bias, 1, (len(weight) // 2,) * 4, enlarge=True)
        return y, UpsampleContext(x, weight)

    @unless_reference(limits.fits_upsample_conv2d_backward)
    def upsample_conv2d_backward(self, dy: Array, ctx: UpsampleContext) -> tuple[Array, Array, Array]:
        x, weight = ctx
        return functions.conv2d_backward(dy, x, weight, (len(weight) // 2,) * 4, enlarge=True)

    # Normalisation

    @unless_reference(limits.fits_group_norm)
    def group_norm(
        self, x: Array, gamma: Array, beta: Array, groups: int, eps: float = 1e-5
    ) -> tuple[Array, NormContext]:
        return functions.group_norm(x, gamma, beta, groups, eps, silu=False)

    @unless_reference(limits.fits_group_norm_backward)
    def group_norm_backward(self, dy: Array, ctx: NormContext) -> tuple[Array, Array, Array]:
        return functions.group_norm_backward(dy, ctx, silu=False)

    @unless_reference(limits.fits_group_norm)
    def group_norm_silu(
        self, x: Array, gamma: Array, beta: Array, groups: int, eps: float = 1e-5
    ) -> tuple[Array, NormContext]:
        return functions.group_norm(x, gamma, beta, groups, eps, silu=True)

    @unless_reference(limits.fits_group_norm_backward)
    def group_norm_silu_backward(self, dy: Array, ctx: NormContext) -> tuple[Array, Array, Array]:
        return functions.group_norm_backward(dy, ctx, silu=True)

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
        return functions.norm_conv2d(x, skip, gamma, beta, weight, bias, groups, eps, shift, residual, mask)

    @unless_reference(limits.fits_norm_conv2d_backward)
    def norm_conv2d_backward(self, dy: Array, ctx: NormConvContext, dx: Array | None = None) -> tuple[Array, ...]:
        return functions.norm_conv2d_backward(dy, ctx, dx)

    # Attention

    @unless_reference(limits.fits_attention)
    def attention(self, q: Array, k: Array, v: Array, num_heads: int = 1) -> tuple[Array, AttentionContext]:
        return functions.attention(q, k, v, num_heads)

    @unless_reference(limits.fits_attention_backward)
    def attention_backward(self, dy: Array, ctx: AttentionContext) -> tuple[Array, Array, Array]:
        return functions.attention_backward(dy, ctx)

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
        return functions.norm_attention(x, gamma, beta, weight, bias, groups, eps, num_heads)

    @unless_reference(limits.fits_norm_attention_backward)
    def norm_attention_backward(self, dy: Array, ctx: NormAttentionContext) -> tuple[Array, Array, Array, Array, Array]:
        return functions.norm_attention_backward(dy, ctx)

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
        functions.adam(params, grads, m, v, step, lr, beta1, beta2, eps, weight_decay)
        return params, m, v

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
        options = (step, lr, decay, scale, beta1, beta2, eps, weight_decay)
        functions.adam_ema(params, grads, m, v, average, *options)
        return params, m, v, average
