"""exp, sigmoid and SiLU on vectors, without a call per element.

exp(x) = 2^n e^r with n = round(x / ln 2): r is in [-ln 2 / 2, ln 2 / 2], where the polynomial of degree 6
through e^r at Chebyshev's points is within 2e-9. 2^n is n put into the exponent's bits.
"""

import math

import numpy as np
from llvmlite import ir

from backends.numba_kernels.vectors.lanes import INTS, VECTOR, WIDTH, Lanes, llvm_call

LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4  # their sum is ln 2; the first times any |n| < 2^12 is exact
HALF = math.log(2) / 2
COEFFICIENTS = (
    np.polynomial.Chebyshev.interpolate(np.exp, 6, domain=[-HALF, HALF]).convert(kind=np.polynomial.Polynomial).coef
)


def _call(function_name, x):
    return Lanes(x.builder, llvm_call(x.builder, function_name, VECTOR, x.value))


def clamp(x, low, high):
    """x limited to [low, high]."""
    for bound, order in ((low, ">"), (high, "<")):
        edge = ir.Constant(VECTOR, [float(bound)] * WIDTH)
        x = Lanes(x.builder, x.builder.select(x.builder.fcmp_ordered(order, x.value, edge), x.value, edge))
    return x


def exp(x):
    """e^x for Lanes, relative error below 1.5e-7; x is limited to [-87, 88]."""
    builder = x.builder
    x = clamp(x, -87.0, 88.0)
    n = _call("llvm.rint.v16f32", x * (1 / math.log(2)))
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    result = r * COEFFICIENTS[6] + COEFFICIENTS[5]
    for coefficient in COEFFICIENTS[4::-1]:
        result = result * r + coefficient
    exponent = builder.shl(builder.fptosi(n.value, INTS), ir.Constant(INTS, [23] * WIDTH))
    bits = builder.add(builder.bitcast(result.value, INTS), exponent)
    return Lanes(builder, builder.bitcast(bits, VECTOR))


def sigmoid(x):
    """1 / (1 + e^-x) for Lanes."""
    one = Lanes(x.builder, ir.Constant(VECTOR, [1.0] * WIDTH))
    return one / (exp(0.0 - x) + 1.0)


def silu(x):
    """x sigmoid(x) for Lanes."""
    return x / (exp(0.0 - x) + 1.0)
