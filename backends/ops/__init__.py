"""Every operation once: forward and backward side by side, in plain array-API code.

Read `linear`, `convolution`, `activation`, `normalization`, `attention`; the rest as it is needed, and `fused` last:
what fast backends compute in one go, and here what that must equal.

`OPS` is the one list of them: backends bind it, and the gradient, parity and benchmark loops walk it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backends.array import Array
from backends.ops.activation import silu, silu_backward
from backends.ops.attention import attention, attention_backward
from backends.ops.bound import vlb_loss, vlb_loss_backward
from backends.ops.convolution import conv2d, conv2d_backward
from backends.ops.dropout import dropout, dropout_backward, dropout_mask
from backends.ops.embedding import embedding, embedding_backward, sinusoidal_embedding
from backends.ops.fused import (
    group_norm_silu,
    group_norm_silu_backward,
    norm_attention,
    norm_attention_backward,
    norm_conv2d,
    norm_conv2d_backward,
    pointwise,
    pointwise_backward,
    upsample_conv2d,
    upsample_conv2d_backward,
)
from backends.ops.joining import (
    add,
    add_backward,
    add_shift,
    add_shift_backward,
    concat_channels,
    concat_channels_backward,
)
from backends.ops.linear import linear, linear_backward
from backends.ops.losses import (
    huber_loss,
    huber_loss_backward,
    l1_loss,
    l1_loss_backward,
    mse_loss,
    mse_loss_backward,
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
)
from backends.ops.normalization import group_norm, group_norm_backward
from backends.ops.optimizer import adam, adam_ema, clip_by_global_norm, ema, global_norm
from backends.ops.philox import random_normal, random_uniform
from backends.ops.resampling import average_pool, average_pool_backward, upsample_nearest, upsample_nearest_backward

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Op:
    """An operation: `forward(xp, ...)`, and where it has one `backward(xp, dy, ctx)`.

    `wrt` names the arguments of forward whose gradients backward returns, in its order. `keeps` names those whose
    arrays ctx holds, on every backend, so that their memory is not free until backward; `makes` gives, from
    forward's arguments by name, the shapes of the arrays in ctx that are none of these.
    """

    name: str
    forward: Callable[..., Any]
    backward: Callable[..., Any] | None = None
    wrt: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
    makes: Callable[..., list[Shape]] | None = None


def statistics(x: Array, groups: int, **rest: Any) -> list[Shape]:
    """Mean and reciprocal deviation of each image's groups."""
    return [(x.shape[0], groups)] * 2


def row_sums(q: Array, num_heads: int = 1, **rest: Any) -> list[Shape]:
    """The log-sum-exp of each row of scores."""
    return [(q.shape[0], num_heads, q.shape[1])]


def statistics_and_row_sums(x: Array, groups: int, num_heads: int = 1, **rest: Any) -> list[Shape]:
    """Both, of a normalised attention."""
    return [*statistics(x, groups), (x.shape[0], num_heads, math.prod(x.shape[1:-1]))]


def like_prediction(prediction: Array, **rest: Any) -> list[Shape]:
    """One array, from which a loss's gradient is a multiple."""
    return [prediction.shape]


NORM = ("x", "gamma", "beta")

OPS: dict[str, Op] = {
    op.name: op
    for op in (
        Op("linear", linear, linear_backward, ("x", "weight", "bias"), keeps=("x", "weight")),
        Op("conv2d", conv2d, conv2d_backward, ("x", "weight", "bias"), keeps=("x", "weight")),
        Op("group_norm", group_norm, group_norm_backward, NORM, keeps=NORM, makes=statistics),
        Op("silu", silu, silu_backward, ("x",), keeps=("x",)),
        Op("group_norm_silu", group_norm_silu, group_norm_silu_backward, NORM, keeps=NORM, makes=statistics),
        Op(
            "norm_conv2d",
            norm_conv2d,
            norm_conv2d_backward,
            ("x", "skip", "gamma", "beta", "weight", "bias", "shift", "residual"),
            keeps=("x", "skip", "gamma", "beta", "weight", "mask"),
            makes=statistics,
        ),
        Op(
            "pointwise",
            pointwise,
            pointwise_backward,
            ("x", "skip", "weight", "bias"),
            keeps=("x", "skip", "weight"),
        ),
        Op(
            "upsample_conv2d",
            upsample_conv2d,
            upsample_conv2d_backward,
            ("x", "weight", "bias"),
            keeps=("x", "weight"),
        ),
        Op("attention", attention, attention_backward, ("q", "k", "v"), keeps=("q", "k", "v"), makes=row_sums),
        Op(
            "norm_attention",
            norm_attention,
            norm_attention_backward,
            ("x", "gamma", "beta", "weight", "bias"),
            keeps=("x", "gamma", "beta", "weight", "bias"),
            makes=statistics_and_row_sums,
        ),
        Op("upsample_nearest", upsample_nearest, upsample_nearest_backward, ("x",)),
        Op("average_pool", average_pool, average_pool_backward, ("x",)),
        Op("add", add, add_backward, ("a", "b")),
        Op("add_shift", add_shift, add_shift_backward, ("x", "shift")),
        Op("concat_channels", concat_channels, concat_channels_backward, ("a", "b")),
        Op("dropout", dropout, dropout_backward, ("x",)),
        Op("embedding", embedding, embedding_backward, ("table",), keeps=("table", "indices")),
        Op("mse_loss", mse_loss, mse_loss_backward, ("prediction",), makes=like_prediction),
        Op("l1_loss", l1_loss, l1_loss_backward, ("prediction",), makes=like_prediction),
        Op("huber_loss", huber_loss, huber_loss_backward, ("prediction",), makes=like_prediction),
        Op(
            "softmax_cross_entropy",
            softmax_cross_entropy,
            softmax_cross_entropy_backward,
            ("logits",),
            makes=lambda logits, **rest: [logits.shape],
        ),
        Op("vlb_loss", vlb_loss, vlb_loss_backward, ("output",), keeps=("output", "target", "x0", "steps")),
        Op("sinusoidal_embedding", sinusoidal_embedding),
        Op("dropout_mask", dropout_mask),
        Op("random_normal", random_normal),
        Op("random_uniform", random_uniform),
        Op("adam", adam),
        Op("ema", ema),
        Op("adam_ema", adam_ema),
        Op("global_norm", global_norm),
        Op("clip_by_global_norm", clip_by_global_norm),
    )
}

__all__ = [
    "OPS",
    "Op",
    *(function.__name__ for op in OPS.values() for function in (op.forward, op.backward) if function),
]
