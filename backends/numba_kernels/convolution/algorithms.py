"""Fast bilinear algorithms for small convolutions in one dimension, and those that a U-Net needs.

y = A [(G w) * (B x)]: a few inputs x and the three weights w are transformed, multiplied point by point and
transformed back; nesting it with itself gives two dimensions. F(4, 3) and F(4, 2) make 4 outputs of 3 or 2
taps with 6 or 5 multiplications (Winograd; Lavin & Gray 2016, arXiv:1509.09308). Strides and up-sampling are
split into even and odd phases, each of which is an F(4, 2) or a plain product. A point carries 16 channels or
more, so that its product is a matrix product.

The points decide how much of the products' rounding comes out. If x, w and the errors are independent, the ratio of
errors to outputs grows, against a plain sum of products and in two dimensions, by

    sum over points q of |A_q|^2 |B_q|^2 |G_q|^2 / (outputs * taps)        A_q a column, B_q and G_q rows

whatever powers of two a point's rows are scaled by, and the same for the weight gradient. Lavin & Gray's 0, 1, -1, 2,
-2, infinity have 10.8, and 0, 1, -1, 2, infinity have 6.4 of F(4, 2). Barabasz et al. 2020 (arXiv:1803.10986) search
for better ones. Those below have 4.8 and 2.8, the least that multiples of 1/8 give: for F(4, 3) at as many operations,
for F(4, 2) at one or two more; oneDNN has the former. Their squares are exact in float32.

With p = 5/8 and q = 3/2, the maps of F(4, 3) that `b43`, `g43` and `a43` compute are

       [ p²q²   0   -(p²+q²)    0     1  0 ]        [   1/(p²q²) · (1   0   0 ) ]        [ 1  1/p  1/p  1/q²  1/q²  0 ]
       [  0   -pq²    -q²       p     1  0 ]        [ 1/(2p(p²-q²)) (1   p   p²) ]        [ 0   1   -1   1/q  -1/q  0 ]
  B =  [  0    pq²    -q²      -p     1  0 ]   G =  [ 1/(2p(p²-q²)) (1  -p   p²) ]   A =  [ 0   p    p    1     1   0 ]
       [  0   -p²q    -p²       q     1  0 ]        [  1/(2(q²-p²)) (1   q   q²) ]        [ 0   p²  -p²   q    -q   1 ]
       [  0    p²q    -p²      -q     1  0 ]        [  1/(2(q²-p²)) (1  -q   q²) ]
       [  0    p²q²     0   -(p²+q²)  0  1 ]        [        1 ·    (0   0   1 ) ]

with the points 0, p, -p, q, -q and infinity from the first row (of A: column) to the last. Patches overlap by the two
inputs that a kernel of three taps reaches beyond its outputs, here with a row and a column of zeros around the image:

  inputs     -1  0  1  2  3  4  5  6  7  8  …
  patch 0    └─────────────┘                     outputs 0 1 2 3
  patch 1                └─────────────┘         outputs 4 5 6 7

All functions take and return lists; their elements may be `Lanes`, floats or fractions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

P3, Q3 = Fraction(5, 8), Fraction(3, 2)  # points of F(4, 3), besides 0 and infinity
P2, Q2 = Fraction(3, 8), Fraction(5, 4)  # points of F(4, 2), besides infinity
# What G divides by at p and q; A and B are scaled so that most of their operations are one addition or one fused
# multiply-add
GP3, GQ3 = 1 / (2 * P3 * (P3**2 - Q3**2)), 1 / (2 * (Q3**2 - P3**2))
GP2, GQ2 = 1 / (2 * P2 * (P2**2 - Q2**2)), 1 / (2 * (Q2**2 - P2**2))


def b43(d):
    """B x of F(4, 3): six inputs to six points."""
    d0, d1, d2, d3, d4, d5 = d
    even, odd, even2, odd2 = d4 - Q3**2 * d2, d3 - Q3**2 * d1, d4 - P3**2 * d2, d3 - P3**2 * d1
    return [
        (P3 * Q3) ** 2 * d0 + (d4 - (P3**2 + Q3**2) * d2),
        even + P3 * odd,
        even - P3 * odd,
        even2 + Q3 * odd2,
        even2 - Q3 * odd2,
        (P3 * Q3) ** 2 * d1 + (d5 - (P3**2 + Q3**2) * d3),
    ]


def a43(m):
    """A m of F(4, 3): six points to four outputs."""
    m0, m1, m2, m3, m4, m5 = m
    s, d, s2, d2 = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    return [m0 + 1 / P3 * s + 1 / Q3**2 * s2, d + 1 / Q3 * d2, P3 * s + s2, P3**2 * d + Q3 * d2 + m5]


def a43_adjoint(y):
    """A^T: four output gradients to six points."""
    y0, y1, y2, y3 = y
    even, odd, even2, odd2 = y0 + P3**2 * y2, y1 + P3**2 * y3, 1 / Q3**2 * y0 + y2, y1 + Q3**2 * y3
    return [y0, 1 / P3 * even + odd, 1 / P3 * even - odd, even2 + 1 / Q3 * odd2, even2 - 1 / Q3 * odd2, y3]


def g43(w):
    """G w of F(4, 3): three weights to six points."""
    w0, w1, w2 = w
    ends, ends2 = w0 + P3**2 * w2, w0 + Q3**2 * w2
    return [
        1 / (P3 * Q3) ** 2 * w0,
        GP3 * (ends + P3 * w1),
        GP3 * (ends - P3 * w1),
        GQ3 * (ends2 + Q3 * w1),
        GQ3 * (ends2 - Q3 * w1),
        w2,
    ]


def g43_adjoint(u):
    """G^T: six points to three weight gradients."""
    u0, u1, u2, u3, u4, u5 = u
    s, d, s2, d2 = GP3 * (u1 + u2), GP3 * (u1 - u2), GQ3 * (u3 + u4), GQ3 * (u3 - u4)
    return [1 / (P3 * Q3) ** 2 * u0 + (s + s2), P3 * d + Q3 * d2, u5 + P3**2 * s + Q3**2 * s2]


def b42(d):
    """B x of F(4, 2): five inputs to five points."""
    d0, d1, d2, d3, d4 = d
    even, odd, even2, odd2 = d2 - Q2**2 * d0, d3 - Q2**2 * d1, d2 - P2**2 * d0, d3 - P2**2 * d1
    return [
        odd + P2 * even,
        odd - P2 * even,
        odd2 + Q2 * even2,
        odd2 - Q2 * even2,
        (P2 * Q2) ** 2 * d0 + (d4 - (P2**2 + Q2**2) * d2),
    ]


def a42(m):
    """A m of F(4, 2): five points to four outputs."""
    m0, m1, m2, m3, m4 = m
    s, d, s2, d2 = m0 + m1, m0 - m1, m2 + m3, m2 - m3
    return [s + 1 / Q2 * s2, P2 * d + d2, P2**2 * s + Q2 * s2, P2**3 * d + Q2**2 * d2 + m4]


def a42_adjoint(y):
    """A^T: four output gradients to five points."""
    y0, y1, y2, y3 = y
    even, odd, even2, odd2 = y0 + P2**2 * y2, y1 + P2**2 * y3, y0 + Q2**2 * y2, y1 + Q2**2 * y3
    return [even + P2 * odd, even - P2 * odd, 1 / Q2 * even2 + odd2, 1 / Q2 * even2 - odd2, y3]


def g42(w0, w1):
    """G w of F(4, 2): two weights to five points."""
    return [GP2 * (w0 + P2 * w1), GP2 * (P2 * w1 - w0), GQ2 * (w0 + Q2 * w1), GQ2 * (Q2 * w1 - w0), w1]


def g42_adjoint(u):
    """G^T: five points to two weight gradients."""
    u0, u1, u2, u3, u4 = u
    s, d, s2, d2 = GP2 * (u0 + u1), GP2 * (u0 - u1), GQ2 * (u2 + u3), GQ2 * (u2 - u3)
    return [d + d2, u4 + P2 * s + Q2 * s2]


def interleave(even, odd):
    """even[0], odd[0], even[1], ..."""
    return [value for pair in zip(even, odd) for value in pair]


# 3 taps, stride 2: y_i = w0 x_2i + w1 x_2i+1 + w2 x_2i+2; F(4, 2) on the even inputs, plain products on the
# odd.


def b_down(d):
    return b42(d[0::2]) + list(d[1::2])


def a_down(m):
    return [y + extra for y, extra in zip(a42(m[:5]), m[5:])]


def a_down_adjoint(y):
    return a42_adjoint(y) + list(y)


def g_down(w):
    return g42(w[0], w[2]) + [w[1]] * 4


def g_down_adjoint(u):
    w0, w2 = g42_adjoint(u[:5])
    return [w0, (u[5] + u[6]) + (u[7] + u[8]), w2]


# Its input gradient: dx_2i = w0 dy_i + w2 dy_i-1 and dx_2i+1 = w1 dy_i, counting from the padded input's
# first pixel. Tiles start at the first pixel that is no padding: without padding 0, from dy_-1 ... dy_3;
# with it 1, from dy_0 ... dy_4.


def b_down_dx0(d):
    return b42(d) + list(d[1:])


def a_down_dx0(m):
    return interleave(a42(m[:5]), m[5:])


def b_down_dx1(d):
    return b42(d) + list(d[:4])


def a_down_dx1(m):
    return interleave(m[5:], a42(m[:5]))


def g_down_dx(w):
    return g42(w[2], w[0]) + [w[1]] * 4


# 3 taps on the nearest-neighbour x2 up-sampled input: y_2i = w0 x_i-1 + (w1 + w2) x_i, y_2i+1 = (w0 + w1)
# x_i + w2 x_i+1, from x_-1 ... x_4.


def b_up(d):
    return b42(d[:5]) + b42(d[1:])


def a_up(m):
    return interleave(a42(m[:5]), a42(m[5:]))


def a_up_adjoint(y):
    return a42_adjoint(y[0::2]) + a42_adjoint(y[1::2])


def g_up(w):
    return g42(w[0], w[1] + w[2]) + g42(w[0] + w[1], w[2])


def g_up_adjoint(u):
    e0, e1 = g42_adjoint(u[:5])
    o0, o1 = g42_adjoint(u[5:])
    return [e0 + o0, e1 + o0, e1 + o1]


# Its input gradient: dx_i = (w1 + w2) dy_2i + w0 dy_2i+2 + w2 dy_2i-1 + (w0 + w1) dy_2i+1, from dy_-1 ...
# dy_8.


def b_up_dx(d):
    return b42(d[1::2]) + b42(d[0::2])


def a_up_dx(m):
    return [even + odd for even, odd in zip(a42(m[:5]), a42(m[5:]))]


def g_up_dx(w):
    return g42(w[1] + w[2], w[0]) + g42(w[2], w[0] + w[1])


@dataclass(frozen=True, eq=False)
class Algorithm:
    """One dimension of a tile: `inputs` values from step_in * tile - offset on give `outputs` from outputs * tile on.

    b, g, a: B, G and A, from `inputs` values, three weights and `points` products. a_adjoint, g_adjoint: their
    transposes, for the weight gradient; None where the algorithm is an input gradient only.
    """

    name: str
    inputs: int
    points: int
    outputs: int
    step_in: int
    b: Callable
    a: Callable
    g: Callable
    a_adjoint: Callable | None = None
    g_adjoint: Callable | None = None
    offset: int = 1

    def tiles(self, shape: tuple[int, ...]) -> int:
        """How many make an output (N, H, W, K)."""
        n, height, width, _ = shape
        return n * -(-height // self.outputs) * -(-width // self.outputs)


CONV = Algorithm("conv", 6, 6, 4, 4, b43, a43, g43, a43_adjoint, g43_adjoint)
CONV_DX = Algorithm("conv_dx", 6, 6, 4, 4, b43, a43, lambda w: g43(w[::-1]))
DOWN0 = Algorithm("down", 9, 9, 4, 8, b_down, a_down, g_down, a_down_adjoint, g_down_adjoint, offset=0)
DOWN1 = Algorithm("down", 9, 9, 4, 8, b_down, a_down, g_down, a_down_adjoint, g_down_adjoint, offset=1)
DOWN_DX0 = Algorithm("down_dx0", 5, 9, 8, 4, b_down_dx0, a_down_dx0, g_down_dx, offset=1)
DOWN_DX1 = Algorithm("down_dx1", 5, 9, 8, 4, b_down_dx1, a_down_dx1, g_down_dx, offset=0)
UP = Algorithm("up", 6, 10, 8, 4, b_up, a_up, g_up, a_up_adjoint, g_up_adjoint)
UP_DX = Algorithm("up_dx", 10, 10, 4, 8, b_up_dx, a_up_dx, g_up_dx)
