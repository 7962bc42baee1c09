"""Layers with parameters, forward above backward.

A layer holds no hidden state: `forward` appends what backward needs to the tape, a plain list, and `backward`
pops it. With `tape=None` nothing is kept. `backward` overwrites the gradients of the layer's parameters, and returns
those of its inputs. Gradients from elsewhere (`dx=`, `dskip=`) are added to, and their arrays may be used up by it.

Weights begin uniform in ±1/sqrt(fan in), PyTorch's default for its linear and convolution layers (He et al. 2015 with
a = sqrt(5)), not Ho et al.'s, who take the mean of fan in and fan out. The last map of each block begins at zero.
"""

import math
from typing import Any, NamedTuple

from backends import Array, Padding, real_part
from tinyddpm import streams
from tinyddpm.networks.parameters import Scope

Tape = list[Any] | None


def keep(tape: Tape, ctx: Any) -> None:
    """Puts ctx on the tape, if there is one."""
    if tape is not None:
        tape.append(ctx)


class Linear:
    """y = x W + b over the last axis: (..., C) -> (..., K). Weights uniform in ±1/sqrt(C), or zero."""

    def __init__(self, scope: Scope, inputs: int, outputs: int, zero: bool = False) -> None:
        bound = 0.0 if zero else 1 / math.sqrt(inputs)
        self.backend = scope.backend
        self.weight = scope.declare("weight", (inputs, outputs), bound)
        self.bias = scope.declare("bias", (outputs,), bound)

    def forward(self, x: Array, tape: Tape) -> Array:
        y, ctx = self.backend.linear(x, self.weight.value, self.bias.value)
        keep(tape, ctx)
        return y

    def backward(self, dy: Array, tape: list[Any]) -> Array:
        dx, dweight, dbias = self.backend.linear_backward(dy, tape.pop())
        self.weight.write(dweight)
        self.bias.write(dbias)
        return dx


class Conv2d:
    """Convolution of NHWC images: (N, H, W, C) -> (N, H', W', K). Weights uniform in ±1/sqrt(fan in), or zero."""

    def __init__(
        self,
        scope: Scope,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        padding: int | Padding = 1,
        zero: bool = False,
    ) -> None:
        bound = 0.0 if zero else 1 / math.sqrt(kernel * kernel * inputs)
        self.backend, self.stride, self.padding = scope.backend, stride, padding
        self.weight = scope.declare("weight", (kernel, kernel, inputs, outputs), bound)
        self.bias = scope.declare("bias", (outputs,), bound)

    def forward(self, x: Array, tape: Tape) -> Array:
        y, ctx = self.backend.conv2d(x, self.weight.value, self.bias.value, self.stride, self.padding)
        keep(tape, ctx)
        return y

    def backward(self, dy: Array, tape: list[Any]) -> Array:
        dx, dweight, dbias = self.backend.conv2d_backward(dy, tape.pop())
        self.weight.write(dweight)
        self.bias.write(dbias)
        return dx


class GroupNormSiLU:
    """Group normalisation of (N, ..., C), gamma 1 and beta 0 at first, followed by SiLU."""

    def __init__(self, scope: Scope, channels: int, groups: int, eps: float) -> None:
        self.backend, self.groups, self.eps = scope.backend, groups, eps
        self.gamma = scope.declare("gamma", (channels,), constant=1.0)
        self.beta = scope.declare("beta", (channels,))

    def forward(self, x: Array, tape: Tape) -> Array:
        y, ctx = self.backend.group_norm_silu(x, self.gamma.value, self.beta.value, self.groups, self.eps)
        keep(tape, ctx)
        return y

    def backward(self, dy: Array, tape: list[Any]) -> Array:
        dx, dgamma, dbeta = self.backend.group_norm_silu_backward(dy, tape.pop())
        self.gamma.write(dgamma)
        self.beta.write(dbeta)
        return dx


class NormConv2d:
    """silu(group_norm([x, skip])) convolved 3x3, plus shift and residual: half a residual block.

    Its parameters are those of a `GroupNorm` in norm_scope and a `Conv2d` in conv_scope.
    """

    def __init__(
        self,
        norm_scope: Scope,
        conv_scope: Scope,
        inputs: int,
        outputs: int,
        groups: int,
        eps: float,
        zero: bool = False,
    ) -> None:
        self.backend, self.groups, self.eps = norm_scope.backend, groups, eps
        bound = 0.0 if zero else 1 / math.sqrt(9 * inputs)
        self.gamma = norm_scope.declare("gamma", (inputs,), constant=1.0)
        self.beta = norm_scope.declare("beta", (inputs,))
        self.weight = conv_scope.declare("weight", (3, 3, inputs, outputs), bound)
        self.bias = conv_scope.declare("bias", (outputs,), bound)

    def forward(
        self,
        x: Array,
        tape: Tape,
        skip: Array | None = None,
        shift: Array | None = None,
        residual: Array | None = None,
        mask: Array | None = None,
    ) -> Array:
        y, ctx = self.backend.norm_conv2d(
            x,
            skip,
            self.gamma.value,
            self.beta.value,
            self.weight.value,
            self.bias.value,
            self.groups,
            self.eps,
            shift=shift,
            residual=residual,
            mask=mask,
        )
        keep(tape, ctx)
        return y

    def backward(self, dy: Array, tape: list[Any], dx: Array | None = None) -> tuple[Array, Array, Array, Array]:
        """(dx, dskip, dshift, dresidual); a gradient dx from elsewhere is added to the first."""
        dx, dskip, dgamma, dbeta, dweight, dbias, dshift, dresidual = self.backend.norm_conv2d_backward(
            dy, tape.pop(), dx=dx
        )
        self.gamma.write(dgamma)
        self.beta.write(dbeta)
        self.weight.write(dweight)
        self.bias.write(dbias)
        return dx, dskip, dshift, dresidual


class NormAttention:
    """Multi-head self-attention over all pixels of the normalised x: (N, ..., C) with L pixels -> (N, L, C).

    Its parameters are those of a group normalisation in norm_scope and of a `Linear` to queries, keys and values.
    """

    def __init__(
        self, norm_scope: Scope, qkv_scope: Scope, channels: int, num_heads: int, groups: int, eps: float
    ) -> None:
        self.backend, self.num_heads, self.groups, self.eps = norm_scope.backend, num_heads, groups, eps
        bound = 1 / math.sqrt(channels)
        self.gamma = norm_scope.declare("gamma", (channels,), constant=1.0)
        self.beta = norm_scope.declare("beta", (channels,))
        self.weight = qkv_scope.declare("weight", (channels, 3 * channels), bound)
        self.bias = qkv_scope.declare("bias", (3 * channels,), bound)

    def forward(self, x: Array, tape: Tape) -> Array:
        parameters = (self.gamma.value, self.beta.value, self.weight.value, self.bias.value)
        y, ctx = self.backend.norm_attention(x, *parameters, self.groups, self.eps, self.num_heads)
        keep(tape, ctx)
        return y

    def backward(self, dy: Array, tape: list[Any]) -> Array:
        dx, dgamma, dbeta, dweight, dbias = self.backend.norm_attention_backward(dy, tape.pop())
        self.gamma.write(dgamma)
        self.beta.write(dbeta)
        self.weight.write(dweight)
        self.bias.write(dbias)
        return dx


class Shortcut:
    """A 1x1 convolution of x, or of x and skip joined: (N, H, W, C) -> (N, H, W, K)."""

    def __init__(self, scope: Scope, inputs: int, outputs: int) -> None:
        bound = 1 / math.sqrt(inputs)
        self.backend, self.shape = scope.backend, (1, 1, inputs, outputs)
        self.weight = scope.declare("weight", self.shape, bound)
        self.bias = scope.declare("bias", (outputs,), bound)

    def forward(self, x: Array, tape: Tape, skip: Array | None = None) -> Array:
        weight = self.backend.xp.reshape(self.weight.value, self.shape[2:])
        y, ctx = self.backend.pointwise(x, skip, weight, self.bias.value)
        keep(tape, ctx)
        return y

    def backward(
        self, dy: Array, tape: list[Any], dx: Array | None = None, dskip: Array | None = None
    ) -> tuple[Array, Array]:
        """(dx, dskip); dskip is None without a skip. Gradients from elsewhere, dx and dskip, are used up by it."""
        dx, dskip, dweight, dbias = self.backend.pointwise_backward(dy, tape.pop(), dx=dx, dskip=dskip)
        self.weight.write(self.backend.xp.reshape(dweight, self.shape))
        self.bias.write(dbias)
        return dx, dskip


class UpsampleConv2d:
    """Twice the resolution by repeating pixels, then a 3x3 convolution: (N, H, W, C) -> (N, 2H, 2W, C)."""

    def __init__(self, scope: Scope, channels: int) -> None:
        bound = 1 / math.sqrt(9 * channels)
        self.backend = scope.backend
        self.weight = scope.declare("weight", (3, 3, channels, channels), bound)
        self.bias = scope.declare("bias", (channels,), bound)

    def forward(self, x: Array, tape: Tape) -> Array:
        y, ctx = self.backend.upsample_conv2d(x, self.weight.value, self.bias.value)
        keep(tape, ctx)
        return y

    def backward(self, dy: Array, tape: list[Any]) -> Array:
        dx, dweight, dbias = self.backend.upsample_conv2d_backward(dy, tape.pop())
        self.weight.write(dweight)
        self.bias.write(dbias)
        return dx


class Embedding:
    """Rows of a table by index: (N,) integers in [0, count) -> (N, C). Values uniform in ±1."""

    def __init__(self, scope: Scope, count: int, channels: int) -> None:
        self.backend = scope.backend
        self.table = scope.declare("table", (count, channels), 1.0)

    def forward(self, indices: Array, tape: Tape) -> Array:
        y, ctx = self.backend.embedding(self.table.value, indices)
        keep(tape, ctx)
        return y

    def backward(self, dy: Array, tape: list[Any]) -> None:
        (dtable,) = self.backend.embedding_backward(dy, tape.pop())
        self.table.write(dtable)


class DropoutKey(NamedTuple):
    """What the masks of a training step come from. first: the number of the batch's first image in the whole batch,
    of which other processes may hold the rest. step, first: as of `Backend.number`."""

    seed: int
    step: Any
    first: Any = 0


class Dropout:
    """Zeroes a share of x where a key is given, as in training; else passes x through.

    number: the layer's own, so that no two layers share a mask.
    """

    def __init__(self, scope: Scope, rate: float, number: int) -> None:
        self.backend, self.rate, self.stream = scope.backend, rate, streams.DROPOUT[number]

    def mask(self, like: Array, key: DropoutKey | None) -> Array:
        """The factors for an array like `like`, or None where nothing is dropped."""
        if self.rate == 0 or key is None:
            return None
        dtype = real_part(self.backend.xp, like).dtype
        return self.backend.dropout_mask(
            tuple(like.shape), self.rate, key.seed, self.stream, key.step, dtype=dtype, first=key.first
        )[0]

    def forward(self, x: Array, tape: Tape, key: DropoutKey | None) -> Array:
        if self.rate == 0 or key is None:
            keep(tape, None)
            return x
        y, ctx = self.backend.dropout(x, self.rate, key.seed, self.stream, key.step, key.first)
        keep(tape, ctx)
        return y

    def backward(self, dy: Array, tape: list[Any]) -> Array:
        ctx = tape.pop()
        return dy if ctx is None else self.backend.dropout_backward(dy, ctx)[0]
