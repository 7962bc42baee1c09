"""exp and sigmoid for Numba loops, without a call per element, so that the loops become vector code.

exp(x) = 2^n e^r with n = round(x / ln 2), |r| <= ln 2 / 2, where Taylor's polynomial of degree 6 is within 2.6e-7
of e^r relative; n goes into the exponent's bits (Cody & Waite 1980, chapter 6).
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

F = np.float32
# fastmath without "afn" and "reassoc": sums keep their order, so results repeat bit for bit
OPTIONS: dict[str, Any] = {"fastmath": {"contract", "nsz", "arcp"}, "error_model": "numpy"}
ONE = F(1)
LOG2_E = F(1 / math.log(2))
# Their sum is ln 2, and the first times any |n| < 2^12 is exact
LN2_HIGH, LN2_LOW = F(0.693359375), F(-2.12194440e-4)
C0, C1, C2, C3, C4, C5, C6 = (F(1 / math.factorial(k)) for k in range(7))
LOWEST, HIGHEST = F(-87), F(88)


@intrinsic
def float_of_bits(typingctx: Any, bits: Any) -> Any:
    """The float32 whose bits are this int32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@njit(inline="always", **OPTIONS)
def exp(x):
    """e^x in float32, relative error below 3e-7; x is limited to [-87, 88]."""
    x = min(max(x, LOWEST), HIGHEST)
    n = np.float32(np.rint(x * LOG2_E))
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    power = (((((C6 * r + C5) * r + C4) * r + C3) * r + C2) * r + C1) * r + C0
    return power * float_of_bits((np.int32(n) + np.int32(127)) << np.int32(23))


@njit(inline="always", **OPTIONS)
def sigmoid(x):
    """1 / (1 + e^-x) in float32."""
    return ONE / (ONE + exp(-x))
