"""Which tile Hopper's kernels use for a shape: of a convolution by patches, and of its weight gradient by units.

The order of each table, and how many blocks are aimed at, come from an H200 (benchmarks/results/gpu-h200.json); patches
have changed since.
"""

from functools import lru_cache
from typing import Any, NamedTuple

from backends.cupy_kernels.geometry import Geometry, ceil, gradient, patched, tiled
from backends.cupy_kernels.tuning import BLOCKS_EACH, Fit, usual_geometry

# Bytes of shared memory that a block of Hopper is granted, and channels that a warpgroup has of a slice
HOPPER_SHARED, GROUP_DEPTH = 227 << 10, 32
# Rows times columns of a kernel, at most
MOST_TAPS = 49
# Summands of an operand, and numbers of a cell, by how numbers are multiplied
PARTS, CELL = {"Split": 2}, {"Rounded": 8}


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
def fit_patches(geometry: Geometry, tile: PatchTile, math: str) -> Fit:
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
def fit_units(geometry: Geometry, tile: UnitTile, math: str) -> Fit:
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
