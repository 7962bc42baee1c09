"""Hypothesis strategies: shapes, arrays, images, channels in groups and in heads.

Hypothesis draws shapes, options and one seed; NumPy fills the arrays from the seed with normal numbers. These keep
clear of kinks (r = 0, |r| = delta) with probability one, and a failing example shrinks by its shape.
"""

from typing import Any

import numpy as np
from hypothesis import strategies as st

# The arguments of an operation's forward by name, less the namespace
Arguments = dict[str, Any]
Shape = tuple[int, ...]

SEEDS = st.integers(0, 2**32 - 1)


class Normal:
    """Normal numbers from one drawn seed: `normal = Normal(draw)`, then `normal(3, 4)` is a float64 array (3, 4)."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.rng = np.random.default_rng([0, draw(SEEDS)])

    def __call__(self, *shape: int) -> np.ndarray:
        return np.asarray(self.rng.standard_normal(shape))


def directions(seed: int) -> np.random.Generator:
    """A generator for cotangents and directions: for no seed the one that filled a case's arrays."""
    return np.random.default_rng([1, seed])


def size(draw: st.DrawFn, low: int, high: int) -> int:
    """A whole number from low to high, both included."""
    return draw(st.integers(low, high))


@st.composite
def shapes(draw: st.DrawFn, axes: tuple[int, int] = (0, 4), sides: tuple[int, int] = (1, 5)) -> Shape:
    """Shapes with axes[0] to axes[1] axes of sides[0] to sides[1]."""
    return tuple(size(draw, *sides) for _ in range(size(draw, *axes)))


@st.composite
def arrays(draw: st.DrawFn, shape: Shape | st.SearchStrategy[Shape] | None = None, offset: float = 0.0) -> np.ndarray:
    """Normal numbers about `offset`, float64, of a shape, of a strategy's shapes, or of any that `shapes()` draws."""
    if shape is None:
        shape = shapes()
    drawn = draw(shape) if isinstance(shape, st.SearchStrategy) else shape
    return np.asarray(Normal(draw)(*drawn) + offset)


@st.composite
def image_shapes(
    draw: st.DrawFn,
    *,
    most: int = 3,
    sides: tuple[int, int] = (1, 4),
    channels: st.SearchStrategy[int] | None = None,
    multiple: int = 1,
) -> Shape:
    """Shapes (N, H, W, C): up to `most` images, H and W `multiple` times what `sides` bound, 1 to 4 channels or as
    the strategy draws. Oblong, odd and single pixels among them."""
    n, h, w = size(draw, 1, most), size(draw, *sides), size(draw, *sides)
    return n, multiple * h, multiple * w, draw(st.integers(1, 4) if channels is None else channels)


def images(**limits: Any) -> st.SearchStrategy[np.ndarray]:
    """Images (N, H, W, C) of normal numbers, float64; limits: as those of `image_shapes`."""
    return arrays(image_shapes(**limits))


@st.composite
def channels_in_groups(
    draw: st.DrawFn, groups: tuple[int, int] = (1, 4), width: tuple[int, int] = (1, 4)
) -> tuple[int, int]:
    """(channels, groups), where groups divides channels: `width` bounds the channels of one group."""
    count = size(draw, *groups)
    return count * size(draw, *width), count


@st.composite
def channels_in_heads(
    draw: st.DrawFn, heads: tuple[int, int] = (1, 4), width: tuple[int, int] = (1, 5)
) -> tuple[int, int]:
    """(channels, num_heads), where num_heads divides channels: `width` bounds the channels of one head."""
    return draw(channels_in_groups(heads, width))
