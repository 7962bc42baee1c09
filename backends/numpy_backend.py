"""NumPy arrays; in float32 the hot operations run block by block on all cores, everything else is the reference."""

from typing import Any, ClassVar

import numpy as np

from backends import ops
from backends.backend import Backend
from backends.numpy_kernels import functions
from backends.numpy_kernels.convolution import turned_sides
from backends.ops.convolution import ConvContext, Padding, four_sides
from backends.ops.fused import PointwiseContext, UpsampleContext
from backends.ops.linear import LinearContext


class NumpyBackend(Backend):
    """Plain NumPy; what is defined below replaces the reference operation of the same name for float32.

    Each override leaves to the reference what it is not written for, bad arguments included. In float64 and
    complex128 every operation is the reference: that is where its gradients are checked.
    """

    name: ClassVar[str] = "numpy"
    # Measured, of the peak of training steps: what malloc does not get to use again
    unused_share: ClassVar[float] = 0.28
    dtype: ClassVar[Any] = np.float32

    def __init__(self) -> None:
        super().__init__(np)

    def takes(self, *arrays: Any) -> bool:
        """Whether the overrides are written for these: of `dtype` and not empty, or None."""
        return all(a is None or (a.dtype == self.dtype and a.size > 0) for a in arrays)

    def normalises(self, channels: int, x: Any, gamma: Any, beta: Any, groups: int) -> bool:
        """Whether they are written for a normalisation of so many channels."""
        fits = gamma.shape == beta.shape == (channels,) and groups >= 1 and channels % groups == 0
        return fits and x.ndim >= 2 and self.takes(x, gamma, beta)

    # Products over channels

    def linear(self, x: Any, weight: Any, bias: Any = None) -> tuple[Any, Any]:
        if not (self.takes(x, weight, bias) and x.shape[-1] == len(weight)):
            return ops.linear(np, x, weight, bias)
        return functions.multiply([(x, weight)], bias), LinearContext(x, weight, bias is not None)

    def linear_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        x, weight, has_bias = ctx
        if not self.takes(dy, x, weight):
            return ops.linear_backward(np, dy, ctx)
        dx, dweight, dbias = functions.multiply_backward(dy, x, weight)
        return dx, dweight, dbias if has_bias else None

    def pointwise(self, x: Any, skip: Any, weight: Any, bias: Any) -> tuple[Any, Any]:
        first, joined = x.shape[-1], 0 if skip is None else skip.shape[-1]
        if not (self.takes(x, skip, weight, bias) and len(weight) == first + joined):
            return ops.pointwise(np, x, skip, weight, bias)
        inputs = [(x, weight[:first])] if skip is None else [(x, weight[:first]), (skip, weight[first:])]
        return functions.multiply(inputs, bias), PointwiseContext(x, skip, weight)

    def pointwise_backward(self, dy: Any, ctx: Any, dx: Any = None, dskip: Any = None) -> tuple[Any, Any, Any, Any]:
        x, skip, weight = ctx
        if not self.takes(dy, x, skip, weight, dx, dskip):
            return ops.pointwise_backward(np, dy, ctx, dx, dskip)
        first = x.shape[-1]
        mine, dweight, dbias = functions.multiply_backward(dy, x, weight[:first])
        dx = mine if dx is None else np.add(mine, dx, out=mine)
        if skip is None:
            return dx, None, dweight, dbias
        mine, lower, _ = functions.multiply_backward(dy, skip, weight[first:])
        dskip = mine if dskip is None else np.add(mine, dskip, out=mine)
        return dx, dskip, np.concatenate([dweight, lower]), dbias

    # Convolution

    def conv2d(
        self, x: Any, weight: Any, bias: Any = None, stride: int = 1, padding: int | Padding = 0
    ) -> tuple[Any, Any]:
        sides = four_sides(padding)
        fits = self.takes(x, weight, bias) and x.shape[3] == weight.shape[2] and stride >= 1 and min(sides) >= 0
        if not fits:
            return ops.conv2d(np, x, weight, bias, stride, padding)
        ctx = ConvContext(x, weight, bias is not None, stride, sides)
        return functions.conv2d(x, weight, bias, stride, sides), ctx

    def conv2d_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        x, weight, has_bias, stride, sides = ctx
        if not self.takes(dy, x, weight):
            return ops.conv2d_backward(np, dy, ctx)
        if stride == 1 and min(turned_sides(weight.shape[:2], sides)) >= 0:
            dx, dweight, dbias = functions.conv2d_backward(dy, x, weight, sides)
        else:
            dx, dweight, dbias = functions.conv2d_backward_strided(dy, x, weight, stride, sides)
        return dx, dweight, dbias if has_bias else None

    def upsample_conv2d(self, x: Any, weight: Any, bias: Any) -> tuple[Any, Any]:
        if not (self.takes(x, weight, bias) and weight.shape[:3] == (*odd_square(weight), x.shape[3])):
            return ops.upsample_conv2d(np, x, weight, bias)
        y = functions.conv2d(x, weight, bias, 1, (len(weight) // 2,) * 4, enlarge=True)
        return y, UpsampleContext(x, weight)

    def upsample_conv2d_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        x, weight = ctx
        if not (self.takes(dy, x, weight) and weight.shape[:2] == odd_square(weight)):
            return ops.upsample_conv2d_backward(np, dy, ctx)
        return functions.conv2d_backward(dy, x, weight, (len(weight) // 2,) * 4, enlarge=True)

    # Normalisation

    def group_norm(self, x: Any, gamma: Any, beta: Any, groups: int, eps: float = 1e-5) -> tuple[Any, Any]:
        if not self.normalises(x.shape[-1], x, gamma, beta, groups):
            return ops.group_norm(np, x, gamma, beta, groups, eps)
        return functions.group_norm(x, gamma, beta, groups, eps, silu=False)

    def group_norm_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        if not self.takes(dy, *ctx):
            return ops.group_norm_backward(np, dy, ctx)
        return functions.group_norm_backward(dy, ctx, silu=False)

    def group_norm_silu(self, x: Any, gamma: Any, beta: Any, groups: int, eps: float = 1e-5) -> tuple[Any, Any]:
        if not self.normalises(x.shape[-1], x, gamma, beta, groups):
            return ops.group_norm_silu(np, x, gamma, beta, groups, eps)
        return functions.group_norm(x, gamma, beta, groups, eps, silu=True)

    def group_norm_silu_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        if not self.takes(dy, *ctx):
            return ops.group_norm_silu_backward(np, dy, ctx)
        return functions.group_norm_backward(dy, ctx, silu=True)

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
        channels = x.shape[-1] + (0 if skip is None else skip.shape[-1])
        extras = [a for a in (skip, shift, residual, mask) if a is not None]
        fits = self.takes(weight, bias, *extras) and all(len(a) == len(x) for a in extras)
        fits = fits and weight.shape[:3] == (*odd_square(weight), channels)
        if not (fits and self.normalises(channels, x, gamma, beta, groups)):
            return ops.norm_conv2d(np, x, skip, gamma, beta, weight, bias, groups, eps, shift, residual, mask)
        return functions.norm_conv2d(x, skip, gamma, beta, weight, bias, groups, eps, shift, residual, mask)

    def norm_conv2d_backward(self, dy: Any, ctx: Any, dx: Any = None) -> tuple[Any, ...]:
        if not (self.takes(dy, dx, *ctx[:8]) and ctx.weight.shape[:2] == odd_square(ctx.weight)):
            return ops.norm_conv2d_backward(np, dy, ctx, dx)
        return functions.norm_conv2d_backward(dy, ctx, dx)

    # Attention

    def attention(self, q: Any, k: Any, v: Any, num_heads: int = 1) -> tuple[Any, Any]:
        if not (self.takes(q, k, v) and len(q) == len(k) == len(v) and num_heads >= 1):
            return ops.attention(np, q, k, v, num_heads)
        return functions.attention(q, k, v, num_heads)

    def attention_backward(self, dy: Any, ctx: Any) -> tuple[Any, ...]:
        return functions.attention_backward(dy, ctx) if self.takes(dy, *ctx) else ops.attention_backward(np, dy, ctx)

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
        if not (self.normalises(x.shape[-1], x, gamma, beta, groups) and self.takes(weight, bias) and num_heads >= 1):
            return ops.norm_attention(np, x, gamma, beta, weight, bias, groups, eps, num_heads)
        return functions.norm_attention(x, gamma, beta, weight, bias, groups, eps, num_heads)

    def norm_attention_backward(self, dy: Any, ctx: Any) -> tuple[Any, ...]:
        fits = self.takes(dy, *ctx)
        return functions.norm_attention_backward(dy, ctx) if fits else ops.norm_attention_backward(np, dy, ctx)

    # One pass over flat arrays, in place

    def adam(self, params: Any, grads: Any, m: Any, v: Any, *options: Any, **more: Any) -> Any:
        if not self.takes(params, grads, m, v):
            return ops.adam(np, params, grads, m, v, *options, **more)
        functions.adam(params, grads, m, v, *options, **more)
        return params, m, v

    def adam_ema(self, params: Any, grads: Any, m: Any, v: Any, average: Any, *options: Any, **more: Any) -> Any:
        if not self.takes(params, grads, m, v, average):
            return ops.adam_ema(np, params, grads, m, v, average, *options, **more)
        functions.adam_ema(params, grads, m, v, average, *options, **more)
        return params, m, v, average


def odd_square(weight: Any) -> tuple[int, int]:
    """The shape of a kernel that keeps an image's size: of an odd side, the kernel's own if that is odd."""
    side = len(weight) // 2 * 2 + 1
    return side, side
