"""Which tile a kernel uses for a shape: numbers that measuring finds.

None has been measured yet: what stands here follows from counting bytes, registers and blocks. `MEASURED` is for what a
GPU says.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from backends.cupy_kernels.geometry import Geometry, Tiling, ceil, flat, gradient, plain, tiled, upsampled

# Blocks to aim at, in multiprocessors: with fewer than two a multiprocessor nobody works while one block waits
BLOCKS_EACH = 2
# Bytes of shared memory of a block: what every GPU since Ampere grants
SHARED_MEMORY = 99 << 10


class ConvTile(NamedTuple):
    """`convolve`: a block's pixels, outputs, channels of a slice; a warp's pixels, outputs; stages of weights."""

    pixels: int
    outputs: int
    slice: int
    warp_pixels: int
    warp_outputs: int
    stages: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.pixels // self.warp_pixels * (self.outputs // self.warp_outputs) * 32


class GradientTile(NamedTuple):
    """`weight_gradient`: a block's channels, outputs, pixels; a warp's channels, outputs; the window of taps."""

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
        """Threads of a block."""
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
# At a stride of two a tile sees four times as much: thinner slices
STRIDED = ConvTile(64, 32, 16, 32, 16, 3)
# Channels that 4 does not divide are few, mostly 1 or 3; but bfloat16 products go by sixteen
FEW_CHANNELS, FEW_ROUNDED = ConvTile(64, 32, 8, 32, 16, 3), STRIDED


def conv_tile(geometry: Geometry, aligned: bool, math: str, multiprocessors: int) -> ConvTile:
    """The tile of `convolve`. aligned: whether channels are copied 16 bytes at a time; math: how it multiplies."""
    outputs, pixels = sum(geometry.outputs), geometry.image[0] * geometry.grid[0] * geometry.grid[1]
    known = MEASURED.get((outputs, sum(geometry.channels), pixels, geometry.window[0] * geometry.window[1]))
    if not aligned:
        return FEW_ROUNDED if math == "Rounded" else FEW_CHANNELS
    if geometry.steps[0] == 2:
        return STRIDED
    if known is not None:
        return known
    if outputs <= NARROW.outputs:
        return NARROW
    for tile in TILES[:-1]:
        blocks = ceil(pixels, tile.pixels) * ceil(outputs, tile.outputs) * len(geometry.phases)
        if tile.outputs < 2 * outputs and outputs % tile.outputs == 0 and blocks >= BLOCKS_EACH * multiprocessors:
            return tile
    return TILES[-1]


def conv_templates(math: str) -> list[tuple]:
    """All instances of `convolve` that may be asked for: (math, tile, aligned, by columns, norm)."""
    few = FEW_ROUNDED if math == "Rounded" else FEW_CHANNELS
    ways = (False, False), (True, False), (False, True)
    tiles = [*((tile, True) for tile in (*TILES, NARROW, STRIDED)), (few, False)]
    return [
        (math, *tile, aligned, by_columns, norm)
        for tile, aligned in tiles
        for by_columns, norm in ways
        if not (norm and aligned and tile is STRIDED)  # what is normalised has a stride of one
    ]


# What the kernels of a convolution are judged by, as their shared memory depends on the shape: images, outputs
USUAL, OUTPUTS = (64, 32, 32, 128), 128


def usual_geometry(side: int, stride: int, doubled: bool = False) -> Geometry:
    """A convolution of USUAL images by a kernel of side x side taps that keeps their size, or halves or doubles it."""
    weight = side, side, USUAL[3], OUTPUTS
    return upsampled(USUAL, weight) if doubled else flat(plain(USUAL, 0, weight, stride, (side // 2,) * 4))


# (rows, columns) of taps that a block has at once; kernels of other sizes go tap by tap
WINDOWS = ((3, 3), (2, 2), (1, 1))


def gradient_tile(geometry: Geometry, aligned: bool) -> GradientTile:
    """The tile of `weight_gradient`. aligned: whether channels are copied 16 bytes at a time."""
    window = geometry.window if geometry.window in WINDOWS else (1, 1)
    wide = aligned and max(geometry.outputs[0], sum(geometry.channels) if window == (1, 1) else 0) > 32
    return gradient_tile_of(window, wide, geometry.steps[0] == 2 and window == (3, 3))


def gradient_tile_of(window: tuple[int, int], wide: bool, strided: bool) -> GradientTile:
    """For few outputs or many. strided: a tile sees four times as much, hence takes half the pixels."""
    outputs, pixels = 64 if wide else 32, 32 if strided else 64
    channels = outputs if window == (1, 1) else 32
    return GradientTile(channels, outputs, pixels, 32, outputs // 2, *window, 2)


def gradient_templates(math: str) -> list[tuple]:
    """All instances of `weight_gradient`: (math, tile, aligned, norm)."""
    sizes = [*((window, False) for window in WINDOWS), ((3, 3), True)]
    return [
        (math, *gradient_tile_of(window, wide, strided), is_aligned, norm)
        for window, strided in sizes
        for wide, is_aligned in ((True, True), (False, True), (False, False))
        for norm in (False, True)
        if not (norm and (strided or window == (2, 2)))
    ]


def gradient_blocks(geometry: Geometry, tile: GradientTile) -> int:
    """Blocks of a share of the pixels, of one phase."""
    windows = ceil(geometry.window[0], tile.rows) * ceil(geometry.window[1], tile.columns)
    return ceil(sum(geometry.channels), tile.channels) * windows * ceil(geometry.outputs[0], tile.outputs)


def tiles_a_share(tiles: int, blocks: int, wanted: int) -> int:
    """Tiles of pixels that a block of `weight_gradient` sums; blocks: that there are for each share, and altogether."""
    return ceil(tiles, max(1, wanted // blocks))


class Fit(NamedTuple):
    """Tiles that fit in shared memory: how the pixels are cut, slices of the halo with room, bytes."""

    tiling: Tiling
    slots: int
    shared: int


@lru_cache(maxsize=4096)
def fit_conv(geometry: Geometry, tile: ConvTile, by_columns: bool) -> Fit:
    """Tiles of `convolve`, of fewer pixels if a whole tile would see too much of an image."""
    taps = [p.down * p.right for p in geometry.phases if p.down * p.right] or [1]
    # A slice is overwritten only when no step under way reads it: the one that is multiplied, or stages - 1 that follow
    wanted = max(ceil(tile.stages - 1, t) + 1 for t in taps)
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


def shrunk(geometry: Geometry, pixels: int, window: tuple[int, int], slots: int, size: Callable[[Tiling], int]) -> Fit:
    """The first tiling of `pixels`, half as many and so on that is granted. Raises ValueError if none is."""
    while pixels:
        tiling = tiled(geometry, pixels, window)
        if size(tiling) <= SHARED_MEMORY:
            return Fit(tiling, slots, size(tiling))
        pixels //= 2
    raise ValueError(f"no tile of a convolution with taps {geometry.window} fits in {SHARED_MEMORY} bytes")


def usual_conv(math: str, *template: Any) -> int:
    """Bytes of shared memory of an instance of `convolve` for USUAL images."""
    tile, (aligned, by_columns, _) = ConvTile(*template[:6]), template[6:]
    strided = aligned and tile == STRIDED
    if by_columns:  # a gradient has a stride where forward had its up-sampling
        return fit_conv(gradient(usual_geometry(3, 1, doubled=strided)), tile, True).shared
    return fit_conv(usual_geometry(3, 2 if strided else 1), tile, False).shared


def usual_gradient(math: str, *template: Any) -> int:
    """Bytes of shared memory of an instance of `weight_gradient` for USUAL images."""
    tile = GradientTile(*template[:8])
    strided, doubled = tile == gradient_tile_of((3, 3), tile.outputs > 32, True), tile.rows == 2
    return fit_gradient(usual_geometry(tile.rows, 2 if strided else 1, doubled), tile).shared


def pitch(outputs: int) -> int:
    """Length of a row of weights in shared memory, in floats: 8 or 24 mod 32, so that no two lanes meet in a bank."""
    return outputs if outputs % 32 in (8, 24) else outputs + 8
