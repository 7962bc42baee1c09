"""The two-dimensional transforms of `algorithms`, sixteen channels at a time, each held in registers.

`TileKernels(algorithm)` has the addresses of the compiled functions:
  input_tile     out[points^2] = B d B^T of a patch of an image, zero outside the image
  output_tile    y = A m A^T + shift (+ residual), cut at the image's edges
  gradient_tile  out[points^2] = A^T dy A of a patch of an output gradient, whose sum is added to `total`, if not 0
  weight_tile    out[points^2] = G w G^T of nine vectors of weights; weight_tile_across gathers their lanes
  weight_gradient_tile  nine vectors = G^T u G

Shapes, a vector being 16 channels of one pixel or point: d inputs × inputs vectors, rows row_bytes and pixels col_bytes
apart in an image; m, u and every `out` points × points vectors, out_bytes (m_bytes, u_bytes) apart; y, dy outputs ×
outputs vectors of an image; w, dw 3 × 3 vectors, tap_bytes apart. `points`, `inputs` and `outputs` are those of the
algorithm: 6, 6 and 4 of F(4, 3). (i0, j0) is the pixel of the patch's corner, which may lie outside the image.
"""

from functools import cached_property

from llvmlite import ir

from backends.numba_kernels.vectors.intrinsics import named_c_function
from backends.numba_kernels.vectors.lanes import VECTOR, Lanes, Memory, const


def both_ways(transform, tile):
    """transform along the columns, then along the rows, of a list of rows of vectors."""
    columns = [transform(list(column)) for column in zip(*tile)]
    return [transform(list(row)) for row in zip(*columns)]


def tree_sum(values):
    """The sum of some vectors, of one half plus of the other: rounds less than one after the other."""
    half = len(values) // 2
    return tree_sum(values[:half]) + tree_sum(values[half:]) if half else values[0]


def _scatter(builder, tile, out, row_bytes):
    """Write a list of rows of vectors to out, out + row_bytes, ..."""
    out = Memory(builder, out)
    for i, value in enumerate(value for row in tile for value in row):
        out.offset(builder.mul(row_bytes, const(i))).store(value)


def _gather(builder, source, size, row_bytes):
    """The size x size vectors at source, source + row_bytes, ..."""
    source = Memory(builder, source)
    return [
        [source.offset(builder.mul(row_bytes, const(size * i + j))).load() for j in range(size)] for i in range(size)
    ]


class _Patch:
    """A rows x cols patch of an image, whose corner is pixel (i0, j0) at address `corner`; zero outside the image.

    blank: an address of zeros that `load` reads outside. Where a patch is only written to, nothing is read there: any
    address will do, and its corner is passed.
    """

    def __init__(self, builder, rows, cols, corner, i0, j0, height, width, row_bytes, col_bytes, blank):
        self.builder, self.size, self.corner, self.blank = builder, (rows, cols), corner, blank
        self.row_bytes, self.col_bytes = row_bytes, col_bytes
        self.rows = [builder.icmp_unsigned("<", builder.add(i0, const(a)), height) for a in range(rows)]
        self.cols = [builder.icmp_unsigned("<", builder.add(j0, const(b)), width) for b in range(cols)]

    def bytes_to(self, a, b):
        builder = self.builder
        return builder.add(builder.mul(const(a), self.row_bytes), builder.mul(const(b), self.col_bytes))

    def inside(self, a, b):
        return self.builder.and_(self.rows[a], self.cols[b])

    def load(self, a, b):
        """The pixel's vector; outside, the zeros at `blank` are read instead, so that no branch is needed."""
        builder = self.builder
        address = builder.select(self.inside(a, b), builder.add(self.corner, self.bytes_to(a, b)), self.blank)
        return Memory(builder, address).load()

    def load_all(self):
        return [[self.load(a, b) for b in range(self.size[1])] for a in range(self.size[0])]


def input_tile(algorithm):
    def emit(builder, corner, i0, j0, height, width, row_bytes, col_bytes, blank, out, out_bytes):
        size = algorithm.inputs
        tile = _Patch(builder, size, size, corner, i0, j0, height, width, row_bytes, col_bytes, blank).load_all()
        _scatter(builder, both_ways(algorithm.b, tile), out, out_bytes)

    return named_c_function(f"input_tile_{algorithm.name}", emit)


def gradient_tile(algorithm):
    def emit(builder, corner, i0, j0, height, width, row_bytes, col_bytes, blank, out, out_bytes, total):
        size = algorithm.outputs
        tile = _Patch(builder, size, size, corner, i0, j0, height, width, row_bytes, col_bytes, blank).load_all()
        with builder.if_then(builder.icmp_signed("!=", total, const(0)), likely=True):
            place = Memory(builder, total)
            place.store(place.load() + tree_sum([value for row in tile for value in row]))
        _scatter(builder, both_ways(algorithm.a_adjoint, tile), out, out_bytes)

    return named_c_function(f"gradient_tile_{algorithm.name}", emit)


def output_tile(algorithm):
    def emit(builder, m, m_bytes, corner, i0, j0, height, width, row_bytes, col_bytes, shift, residual):
        size = algorithm.outputs
        shift = Memory(builder, shift).load()
        tile = both_ways(algorithm.a, _gather(builder, m, algorithm.points, m_bytes))
        patch = _Patch(builder, size, size, corner, i0, j0, height, width, row_bytes, col_bytes, corner)

        def write_all(source):
            for a in range(size):
                with builder.if_then(patch.rows[a], likely=True):
                    for b in range(size):
                        with builder.if_then(patch.cols[b], likely=True):
                            value = tile[a][b] + shift
                            if source is not None:
                                value = value + source.offset(patch.bytes_to(a, b)).load()
                            Memory(builder, corner).offset(patch.bytes_to(a, b)).store(value)

        with builder.if_else(builder.icmp_signed("==", residual, const(0))) as (plain, added):
            with plain:
                write_all(None)
            with added:
                write_all(Memory(builder, residual))

    return named_c_function(f"output_tile_{algorithm.name}", emit)


def weight_tile(algorithm):
    def emit(builder, w, tap_bytes, lane_bytes, out, out_bytes):
        tile = _gather(builder, w, 3, tap_bytes)
        _scatter(builder, both_ways(algorithm.g, tile), out, out_bytes)

    return named_c_function(f"weight_tile_{algorithm.name}", emit)


def weight_tile_across(algorithm):
    """As weight_tile, for weights whose sixteen lanes are `lane_bytes` apart."""

    def emit(builder, w, tap_bytes, lane_bytes, out, out_bytes):
        def collect(tap):
            lanes = ir.Constant(VECTOR, ir.Undefined)
            for lane in range(16):
                place = builder.add(builder.mul(const(tap), tap_bytes), builder.mul(const(lane), lane_bytes))
                value = Memory(builder, w).offset(place).scalar()
                lanes = builder.insert_element(lanes, value, ir.Constant(ir.IntType(32), lane))
            return Lanes(builder, lanes)

        tile = [[collect(3 * i + j) for j in range(3)] for i in range(3)]
        _scatter(builder, both_ways(algorithm.g, tile), out, out_bytes)

    return named_c_function(f"weight_tile_across_{algorithm.name}", emit)


def weight_gradient_tile(algorithm):
    def emit(builder, u, u_bytes, dw, tap_bytes):
        _scatter(
            builder,
            both_ways(algorithm.g_adjoint, _gather(builder, u, algorithm.points, u_bytes)),
            dw,
            tap_bytes,
        )

    return named_c_function(f"weight_gradient_tile_{algorithm.name}", emit)


class TileKernels:
    """The tile functions of one algorithm; each is compiled when it is first used."""

    def __init__(self, algorithm):
        self.algorithm = algorithm

    input_tile = cached_property(lambda self: input_tile(self.algorithm))
    gradient_tile = cached_property(lambda self: gradient_tile(self.algorithm))
    output_tile = cached_property(lambda self: output_tile(self.algorithm))
    weight_tile = cached_property(lambda self: weight_tile(self.algorithm))
    weight_tile_across = cached_property(lambda self: weight_tile_across(self.algorithm))
    weight_gradient_tile = cached_property(lambda self: weight_gradient_tile(self.algorithm))
