"""Launchers of elementwise.cu, and the operations that they override."""

import math
from typing import Any

from backends.backend import Backend
from backends.cupy_kernels.limits import are_images, usable
from backends.cupy_kernels.runtime.launch import VECTORS, Kernel, ceil, element, grid_over, pixels_of, vectors
from backends.fallback import unless_reference

SOURCE = "elementwise.cu"
ADD, SILU, SILU_BACKWARD, ADD_SHIFT, JOIN, SPLIT = (
    Kernel(SOURCE, name, VECTORS) for name in ("add", "silu", "silu_backward", "add_shift", "join", "split")
)
SUM_PIXELS = Kernel(SOURCE, "sum_pixels", (("float",), ("bf16",)), threads=512)

# Launchers: each writes its last argument or two


def over_elements(kernel: Kernel, *arrays: Any) -> None:
    """A kernel over arrays of one shape, the last of which it writes."""
    template = vectors(arrays[0], arrays[0].size, *arrays[1:])
    count = arrays[0].size // template[1]
    kernel.run(grid_over(count), *arrays, count, template=template)


def add_shift(x: Any, shift: Any, y: Any) -> None:
    """y = x (N, ..., C) + shift (N, C) at every pixel."""
    template = vectors(x, x.shape[-1], shift, y)
    count, row = x.size // template[1], x.shape[-1] // template[1]
    ADD_SHIFT.run(grid_over(count), x, shift, y, count, row, row * pixels_of(x), template=template)


def sum_pixels(x: Any, out: Any) -> None:
    """out (N, C) = sum over the pixels of x (N, ..., C), in a fixed order."""
    n, c = out.shape
    SUM_PIXELS.run((n, ceil(c, 32)), x, out, pixels_of(x), c, template=(element(x),), block=(32, 16))


def over_joint(kernel: Kernel, a: Any, b: Any, joined: Any, *args: Any) -> None:
    """`join` or `split`, with the arrays in the kernel's order."""
    of_a, of_b = a.shape[-1], b.shape[-1]
    template = vectors(joined, math.gcd(of_a, of_b), a, b)
    n = template[1]
    kernel.run(grid_over(joined.size // n), *args, joined.size // n, of_a // n, of_b // n, template=template)


# Guards


def fits_silu(x: Any) -> bool:
    return usable(x)


def fits_silu_backward(dy: Any, ctx: Any) -> bool:
    return usable(dy, ctx) and dy.shape == ctx.shape


def fits_add(a: Any, b: Any) -> bool:
    return usable(a, b) and a.shape == b.shape


def fits_add_shift(x: Any, shift: Any) -> bool:
    return are_images(x) and usable(x, shift) and shift.shape == (x.shape[0], x.shape[-1])


def fits_images(dy: Any, ctx: Any) -> bool:
    return are_images(dy)


def fits_concat_channels(a: Any, b: Any) -> bool:
    return are_images(a, b) and a.shape[:-1] == b.shape[:-1]


def fits_concat_channels_backward(dy: Any, ctx: Any) -> bool:
    return are_images(dy) and 0 < ctx < dy.shape[-1]


class Elementwise(Backend):
    """SiLU, sums, shifts, joined channels."""

    @unless_reference(fits_silu)
    def silu(self, x: Any) -> tuple[Any, Any]:
        y = self.xp.empty_like(x)
        over_elements(SILU, x, y)
        return y, x

    @unless_reference(fits_silu_backward)
    def silu_backward(self, dy: Any, ctx: Any) -> tuple[Any]:
        dx = self.xp.empty_like(dy)
        over_elements(SILU_BACKWARD, dy, ctx, dx)
        return (dx,)

    @unless_reference(fits_add)
    def add(self, a: Any, b: Any) -> tuple[Any, None]:
        y = self.xp.empty_like(a)
        over_elements(ADD, a, b, y)
        return y, None

    @unless_reference(fits_add_shift)
    def add_shift(self, x: Any, shift: Any) -> tuple[Any, None]:
        y = self.xp.empty_like(x)
        add_shift(x, shift, y)
        return y, None

    @unless_reference(fits_images)
    def add_shift_backward(self, dy: Any, ctx: None) -> tuple[Any, Any]:
        dshift = self.xp.empty((dy.shape[0], dy.shape[-1]), dy.dtype)
        sum_pixels(dy, dshift)
        return dy, dshift

    @unless_reference(fits_concat_channels)
    def concat_channels(self, a: Any, b: Any) -> tuple[Any, int]:
        y = self.xp.empty((*a.shape[:-1], a.shape[-1] + b.shape[-1]), a.dtype)
        over_joint(JOIN, a, b, y, a, b, y)
        return y, a.shape[-1]

    @unless_reference(fits_concat_channels_backward)
    def concat_channels_backward(self, dy: Any, ctx: int) -> tuple[Any, Any]:
        da, db = (self.xp.empty((*dy.shape[:-1], c), dy.dtype) for c in (ctx, dy.shape[-1] - ctx))
        over_joint(SPLIT, da, db, dy, dy, da, db)
        return da, db
