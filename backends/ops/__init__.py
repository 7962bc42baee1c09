"""Every operation once: forward and backward side by side, in plain array-API code.

`OPS` is the one list of them: backends bind it, and the gradient, parity and benchmark loops walk it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backends.ops.activation import silu, silu_backward
from backends.ops.attention import attention, attention_backward, norm_attention, norm_attention_backward
from backends.ops.convolution import conv2d, conv2d_backward
from backends.ops.dropout import dropout, dropout_backward, dropout_mask
from backends.ops.embedding import embedding, embedding_backward, sinusoidal_embedding
from backends.ops.linear import linear, linear_backward
from backends.ops.losses import (
    huber_loss,
    huber_loss_backward,
    l1_loss,
    l1_loss_backward,
    mse_loss,
    mse_loss_backward,
)
from backends.ops.norm_convolution import (
    norm_conv2d,
    norm_conv2d_backward,
    pointwise,
    pointwise_backward,
    upsample_conv2d,
    upsample_conv2d_backward,
)
from backends.ops.normalization import (
    group_norm,
    group_norm_backward,
    group_norm_silu,
    group_norm_silu_backward,
)
from backends.ops.optimizer import adam, clip_by_global_norm, ema
from backends.ops.philox import random_normal, random_uniform
from backends.ops.resampling import (
    add,
    add_backward,
    average_pool,
    average_pool_backward,
    concat_channels,
    concat_channels_backward,
    upsample_nearest,
    upsample_nearest_backward,
)


@dataclass(frozen=True)
class Op:
    """An operation: `forward(xp, ...)`, and where it has one `backward(xp, dy, ctx)`.

    `wrt` names the arguments of forward whose gradients backward returns, in its order.
    """

    name: str
    forward: Callable[..., Any]
    backward: Callable[..., Any] | None = None
    wrt: tuple[str, ...] = ()


OPS: dict[str, Op] = {
    op.name: op
    for op in (
        Op("linear", linear, linear_backward, ("x", "weight", "bias")),
        Op("conv2d", conv2d, conv2d_backward, ("x", "weight", "bias")),
        Op("group_norm", group_norm, group_norm_backward, ("x", "gamma", "beta")),
        Op("silu", silu, silu_backward, ("x",)),
        Op("group_norm_silu", group_norm_silu, group_norm_silu_backward, ("x", "gamma", "beta")),
        Op(
            "norm_conv2d",
            norm_conv2d,
            norm_conv2d_backward,
            ("x", "skip", "gamma", "beta", "weight", "bias", "shift", "residual"),
        ),
        Op("pointwise", pointwise, pointwise_backward, ("x", "skip", "weight", "bias")),
        Op("upsample_conv2d", upsample_conv2d, upsample_conv2d_backward, ("x", "weight", "bias")),
        Op("attention", attention, attention_backward, ("q", "k", "v")),
        Op("norm_attention", norm_attention, norm_attention_backward, ("x", "gamma", "beta", "weight", "bias")),
        Op("upsample_nearest", upsample_nearest, upsample_nearest_backward, ("x",)),
        Op("average_pool", average_pool, average_pool_backward, ("x",)),
        Op("add", add, add_backward, ("a", "b")),
        Op("concat_channels", concat_channels, concat_channels_backward, ("a", "b")),
        Op("dropout", dropout, dropout_backward, ("x",)),
        Op("embedding", embedding, embedding_backward, ("table",)),
        Op("mse_loss", mse_loss, mse_loss_backward, ("prediction",)),
        Op("l1_loss", l1_loss, l1_loss_backward, ("prediction",)),
        Op("huber_loss", huber_loss, huber_loss_backward, ("prediction",)),
        Op("sinusoidal_embedding", sinusoidal_embedding),
        Op("dropout_mask", dropout_mask),
        Op("random_normal", random_normal),
        Op("random_uniform", random_uniform),
        Op("adam", adam),
        Op("ema", ema),
        Op("clip_by_global_norm", clip_by_global_norm),
    )
}

__all__ = [
    "OPS",
    "Op",
    *(function.__name__ for op in OPS.values() for function in (op.forward, op.backward) if function),
]
