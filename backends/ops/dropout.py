"""Dropout whose mask is drawn from Philox, so that backward and a resumed run see the same one."""

from typing import NamedTuple

from backends.array import Array, DType, Namespace
from backends.ops.analytic import real_part
from backends.ops.philox import random_uniform


class DropoutContext(NamedTuple):
    """What `dropout` keeps: where its mask comes from, which backward draws a second time."""

    rate: float
    seed: int
    stream: int
    step: int
    dtype: DType
    first: int


def dropout_mask(
    xp: Namespace,
    shape: tuple[int, ...],
    rate: float,
    seed: int,
    stream: int,
    step: int,
    dtype: DType | None = None,
    first: int = 0,
) -> tuple[Array, None]:
    """An array of 0 with probability rate and else 1 / (1 - rate); dtype float32 by default. No backward.

    0 <= rate < 1; first: the row of a longer mask at which this one begins. Raises ValueError for another rate, and as
    `random_uniform` does.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"dropout takes a rate in [0, 1), got {rate}")
    dtype = dtype or xp.float32
    u, _ = random_uniform(xp, shape, seed, stream, step, dtype=dtype, first=first)
    return xp.astype(u >= rate, dtype) * (1.0 / (1.0 - rate)), None


def dropout(
    xp: Namespace, x: Array, rate: float, seed: int, stream: int, step: int, first: int = 0
) -> tuple[Array, DropoutContext]:
    """y = x m / (1 - rate), where m is 0 with probability rate and else 1 (Srivastava et al. 2014, section 4).

    x: any shape; 0 <= rate < 1; seed, stream, step, first: of the mask. Returns y of x's shape and ctx for
    `dropout_backward`. Raises ValueError as `dropout_mask` does.
    """
    drawn = DropoutContext(rate, seed, stream, step, real_part(xp, x).dtype, first)
    mask, _ = dropout_mask(xp, x.shape, *drawn)
    return x * mask, drawn


def dropout_backward(xp: Namespace, dy: Array, ctx: DropoutContext) -> tuple[Array]:
    """dx = dy m / (1 - rate); the mask is drawn a second time."""
    mask, _ = dropout_mask(xp, dy.shape, *ctx)
    return (dy * mask,)
