"""Embeddings: of labels by a table, of timesteps by sinusoids."""

import math

from backends.array import Array, DType, Namespace


def embedding(xp: Namespace, table: Array, indices: Array) -> tuple[Array, tuple[Array, Array]]:
    """Rows of a table. table: (V, C), indices: (N,) integers in [0, V). Returns (N, C) and ctx."""
    return xp.take(table, indices, axis=0), (table, indices)


def embedding_backward(xp: Namespace, dy: Array, ctx: tuple[Array, Array]) -> tuple[Array]:
    """dtable (V, C): each row the sum of dy (N, C) where it was used, as a product with the one-hot matrix."""
    table, indices = ctx
    rows = xp.arange(table.shape[0], dtype=indices.dtype)
    one_hot = xp.astype(rows[:, None] == indices[None, :], dy.dtype)
    return (one_hot @ dy,)


def sinusoidal_embedding(
    xp: Namespace,
    t: Array,
    dim: int,
    max_period: float = 10000.0,
    frequency_shift: float = 0.0,
    cos_first: bool = True,
    dtype: DType | None = None,
) -> tuple[Array, None]:
    """Sines and cosines of t at geometrically spaced frequencies (Vaswani et al. 2017, section 3.5).

    t: (N,) timesteps, integer or float. With h = dim // 2, frequency i is max_period^(-i / (h - frequency_shift)):
    codes differ in the shift (0 or 1) and in whether the cosines come first. Returns (N, dim), by
    default float32; an odd dim ends in a zero. Computed in float64. No backward: t carries no gradient.
    Raises ValueError where h - frequency_shift is not positive.
    """
    half = dim // 2
    if not half - frequency_shift > 0:
        raise ValueError(f"a sinusoidal embedding needs dim // 2 > frequency_shift, got {dim} and {frequency_shift}")
    steps = xp.arange(half, dtype=xp.float64)
    frequencies = xp.exp(steps * (-math.log(max_period) / (half - frequency_shift)))
    angles = xp.astype(t, xp.float64)[:, None] * frequencies[None, :]
    halves = [xp.cos(angles), xp.sin(angles)] if cos_first else [xp.sin(angles), xp.cos(angles)]
    if dim % 2:
        halves.append(xp.zeros((t.shape[0], 1), dtype=xp.float64))
    return xp.astype(xp.concat(halves, axis=-1), dtype or xp.float32), None
