"""Which tile a kernel uses for a shape: numbers that measuring finds.

None has been measured yet: what stands here follows from counting bytes, registers and blocks. `MEASURED` is for what a
GPU says.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from backends.cupy_kernels.geometry import Geometry, Tiling, ceil, flat, gradient, patched, plain, tiled, upsampled

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


class PatchTile(NamedTuple):
    """`convolve_patches`: outputs and patches of a block; warpgroups that share a slice; taps of a step; steps that
    weights are ahead."""

    outputs: int
    patches: int
    split: int
    taps: int
    ahead: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 128 * self.patches * self.split


# From large to small; the first with blocks enough is taken, the last for want of another
PATCH_TILES = (
    PatchTile(128, 2, 1, 1, 2),
    PatchTile(64, 2, 1, 3, 1),
    PatchTile(64, 1, 1, 3, 1),
    PatchTile(32, 2, 1, 3, 1),
    PatchTile(64, 1, 2, 1, 2),
    PatchTile(32, 1, 1, 3, 1),
    PatchTile(32, 1, 2, 3, 1),
    PatchTile(16, 1, 2, 3, 1),
    PatchTile(16, 1, 4, 3, 1),
)
# Bytes of shared memory that a block of Hopper is granted, and channels that a warpgroup has of a slice
HOPPER_SHARED, GROUP_DEPTH = 227 << 10, 32
# Rows times columns of a kernel, at most
MOST_TAPS = 49
# Summands of an operand, and numbers of a cell, by how numbers are multiplied
PARTS, CELL = {"Split": 2}, {"Rounded": 8}


def patch_tile(geometry: Geometry, math: str, multiprocessors: int) -> PatchTile | None:
    """The tile of `convolve_patches`; None for images that patches of 8 x 8 do not suit."""
    outputs, channels = sum(geometry.outputs), sum(geometry.channels)
    rows, columns = geometry.grid
    if channels < 16 or outputs < 8:
        return None
    if not geometry.is_row and 64 * ceil(rows, 8) * ceil(columns, 8) > 2 * rows * columns:
        return None
    tiles = [t for t in patch_tiles(math) if t.split == 1 or GROUP_DEPTH * t.split < 2 * channels]
    for tile in tiles:
        blocks = patched(geometry, tile.patches).count(geometry.image[0]) * ceil(outputs, tile.outputs)
        fits = tile.outputs < 2 * outputs and fit_patches(geometry, tile, math).shared <= HOPPER_SHARED
        if fits and blocks * len(geometry.phases) * tile.split >= multiprocessors:
            return tile
    smallest = [tile for tile in tiles if tile.patches == 1]
    fitting = [tile for tile in smallest if fit_patches(geometry, tile, math).shared <= HOPPER_SHARED]
    return fitting[-1] if fitting else None


@lru_cache
def patch_tiles(math: str) -> tuple[PatchTile, ...]:
    """Those of PATCH_TILES that have room for USUAL images: split operands take twice as much."""
    return tuple(t for t in PATCH_TILES if fit_patches(usual_geometry(3, 1), t, math).shared <= HOPPER_SHARED)


def patch_templates(math: str) -> list[tuple]:
    """All instances of `convolve_patches` that may be asked for: (math, tile, by columns, norm)."""
    ways = (False, False), (True, False), (False, True)
    return [(math, *tile, by_columns, norm) for tile in patch_tiles(math) for by_columns, norm in ways]


@lru_cache(maxsize=4096)
def fit_patches(geometry: Geometry, tile: PatchTile, math: str) -> "Fit":
    """Tiles of `convolve_patches`, whose shared memory convolution_hopper.cu describes."""
    tiling = patched(geometry, tile.patches)
    depth, parts, cell = GROUP_DEPTH * tile.split, PARTS.get(math, 1), CELL.get(math, 4)
    planes = depth // cell
    slots = min(2, max(1, ceil(sum(geometry.channels), depth)))
    columns = 2 * ceil(tiling.halo_columns, 2) if geometry.steps[0] == 2 else tiling.halo_columns
    pixels = tiling.images * tiling.halo_rows * columns
    plane = pixels + (1 - pixels) % 8
    cells = slots * parts * planes * plane
    cells += 2 * tile.taps * parts * planes * (tile.outputs + 1) + tile.ahead * tile.taps * depth * tile.outputs // 4
    sums = (tile.split - 1) * tile.patches * 128 * tile.outputs // 2 * 4
    return Fit(tiling, slots, max(16 * cells + 4 * pixels + 8 * MOST_TAPS, sums))


def usual_patches(math: str, *template: Any) -> int:
    """Bytes of shared memory of an instance of `convolve_patches` for USUAL images."""
    geometry = usual_geometry(3, 1)
    return fit_patches(gradient(geometry) if template[5] else geometry, PatchTile(*template[:5]), math).shared


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


class UnitTile(NamedTuple):
    """`weight_gradient_units`: a block's outputs, warpgroups, products of each, sixteens of channels."""

    outputs: int
    groups: int
    units: int
    sixteens: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 128 * self.groups

    @property
    def taps(self) -> int:
        """The most that there is room for."""
        return 4 * self.groups * self.units // self.sixteens


# By taps, and of each from large to small, as they measured on an H200
UNIT_TILES = {
    9: (UnitTile(64, 3, 3, 4), UnitTile(64, 2, 3, 2), UnitTile(32, 2, 3, 2), UnitTile(32, 1, 5, 2)),
    4: (UnitTile(64, 4, 1, 4), UnitTile(32, 2, 2, 4), UnitTile(32, 1, 2, 2)),
    1: (UnitTile(64, 2, 1, 8), UnitTile(64, 1, 1, 4), UnitTile(32, 1, 1, 4)),
}
# Split operands take more registers than three warpgroups have for three products each
SPLIT_UNITS = (UnitTile(64, 2, 3, 2), UnitTile(32, 1, 5, 2))
# Pixels of a tile
UNIT_PIXELS = 64


def blocks_each(tile: UnitTile) -> int:
    """Blocks for a multiprocessor that shares are cut for: the more a block has to write, the fewer."""
    return 1 if tile.outputs * tile.threads >= 64 * 256 else BLOCKS_EACH


def unit_tile(geometry: Geometry, math: str) -> UnitTile | None:
    """The tile of `weight_gradient_units`; None where taps are too many, or channels and outputs too few."""
    taps, channels, outputs = geometry.window[0] * geometry.window[1], sum(geometry.channels), geometry.outputs[0]
    least = min((n for n in UNIT_TILES if n >= taps), default=None)
    if least is None or channels < 16 or outputs < 8:
        return None
    fitting = [tile for tile in unit_tiles(math, least) if fit_units(geometry, tile, math).shared <= HOPPER_SHARED]
    suiting = [tile for tile in fitting if tile.outputs < 2 * outputs and 16 * tile.sixteens < 2 * channels]
    return next(iter(suiting or fitting[-1:]), None)


def unit_tiles(math: str, taps: int) -> tuple[UnitTile, ...]:
    """Those for a number of taps."""
    return SPLIT_UNITS if math == "Split" and taps == 9 else UNIT_TILES[taps]


def unit_templates(math: str) -> list[tuple]:
    """All instances of `weight_gradient_units` that may be asked for: (math, tile, norm)."""
    return [
        (math, *tile, norm)
        for taps in UNIT_TILES
        for tile in unit_tiles(math, taps)
        for norm in (False, True)
        if not (norm and taps == 4)  # what is normalised has a kernel of odd sides
    ]


@lru_cache(maxsize=4096)
def fit_units(geometry: Geometry, tile: UnitTile, math: str) -> "Fit":
    """Tiles of `weight_gradient_units`, whose shared memory conv_weight_gradient_hopper.cu describes."""
    tiling = tiled(geometry, UNIT_PIXELS, geometry.window)
    parts, cell = PARTS.get(math, 1), CELL.get(math, 4)
    row = 16 * tile.sixteens + (4 if cell == 8 else 8)
    cells = UNIT_PIXELS * tile.outputs // 4 + parts * UNIT_PIXELS // cell * (tile.outputs + 1)
    return Fit(tiling, 0, 8 * tiling.halo * row + 32 * cells + 4 * tiling.halo + 8 * UNIT_PIXELS)


def usual_units(math: str, *template: Any) -> int:
    """Bytes of shared memory of an instance of `weight_gradient_units` for USUAL images."""
    tile = UnitTile(*template[:4])
    taps = min(n for n in UNIT_TILES if tile in UNIT_TILES[n])
    return fit_units(usual_geometry({9: 3, 4: 2, 1: 1}[taps], 1, taps == 4), tile, math).shared


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
