"""Launchers of resampling.cu, and the operations that they override."""

from typing import Any

from backends.backend import Backend
from backends.cupy_kernels.limits import MOST, are_images
from backends.cupy_kernels.runtime.launch import VECTORS, Kernel, grid_over, vectors
from backends.fallback import unless_reference

SPREAD, GATHER = (Kernel("resampling.cu", name, VECTORS) for name in ("spread", "gather"))


def over_squares(kernel: Kernel, source: Any, target: Any, factor: float, small: Any) -> None:
    """`spread` or `gather`; small: which of the two is the small one."""
    template = vectors(source, source.shape[-1], target)
    count, row = small.size // template[1], small.shape[-1] // template[1]
    kernel.run(grid_over(count), source, target, factor, count, row, small.shape[2] * row, template=template)


def fits_small(x: Any) -> bool:
    return are_images(x) and 4 * x.size <= MOST


def fits_small_gradient(dy: Any, ctx: None) -> bool:
    return fits_small(dy)


def fits_large(x: Any) -> bool:
    return are_images(x) and x.shape[1] % 2 == x.shape[2] % 2 == 0


def fits_large_gradient(dy: Any, ctx: None) -> bool:
    return fits_large(dy)


class Resampling(Backend):
    """Nearest up-sampling by two, and the mean of squares."""

    def spread(self, small: Any, factor: float) -> Any:
        """All four pixels of each square = factor times small: (N, H, W, C) -> (N, 2H, 2W, C)."""
        n, h, w, c = small.shape
        large = self.xp.empty((n, 2 * h, 2 * w, c), small.dtype)
        over_squares(SPREAD, small, large, factor, small)
        return large

    def gather(self, large: Any, factor: float) -> Any:
        """factor times the sum of each square: (N, 2H, 2W, C) -> (N, H, W, C)."""
        n, h, w, c = large.shape
        small = self.xp.empty((n, h // 2, w // 2, c), large.dtype)
        over_squares(GATHER, large, small, factor, small)
        return small

    @unless_reference(fits_small)
    def upsample_nearest(self, x: Any) -> tuple[Any, None]:
        return self.spread(x, 1.0), None

    @unless_reference(fits_large_gradient)
    def upsample_nearest_backward(self, dy: Any, ctx: None) -> tuple[Any]:
        return (self.gather(dy, 1.0),)

    @unless_reference(fits_large)
    def average_pool(self, x: Any) -> tuple[Any, None]:
        return self.gather(x, 0.25), None

    @unless_reference(fits_small_gradient)
    def average_pool_backward(self, dy: Any, ctx: None) -> tuple[Any]:
        return (self.spread(dy, 0.25),)
