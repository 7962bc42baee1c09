"""Launchers of normalization.cu, and the operations that they override."""

import math
from typing import Any, NamedTuple

from backends.backend import Backend
from backends.cupy_kernels.limits import usable
from backends.cupy_kernels.runtime import launch
from backends.cupy_kernels.runtime.compilation import cupy
from backends.cupy_kernels.runtime.launch import (
    THREADS,
    VECTORS,
    Kernel,
    RecordType,
    Template,
    ceil,
    pixels_of,
    vectors,
)
from backends.fallback import unless_reference
from backends.ops.normalization import NormContext

SOURCE = "normalization.cu"
EITHER_WAY = tuple((*template, flag) for template in VECTORS for flag in (False, True))
STATISTICS, NORMALISE, BACKWARD_SUMS, INPUT_GRADIENT = (
    Kernel(SOURCE, name, EITHER_WAY) for name in ("statistics", "normalise", "backward_sums", "input_gradient")
)
FINISH_STATISTICS = Kernel(SOURCE, "finish_statistics", (("float",), ("bf16",)))
FINISH_SUMS = Kernel(SOURCE, "finish_sums")
NORM = RecordType("images pixels first second groups chunk slab")
WIDTHS = RecordType("first second")

WARPS = THREADS // 32
# Channels next to each other that a block takes at least: 128 bytes, a line of the cache; where a block must see all
# pixels, half of it, for twice the blocks
NEIGHBOURS, FEWEST = 32, 16
# Pixels of a thread at least, if there are enough, and blocks to aim at on each multiprocessor
PIXELS, BLOCKS = 2, 4
# Images: the grid's z ends there
MOST_IMAGES = 65535


class Normalised(NamedTuple):
    """A normalisation of [x, skip]: gamma, beta: (C,); mean, rstd: (N, G); mask: (N, ..., C) or None; silu: or not."""

    x: Any
    skip: Any
    gamma: Any
    beta: Any
    mean: Any
    rstd: Any
    mask: Any = None
    silu: bool = True


class Shares(NamedTuple):
    """How a launch is shared out among blocks."""

    record: Any
    grid: tuple[int, int, int]
    template: Template
    whole: bool  # a block sees all pixels of whole groups

    @property
    def chunks(self) -> int:
        """How many chunks each image's pixels are cut into."""
        return self.grid[0]


def channels_of(x: Any, skip: Any) -> tuple[int, int]:
    """How many channels x and skip have."""
    return x.shape[-1], 0 if skip is None else skip.shape[-1]


def shares(x: Any, skip: Any, groups: int, arrays: tuple[Any, ...] = (), statistics: bool = False) -> Shares:
    """How [x, skip] is shared out. arrays: others of their channels; statistics: whether the blocks should be whole."""
    first, second = channels_of(x, skip)
    divisor = math.gcd(first, second, *(a.shape[-1] for a in arrays if a is not None))
    template = vectors(x, divisor, *(a for a in (skip, *arrays) if a is not None))
    vector, channels, images, pixels = template[1], first + second, x.shape[0], pixels_of(x)
    count = launch.multiprocessors(cupy())
    step = math.lcm(channels // groups, vector)
    slab = min(channels, step * ceil(FEWEST, step))
    enough = 4 * ceil(channels, slab) * images >= 3 * count or pixels <= THREADS
    whole = statistics and slab // vector <= THREADS and enough
    if not whole:
        slab = min(channels, vector * ceil(NEIGHBOURS, vector))
    rows = THREADS // (slab // vector)
    most = 1 if whole else ceil(pixels, rows * PIXELS)
    chunk = ceil(pixels, max(1, min(most, ceil(BLOCKS * count, ceil(channels, slab) * images))))
    sizes = {"images": images, "pixels": pixels, "first": first, "second": second, "groups": groups}
    grid = ceil(pixels, chunk), ceil(channels, slab), images
    return Shares(NORM(**sizes, chunk=chunk, slab=slab), grid, template, whole)


# Guards


def are_floats(*arrays: Any) -> bool:
    """Whether all that are given are usable, and float32."""
    return usable(*arrays) and all(a is None or a.dtype.name == "float32" for a in arrays)


def fits_group_norm(x: Any, gamma: Any, beta: Any, groups: int, *rest: Any, **more: Any) -> bool:
    fits = usable(x) and are_floats(gamma, beta) and x.ndim >= 2 and x.shape[0] <= MOST_IMAGES
    fits = fits and gamma.shape == beta.shape == (x.shape[-1],)
    return fits and groups >= 1 and x.shape[-1] % groups == 0


def fits_group_norm_backward(dy: Any, ctx: Any) -> bool:
    x, gamma, beta, mean, rstd = ctx
    fits = usable(dy, x) and are_floats(mean, rstd) and dy.shape == x.shape
    return fits and fits_group_norm(x, gamma, beta, mean.shape[1])


class Normalization(Backend):
    """Group normalisation, also of what other operations normalise in passing."""

    def norm_statistics(self, x: Any, skip: Any, groups: int, eps: float) -> tuple[Any, Any]:
        """mean and rstd (N, G) of [x, skip]; skip may be None."""
        mean, rstd = (self.xp.empty((x.shape[0], groups), "float32") for _ in range(2))
        by = shares(x, skip, groups, statistics=True)
        partial = None
        if not by.whole:
            partial = self.xp.empty((x.shape[0], by.chunks, sum(channels_of(x, skip)), 2), "float32")
        STATISTICS.run(by.grid, x, skip, mean, rstd, partial, by.record, eps, template=(*by.template, by.whole))
        if not by.whole:
            grid, template = (ceil(mean.size, WARPS),), by.template[:1]
            FINISH_STATISTICS.run(grid, x, skip, partial, mean, rstd, by.record, eps, template=template)
        return mean, rstd

    def normalised(self, norm: Normalised) -> Any:
        """The result (N, ..., C) of a normalisation, from its statistics."""
        x, skip, gamma, beta, mean, rstd, mask, silu = norm
        y = self.xp.empty((*x.shape[:-1], gamma.size), x.dtype)
        by = shares(x, skip, mean.shape[1], (mask, y))
        NORMALISE.run(by.grid, x, skip, gamma, beta, mean, rstd, mask, y, by.record, template=(*by.template, silu))
        return y

    def through_norm(
        self, dy: tuple[Any, Any], norm: Normalised, out: tuple[Any, Any], more: Any = None
    ) -> tuple[Any, Any]:
        """(dgamma, dbeta); writes the gradient of x, plus `more`, and that of skip to `out`.

        dy: the gradient of the result, in one part and None, or in the two parts of [x, skip]. Each of `out` may be the
        array of dy's part, and the first that of `more`.
        """
        x, skip, gamma, beta, mean, rstd, mask, silu = norm
        by = shares(x, skip, mean.shape[1], (*dy, *out, mask, more))
        partial = self.xp.empty((x.shape[0], by.chunks, gamma.size, 2), "float32")
        means = self.xp.empty((*mean.shape, 2), "float32")
        dgamma, dbeta = (self.xp.empty(gamma.shape, "float32") for _ in range(2))
        first, second = channels_of(*dy)
        common = (*dy, WIDTHS(first=first, second=second), x, skip, gamma, beta, mean, rstd, mask)
        BACKWARD_SUMS.run(by.grid, *common, partial, by.record, template=(*by.template, silu))
        sums = mean.size + gamma.size
        FINISH_SUMS.run((ceil(sums, WARPS),), partial, gamma, means, dgamma, dbeta, by.record)
        INPUT_GRADIENT.run(by.grid, *common, means, more, *out, by.record, template=(*by.template, silu))
        return dgamma, dbeta

    def norm_forward(self, x: Any, gamma: Any, beta: Any, groups: int, eps: float, silu: bool) -> tuple[Any, Any]:
        """y and ctx of `group_norm` and `group_norm_silu`."""
        mean, rstd = self.norm_statistics(x, None, groups, eps)
        y = self.normalised(Normalised(x, None, gamma, beta, mean, rstd, silu=silu))
        return y, NormContext(x, gamma, beta, mean, rstd)

    def norm_backward(self, dy: Any, ctx: Any, silu: bool) -> tuple[Any, Any, Any]:
        """The gradients of both."""
        x, gamma, beta, mean, rstd = ctx
        dx = self.xp.empty_like(x)
        norm = Normalised(x, None, gamma, beta, mean, rstd, silu=silu)
        return dx, *self.through_norm((dy, None), norm, (dx, None))

    @unless_reference(fits_group_norm)
    def group_norm(self, x: Any, gamma: Any, beta: Any, groups: int, eps: float = 1e-5) -> tuple[Any, Any]:
        return self.norm_forward(x, gamma, beta, groups, eps, False)

    @unless_reference(fits_group_norm_backward)
    def group_norm_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        return self.norm_backward(dy, ctx, False)

    @unless_reference(fits_group_norm)
    def group_norm_silu(self, x: Any, gamma: Any, beta: Any, groups: int, eps: float = 1e-5) -> tuple[Any, Any]:
        return self.norm_forward(x, gamma, beta, groups, eps, True)

    @unless_reference(fits_group_norm_backward)
    def group_norm_silu_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        return self.norm_backward(dy, ctx, True)
