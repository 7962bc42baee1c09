"""Where pixels, taps and tiles of a convolution lie: the Python side of convolution.cuh, which explains it.

A `Geometry` says what is computed; `tiled` cuts it into tiles; `record` is what kernels get. All are numbers alone, so
that they are worked out once for each shape.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np

from backends.ops.convolution import Padding, output_size

FIELDS = """images height width first second out_height out_width one two in_step out_step tile_images tile_rows
tile_columns tiles_down tiles_across halo_rows halo_columns slots vector_weights pairs groups group_width"""
# Rows and columns of a halo, as a packed place has room for them
LONGEST = 1023


def ceil(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


class Phase(NamedTuple):
    """Output pixels (r out_step + row, c out_step + column), and the taps that they see."""

    down: int
    right: int
    top: int
    left: int
    tap: int
    tap_down: int
    tap_right: int
    row: int = 0
    column: int = 0


PHASE = np.dtype([(name, np.int32) for name in Phase._fields])
CONV = np.dtype([*((name, np.int32) for name in FIELDS.split()), ("phase", PHASE, 4)])


@dataclass(frozen=True)
class Geometry:
    """What a kernel computes.

    image: (N, H, W) of the input, channels: of x and of skip; out: (height, width) of the output, outputs: channels of
    y and of a second array; steps: of the input's and of the output's pixels.
    """

    image: tuple[int, int, int]
    channels: tuple[int, int]
    out: tuple[int, int]
    outputs: tuple[int, int]
    steps: tuple[int, int]
    phases: tuple[Phase, ...]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of output pixels of a phase, at most."""
        return ceil(self.out[0], self.steps[1]), ceil(self.out[1], self.steps[1])

    @property
    def window(self) -> tuple[int, int]:
        """Rows and columns of taps, at most."""
        return max(p.down for p in self.phases), max(p.right for p in self.phases)

    @property
    def is_row(self) -> bool:
        """Whether it is a product for each of a row of pixels, as `flat` makes it."""
        return self.image[:2] == (1, 1) and self.out[0] == 1 and self.window == self.steps == (1, 1)

    @property
    def taps(self) -> int:
        """The pixels of all phases together."""
        return sum(p.down * p.right for p in self.phases)


class Tiling(NamedTuple):
    """Tiles of output pixels, how many there are along an image, and what one sees of an image."""

    images: int
    rows: int
    columns: int
    down: int
    across: int
    halo_rows: int
    halo_columns: int

    @property
    def halo(self) -> int:
        """Pixels that a tile sees."""
        return self.images * self.halo_rows * self.halo_columns

    def count(self, images: int) -> int:
        """The tiles in `images` images."""
        return ceil(images, self.images) * self.down * self.across


@lru_cache(maxsize=4096)
def tiled(geometry: Geometry, pixels: int, window: tuple[int, int]) -> Tiling:
    """The fewest tiles of at most `pixels` pixels, and of those the ones that see least.

    window: rows and columns of taps that a block has at once.
    """
    (n, _, _), (height, width), step = geometry.image, geometry.grid, geometry.steps[0]
    choices = []
    for longest in range(min(width, pixels, LONGEST), 0, -1):
        across = ceil(width, longest)
        columns = ceil(width, across)
        down = ceil(height, min(pixels // columns, height, LONGEST))
        rows = ceil(height, down)
        images = min(pixels // (rows * columns), n, LONGEST) if down == across == 1 else 1
        see = (step * (rows - 1) + max(1, window[0]), step * (columns - 1) + max(1, window[1]))
        if max(see) <= LONGEST:
            choices.append(Tiling(images, rows, columns, down, across, *see))
    return min(choices, key=lambda tiling: (tiling.count(n), tiling.halo))


@lru_cache(maxsize=4096)
def patched(geometry: Geometry, patches: int) -> Tiling:
    """Tiles of `patches` patches of 8 x 8 pixels, below one another as far as an image reaches; of a row of pixels
    (`flat`), of 64 each."""
    (height, width), step = geometry.grid, geometry.steps[0]
    if geometry.is_row:
        return Tiling(1, 1, 64 * patches, 1, ceil(width, 64 * patches), 1, 64 * patches)
    down = max(p for p in range(1, patches + 1) if patches % p == 0 and (p == 1 or p <= ceil(height, 8)))
    see = step * (8 * down - 1) + max(1, geometry.window[0]), step * 7 + max(1, geometry.window[1])
    return Tiling(patches // down, 8 * down, 8, ceil(height, 8 * down), ceil(width, 8), *see)


def record(
    geometry: Geometry, tiling: Tiling, slots: int, vector_weights: bool, pairs: bool, groups: int = 0
) -> np.ndarray:
    """The kernel's argument `Conv`, an array () that CuPy passes by value. groups: of a normalisation of the input."""
    n, h, w = geometry.image
    sizes = (n, h, w, *geometry.channels, *geometry.out, *geometry.outputs, *geometry.steps, *tiling)
    phases = [*geometry.phases, *[Phase(*[0] * 9)] * (4 - len(geometry.phases))]
    width = sum(geometry.channels) // max(1, groups)
    return np.array((*sizes, slots, vector_weights, pairs, groups, width, [tuple(p) for p in phases]), CONV)


def plain(shape: tuple[int, ...], second: int, weight: tuple[int, ...], stride: int, sides: Padding) -> Geometry:
    """A convolution.

    shape: (N, H, W, C) of x; second: channels of what is joined to it; weight: (kh, kw, C + second, K).
    """
    n, h, w, c = shape
    kh, kw = weight[:2]
    out = output_size(h, kh, stride, *sides[:2]), output_size(w, kw, stride, *sides[2:])
    phase = Phase(kh, kw, sides[0], sides[2], 0, kw, 1)
    return Geometry((n, h, w), (c, second), out, (weight[3], 0), (stride, 1), (phase,))


def upsampled(shape: tuple[int, ...], weight: tuple[int, ...]) -> Geometry:
    """A 3 x 3 convolution of the image that is twice as large, with the weights of `sum_taps`, (4, 4, C, K)."""
    n, h, w, c = shape
    parities = [(p, q) for p in range(2) for q in range(2)]
    phases = tuple(Phase(2, 2, 1 - p, 1 - q, (3 - p) * 4 + 3 - q, -8, -2, p, q) for p, q in parities)
    return Geometry((n, h, w), (c, 0), (2 * h, 2 * w), (weight[3], 0), (1, 2), phases)


def flat(geometry: Geometry) -> Geometry:
    """The same, all pixels of all images in one row, if that is the same: a product of matrices."""
    single = len(geometry.phases) == 1 and geometry.phases[0][:4] == (1, 1, 0, 0) and geometry.steps == (1, 1)
    if not single or geometry.image[1:] != geometry.out:
        return geometry
    pixels = prod(geometry.image)
    return Geometry((1, 1, pixels), geometry.channels, (1, pixels), geometry.outputs, (1, 1), geometry.phases)


def gradient(forward: Geometry) -> Geometry:
    """The input's gradient: dy is the input, dx (and dskip) the outputs; weights as they are, read by columns.

    Each parity of dx's rows and columns meets its own taps of a stride of 2, in reverse. Raises ValueError for strides
    above 2.
    """
    n, h, w = forward.image
    (stride, spread), (kh, kw) = forward.steps, forward.window
    size = (n, *forward.out), (forward.outputs[0], 0), (h, w), forward.channels
    if spread == 2:  # after up-sampling: all 4 x 4 taps at a stride of 2
        return Geometry(*size, (2, 1), (Phase(4, 4, 1, 1, 0, 4, 1),))
    if stride > 2:
        raise ValueError(f"an input gradient at stride {stride}; there are phases for 1 and 2")
    (phase,) = forward.phases
    rows = [along(kh, phase.top, stride, parity) for parity in range(stride)]
    columns = [along(kw, phase.left, stride, parity) for parity in range(stride)]
    phases = tuple(
        Phase(down, right, top, left, i * kw + j, -stride * kw, -stride, p, q)
        for p, (down, top, i) in enumerate(rows)
        for q, (right, left, j) in enumerate(columns)
    )
    return Geometry(*size, (1, stride), phases)


def along(kernel: int, before: int, stride: int, parity: int) -> tuple[int, int, int]:
    """Along one axis, of the input's pixels of one parity: taps, zeros in front of dy, and the first tap's number.

    Pixel stride r + parity met tap i of output (stride r + parity + before - i) / stride: every stride-th tap from
    the first that makes this whole. The last comes first, so that dy is read forwards.
    """
    first = (parity + before) % stride
    taps = ceil(max(0, kernel - first), stride)
    return taps, taps - 1 - (parity + before - first) // stride, first + stride * (taps - 1)
