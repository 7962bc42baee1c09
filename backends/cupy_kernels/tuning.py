"""Which tile a kernel uses for a shape: numbers that measuring finds.

None has been measured yet: what stands here follows from counting bytes, registers and blocks. `MEASURED` is for what a
GPU says; `python -m benchmarks gpu` prints what it would enter.
"""

from functools import lru_cache
from typing import NamedTuple

from backends.cupy_kernels.geometry import Geometry, Tiling, ceil, tiled

# Blocks to aim at, in multiprocessors: with fewer than two a multiprocessor nobody works while one block waits
BLOCKS_EACH = 2
# Bytes of shared memory of a block: what every GPU since Ampere grants
SHARED_MEMORY = 99 << 10


class ConvTile(NamedTuple):
    """Of `convolve`: a block's pixels, outputs, and channels of a slice; a warp's pixels and outputs; stages of weights."""

    pixels: int
    outputs: int
    slice: int
    warp_pixels: int
    warp_outputs: int
    stages: int

    @property
    def threads(self) -> int:
        """Of a block."""
        return self.pixels // self.warp_pixels * (self.outputs // self.warp_outputs) * 32


class GradientTile(NamedTuple):
    """Of `weight_gradient`: a block's channels, outputs and pixels; a warp's channels and outputs; the window of taps."""

    channels: int
    outputs: int
    pixels: int
    warp_channels: int
    warp_outputs: int
    rows: int
    columns: int
    stages: int

    @property
    def threads(self) -> int:
        """Of a block."""
        warps = self.channels // self.warp_channels * (self.outputs // self.warp_outputs)
        return self.rows * warps * 32


# (outputs, channels, output pixels of a phase, taps of a phase) -> tile, for shapes where measuring found a better one
MEASURED: dict[tuple[int, int, int, int], ConvTile] = {}

# From large to small: the first that gives blocks enough is taken
TILES = (
    ConvTile(128, 128, 32, 64, 32, 3),
    ConvTile(128, 64, 32, 64, 32, 3),
    ConvTile(128, 32, 32, 32, 32, 3),
    ConvTile(64, 32, 32, 32, 16, 3),
)
# For few outputs, 1 or 3 above all
NARROW = ConvTile(128, 16, 32, 32, 16, 3)


def conv_tile(geometry: Geometry, aligned: bool, least_slice: int, multiprocessors: int) -> ConvTile:
    """The tile of `convolve`. aligned: whether channels are copied 16 bytes at a time; least_slice: of its precision."""
    outputs, pixels = sum(geometry.outputs), geometry.image[0] * geometry.grid[0] * geometry.grid[1]
    known = MEASURED.get((outputs, sum(geometry.channels), pixels, geometry.window[0] * geometry.window[1]))
    if not aligned:  # few channels, mostly 1 or 3
        return TILES[-1]._replace(slice=least_slice)
    if known is not None:
        return known
    if outputs <= NARROW.outputs:
        return NARROW
    # At a stride of two a tile sees four times as much: thinner slices
    tiles = [t._replace(slice=16) if geometry.steps[0] == 2 else t for t in TILES]
    for tile in tiles[:-1]:
        blocks = ceil(pixels, tile.pixels) * ceil(outputs, tile.outputs) * len(geometry.phases)
        if tile.outputs < 2 * outputs and outputs % tile.outputs == 0 and blocks >= BLOCKS_EACH * multiprocessors:
            return tile
    return tiles[-1]


WINDOWS = {(3, 3), (2, 2)}


def gradient_tile(geometry: Geometry) -> GradientTile:
    """The tile of `weight_gradient`; kernels of other windows go tap by tap."""
    window = geometry.window if geometry.window in WINDOWS else (1, 1)
    wide = 64 if geometry.outputs[0] > 32 else 32
    pixels = 64 if geometry.steps[0] == 1 else 32  # at a stride of two a tile sees four times as much
    channels = 64 if window == (1, 1) and sum(geometry.channels) > 32 else 32
    return GradientTile(channels, wide, pixels, 32, wide // 2, *window, 2)


class Fit(NamedTuple):
    """Tiles that fit in shared memory: how the pixels are cut, slices of the halo with room, bytes."""

    tiling: Tiling
    slots: int
    shared: int


@lru_cache(maxsize=4096)
def fit_conv(geometry: Geometry, tile: ConvTile, by_columns: bool) -> Fit:
    """Tiles of `convolve`, of fewer pixels if a whole tile would see too much of an image."""
    taps = [p.down * p.right for p in geometry.phases if p.down * p.right] or [1]
    # A slice is overwritten only when no step that is under way reads it
    wanted = max(ceil(tile.stages - 2 + t, t) + 1 for t in taps)
    slots = min(ceil(sum(geometry.channels), tile.slice), wanted)
    depth, outputs = tile.slice, tile.outputs
    weights = outputs * (depth + 4) if by_columns else depth * pitch(outputs)

    def size(tiling: Tiling) -> int:
        return 4 * (slots * tiling.halo * (depth + 4) + tile.stages * weights + tiling.halo)

    return shrunk(geometry, tile.pixels, geometry.window, slots, size)


@lru_cache(maxsize=4096)
def fit_gradient(geometry: Geometry, tile: GradientTile) -> Fit:
    """Tiles of `weight_gradient`, of fewer pixels if a whole tile would see too much of an image."""

    def size(tiling: Tiling) -> int:
        stage = tiling.halo * (tile.channels + 8) + tile.pixels * (tile.outputs + 8)
        return 4 * (tile.stages * stage + tiling.halo + 2 * tile.pixels)

    return shrunk(geometry, tile.pixels, (tile.rows, tile.columns), 0, size)


def shrunk(geometry: Geometry, pixels: int, window: tuple[int, int], slots: int, size: object) -> Fit:
    """The first of tilings with `pixels`, half of them and so on whose size is granted. Raises ValueError if none is."""
    while pixels:
        tiling = tiled(geometry, pixels, window)
        if size(tiling) <= SHARED_MEMORY:
            return Fit(tiling, slots, size(tiling))
        pixels //= 2
    raise ValueError(f"no tile of a convolution with taps {geometry.window} fits in {SHARED_MEMORY} bytes")


def pitch(outputs: int) -> int:
    """Length of a row of weights in shared memory, in floats: 8 or 24 mod 32, so that no two lanes meet in a bank."""
    return outputs if outputs % 32 in (8, 24) else outputs + 8
