"""Launchers of embedding.cu, and the operations that they override."""

import math
from typing import Any

import numpy as np

from backends.backend import Backend
from backends.cupy_kernels.limits import MOST, on_device, usable
from backends.cupy_kernels.runtime.launch import Kernel, element, grid_over
from backends.fallback import unless_reference

SOURCE = "embedding.cu"
TAKE, TAKE_BACKWARD = (Kernel(SOURCE, name, (("float",), ("bf16",))) for name in ("take", "take_backward"))
TIMES = {"int64": "long long", "float64": "double", "float32": "float"}
MADE = {"float32": "float", "float64": "double"}
SINUSOIDS = Kernel(SOURCE, "sinusoids", tuple((time, made) for time in TIMES.values() for made in MADE.values()))


def take(table: Any, indices: Any, y: Any) -> None:
    """y (N, C) = rows of the table (V, C) by indices (N,); NaN for one outside [0, V)."""
    TAKE.run(grid_over(y.size), table, indices, y, y.size, *table.shape, template=(element(table),))


def take_backward(dy: Any, indices: Any, dtable: Any) -> None:
    """dtable (V, C) from dy (N, C)."""
    size, channels = dtable.size, dtable.shape[1]
    TAKE_BACKWARD.run(grid_over(size), dy, indices, dtable, size, indices.size, channels, template=(element(dy),))


def sinusoids(t: Any, out: Any, rate: float, cos_first: bool) -> None:
    """out (N, D) = cosines and sines of t_n exp(rate i)."""
    dim = out.shape[1]
    count, template = t.size * (dim // 2 + dim % 2), (TIMES[t.dtype.name], MADE[out.dtype.name])
    SINUSOIDS.run(grid_over(count), t, out, count, dim, int(cos_first), np.float64(rate), template=template)


# Guards


def fits_embedding(table: Any, indices: Any) -> bool:
    """Whether each index names a row would have to be read back from the device: another one gives NaNs."""
    fits = usable(table) and table.ndim == 2 and are_labels(indices)
    return fits and indices.size * table.shape[1] <= MOST


def fits_embedding_backward(dy: Any, ctx: tuple[Any, Any]) -> bool:
    table, indices = ctx
    return fits_embedding(table, indices) and usable(dy, table) and dy.shape == (indices.size, table.shape[1])


def are_labels(indices: Any) -> bool:
    return bool(
        on_device(indices)
        and indices.dtype == np.int64
        and indices.ndim == 1
        and indices.size > 0
        and indices.flags.c_contiguous
    )


def fits_sinusoidal_embedding(
    t: Any,
    dim: int,
    max_period: float = 10000.0,
    frequency_shift: float = 0.0,
    cos_first: bool = True,
    dtype: Any = None,
) -> bool:
    fits = on_device(t) and t.dtype.name in TIMES and t.ndim == 1 and t.flags.c_contiguous
    fits = fits and 0 < t.size * dim <= MOST and dim // 2 > frequency_shift
    return fits and np.dtype(dtype or np.float32).name in MADE


class Embedding(Backend):
    """Labels and timesteps as vectors."""

    @unless_reference(fits_embedding)
    def embedding(self, table: Any, indices: Any) -> tuple[Any, tuple[Any, Any]]:
        y = self.xp.empty((indices.size, table.shape[1]), table.dtype)
        take(table, indices, y)
        return y, (table, indices)

    @unless_reference(fits_embedding_backward)
    def embedding_backward(self, dy: Any, ctx: tuple[Any, Any]) -> tuple[Any]:
        table, indices = ctx
        dtable = self.xp.empty(table.shape, dy.dtype)
        take_backward(dy, indices, dtable)
        return (dtable,)

    @unless_reference(fits_sinusoidal_embedding)
    def sinusoidal_embedding(
        self,
        t: Any,
        dim: int,
        max_period: float = 10000.0,
        frequency_shift: float = 0.0,
        cos_first: bool = True,
        dtype: Any = None,
    ) -> tuple[Any, None]:
        out = self.xp.empty((t.size, dim), np.dtype(dtype or np.float32))
        sinusoids(t, out, -math.log(max_period) / (dim // 2 - frequency_shift), cos_first)
        return out, None
