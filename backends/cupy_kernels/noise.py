"""Launchers of noise.cu, and the operations that they override."""

import math
from typing import Any

import numpy as np

from backends.backend import Backend
from backends.cupy_kernels.limits import MOST, on_device, usable
from backends.cupy_kernels.runtime.launch import Kernel, ceil, element, grid_over
from backends.fallback import unless_reference
from backends.ops.dropout import DropoutContext
from backends.ops.philox import MASK, MOST_NUMBERS, row_size

SOURCE = "noise.cu"
# Numbers are made in these; float64 for parameters, which are drawn in it
MADE = {"float32": "float", "float64": "double"}
UNIFORM, NORMAL = (
    Kernel(SOURCE, name, tuple((element,) for element in MADE.values())) for name in ("random_uniform", "random_normal")
)
# The element type, and that in which the mask is compared and multiplied
DROPOUT = Kernel(SOURCE, "dropout", (("float", "float"), ("bf16", "float"), ("double", "double")))


def words(shape: tuple[int, ...], seed: int, stream: int, step: Any, first: Any) -> tuple[Any, ...]:
    """What an array's numbers depend on, as kernels take it; a step or a first row in device memory stays there."""
    fixed, steps = (0, step) if on_device(step) else (step, None)
    row, firsts = (0, first) if on_device(first) else (first, None)
    key = (np.uint32(word) for word in (seed & MASK, seed >> 32, stream, fixed))
    return *key, steps, row_size(shape), np.int64(row), firsts


def draw(kernel: Kernel, y: Any, seed: int, stream: int, step: Any, first: Any) -> None:
    """y becomes `random_uniform` or `random_normal` of its shape."""
    kernel.run(grid_of(y.size), y, y.size, *words(y.shape, seed, stream, step, first), template=(MADE[y.dtype.name],))


def drop(x: Any, y: Any, rate: float, seed: int, stream: int, step: Any, first: Any) -> None:
    """y = x times its mask, or the mask alone where x is None."""
    template = ("double", "double") if y.dtype == np.float64 else (element(y), "float")
    real = np.float64 if y.dtype == np.float64 else np.float32
    numbers = real(rate), real(1.0 / (1.0 - rate))
    DROPOUT.run(grid_of(y.size), x, y, y.size, *words(y.shape, seed, stream, step, first), *numbers, template=template)


def grid_of(count: int) -> tuple[int]:
    """Blocks of threads that make four numbers each; one, without work, for none. The first four may begin before."""
    return grid_over(max(1, ceil(count + 3, 4)))


# Guards


def is_step(step: Any) -> bool:
    """Whether this is an int of 32 bits, or one int64 in device memory, which a graph reads at each replay."""
    if on_device(step):
        return bool(step.shape == () and step.dtype == np.int64)
    return bool(0 <= step < 1 << 32)


def is_first(shape: tuple[int, ...], first: Any) -> bool:
    """Whether an array of this shape may begin at this row, an int, or one int64 in device memory."""
    if row_size(shape) > MOST:
        return False
    if on_device(first):
        return bool(first.shape == () and first.dtype == np.int64)
    return bool(0 <= first < MOST_NUMBERS and first * row_size(shape) <= MOST_NUMBERS - math.prod(shape))


def fits_noise(shape: tuple[int, ...], seed: int, stream: int, step: int, dtype: Any = None, first: int = 0) -> bool:
    in_range = 0 <= seed < 1 << 64 and 0 <= stream < 1 << 32 and is_step(step) and is_first(shape, first)
    return in_range and math.prod(shape) <= MOST and np.dtype(dtype or np.float32).name in MADE


def fits_dropout_mask(
    shape: tuple[int, ...], rate: float, seed: int, stream: int, step: int, dtype: Any = None, first: int = 0
) -> bool:
    return 0 <= rate < 1 and fits_noise(shape, seed, stream, step, dtype, first)


def fits_dropout(x: Any, rate: float, seed: int, stream: int, step: int, first: int = 0) -> bool:
    fits = usable(x) and x.data.ptr % 16 == 0
    return fits and fits_dropout_mask(x.shape, rate, seed, stream, step, first=first)


def fits_dropout_backward(dy: Any, ctx: DropoutContext) -> bool:
    return fits_dropout(dy, ctx.rate, ctx.seed, ctx.stream, ctx.step, ctx.first) and ctx.dtype == dy.dtype


class Noise(Backend):
    """Random numbers, and dropout by them."""

    @unless_reference(fits_noise)
    def random_normal(
        self, shape: tuple[int, ...], seed: int, stream: int, step: int, dtype: Any = None, first: int = 0
    ) -> tuple[Any, None]:
        y = self.xp.empty(shape, np.dtype(dtype or np.float32))
        draw(NORMAL, y, seed, stream, step, first)
        return y, None

    @unless_reference(fits_noise)
    def random_uniform(
        self, shape: tuple[int, ...], seed: int, stream: int, step: int, dtype: Any = None, first: int = 0
    ) -> tuple[Any, None]:
        y = self.xp.empty(shape, np.dtype(dtype or np.float32))
        draw(UNIFORM, y, seed, stream, step, first)
        return y, None

    @unless_reference(fits_dropout_mask)
    def dropout_mask(
        self, shape: tuple[int, ...], rate: float, seed: int, stream: int, step: int, dtype: Any = None, first: int = 0
    ) -> tuple[Any, None]:
        y = self.xp.empty(shape, np.dtype(dtype or np.float32))
        drop(None, y, rate, seed, stream, step, first)
        return y, None

    @unless_reference(fits_dropout)
    def dropout(
        self, x: Any, rate: float, seed: int, stream: int, step: int, first: int = 0
    ) -> tuple[Any, DropoutContext]:
        y = self.xp.empty_like(x)
        drop(x, y, rate, seed, stream, step, first)
        return y, DropoutContext(rate, seed, stream, step, x.dtype, first)

    @unless_reference(fits_dropout_backward)
    def dropout_backward(self, dy: Any, ctx: DropoutContext) -> tuple[Any]:
        dx = self.xp.empty_like(dy)
        drop(dy, dx, ctx.rate, ctx.seed, ctx.stream, ctx.step, ctx.first)
        return (dx,)
