"""Launchers of matmul.cu, and the operations that they override."""

from typing import Any, NamedTuple

from backends.backend import Backend
from backends.cupy_kernels.normalization import are_floats
from backends.cupy_kernels.runtime import launch
from backends.cupy_kernels.runtime.compilation import cupy
from backends.cupy_kernels.runtime.launch import THREADS, Kernel, RecordType, Template, ceil
from backends.fallback import unless_reference
from backends.ops.linear import LinearContext

# How numbers are multiplied, by the backend's precision, and the bytes of one
PRODUCTS = {"fp32": "Split", "tf32": "Tf32", "bf16": "Bf16"}
BYTES = {"Split": 4, "Tf32": 4, "Bf16": 2}
PRODUCT = RecordType("rows columns depth pitch_a pitch_b share")


class Tile(NamedTuple):
    """A block's rows, columns, depth of a slice; of a warp: rows, columns; slices in shared memory."""

    rows: int
    columns: int
    slice: int
    warp_rows: int
    warp_columns: int
    stages: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * (self.rows // self.warp_rows) * (self.columns // self.warp_columns)

    def needed(self, rows: int, columns: int) -> tuple[int, int]:
        """How many make up a matrix."""
        return ceil(rows, self.rows), ceil(columns, self.columns)


LARGE, SMALL = Tile(64, 64, 32, 32, 32, 3), Tile(32, 32, 32, 16, 16, 3)
# Whether A lies by rows, and B by columns: x W, dy W^T, x^T dy
PLAIN, BY_COLUMNS, BY_DEPTH = (True, False), (True, True), (False, False)
# Slices of the depth that a share has at least, and blocks to aim at on each multiprocessor
SLICES, BLOCKS = 4, 2


def shared_bytes(*template: Any) -> int:
    """Bytes of shared memory that a block takes."""
    math, tile, by_rows, by_columns = template[0], Tile(*template[4:10]), *template[10:12]
    wide = 16 // BYTES[math]
    of_a = tile.rows * (tile.slice + wide) if by_rows else tile.slice * (tile.rows + 8)
    of_b = tile.columns * (tile.slice + wide) if by_columns else tile.slice * (tile.columns + 8)
    return tile.stages * (of_a + of_b) * BYTES[math]


MULTIPLY = Kernel(
    "matmul.cu",
    "multiply",
    tuple(
        (math, "float", "float", "float", *tile, *form, aligned)
        for math in BYTES
        for tile, aligned in ((LARGE, True), (SMALL, True), (SMALL, False))
        for form in (PLAIN, BY_COLUMNS, BY_DEPTH)
    ),
    threads=lambda *template: Tile(*template[4:10]).threads,
    shared=shared_bytes,
)
ADD_SHARES = Kernel("matmul.cu", "add_shares")


def is_aligned(math: str, lengths: tuple[int, ...], *arrays: Any) -> bool:
    """Whether rows of these lengths, in these arrays, can be copied 16 bytes of what is multiplied at a time."""
    whole = all(length % (16 // BYTES[math]) == 0 for length in lengths)
    return whole and all(a is None or a.data.ptr % 16 == 0 for a in arrays)


def tile_for(blocks: int, aligned: bool) -> Tile:
    """The large tile if it makes enough blocks for the device."""
    return LARGE if aligned and blocks >= launch.multiprocessors(cupy()) else SMALL


# Guards


def fits_linear(x: Any, weight: Any, bias: Any = None) -> bool:
    fits = are_floats(x, weight, bias) and weight.ndim == 2 and x.shape[-1] == weight.shape[0]
    return fits and (bias is None or bias.shape == weight.shape[1:])


def fits_linear_backward(dy: Any, ctx: Any) -> bool:
    x, weight, _ = ctx
    return are_floats(dy) and fits_linear(x, weight) and dy.shape == (*x.shape[:-1], weight.shape[1])


class Matmul(Backend):
    """Products over the last axis."""

    precision: str

    def multiply(self, x: Any, weight: Any, bias: Any = None, by_columns: bool = False) -> Any:
        """x W + bias; by_columns: x W^T. x: (..., depth), weight: (depth, columns), by columns (columns, depth)."""
        math, depth = PRODUCTS[self.precision], x.shape[-1]
        columns = weight.shape[0 if by_columns else 1]
        y = self.xp.empty((*x.shape[:-1], columns), "float32")
        rows = y.size // columns
        aligned = is_aligned(math, (depth, weight.shape[1], columns), x, weight, y)
        down, across = LARGE.needed(rows, columns)
        tile = tile_for(down * across, aligned)
        template = (math, "float", "float", "float", *tile, *(BY_COLUMNS if by_columns else PLAIN), aligned)
        share = ceil(depth, tile.slice) * tile.slice
        self.run_product(template, tile, (rows, columns, depth, depth, weight.shape[1], share), x, weight, bias, y)
        return y

    def multiply_transposed(self, x: Any, dy: Any) -> tuple[Any, Any]:
        """x^T dy and the sum of dy, over all axes but the last. x: (..., C), dy: (..., K)."""
        math, rows, columns = PRODUCTS[self.precision], x.shape[-1], dy.shape[-1]
        dweight, dbias = self.xp.empty((rows, columns), "float32"), self.xp.empty((columns,), "float32")
        depth, wanted = dy.size // columns, BLOCKS * launch.multiprocessors(cupy())
        aligned = is_aligned(math, (rows, columns), x, dy)
        most = ceil(depth, SLICES * LARGE.slice)
        down, across = LARGE.needed(rows, columns)
        tile = tile_for(down * across * most, aligned)
        down, across = tile.needed(rows, columns)
        share = ceil(ceil(depth, min(most, ceil(wanted, down * across))), tile.slice) * tile.slice
        count, template = ceil(depth, share), (math, "float", "float", "float", *tile, *BY_DEPTH, aligned)
        sizes = (rows, columns, depth, rows, columns, share)
        if count == 1:
            self.run_product(template, tile, sizes, x, dy, None, dweight, dbias)
            return dweight, dbias
        both = dweight.size + columns
        partial = self.xp.empty((count * both,), "float32")
        self.run_product(template, tile, sizes, x, dy, None, partial, partial[dweight.size :], both)
        ADD_SHARES.run((ceil(both, THREADS),), partial, dweight, dbias, count, dweight.size, both)
        return dweight, dbias

    def run_product(
        self,
        template: Template,
        tile: Tile,
        sizes: tuple[int, ...],
        a: Any,
        b: Any,
        bias: Any,
        out: Any,
        sums: Any = None,
        following: int = 0,
    ) -> None:
        """One product; sizes: the fields of PRODUCT; following: numbers from one share's results to the next."""
        record = PRODUCT(**dict(zip(PRODUCT.dtype.names or (), sizes, strict=True)))
        grid = (*tile.needed(*sizes[:2]), ceil(sizes[2], sizes[5]))
        MULTIPLY.run(grid, a, b, bias, None, out, sums, following, record, template=template)

    @unless_reference(fits_linear)
    def linear(self, x: Any, weight: Any, bias: Any = None) -> tuple[Any, Any]:
        return self.multiply(x, weight, bias), LinearContext(x, weight, bias is not None)

    @unless_reference(fits_linear_backward)
    def linear_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        x, weight, has_bias = ctx
        dweight, dbias = self.multiply_transposed(x, dy)
        return self.multiply(dy, weight, by_columns=True), dweight, dbias if has_bias else None
