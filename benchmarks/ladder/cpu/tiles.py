"""The transforms of F(4x4, 3x3) for the rungs from 4 on: loops over channels, which LLVM makes vectors of.

A tile is 4 x 4 pixels of the result and the 6 x 6 pixels of the image that they need. Lavin & Gray 2016
(arXiv:1509.09308): y = A^T [(G w G^T) * (B^T d B)] A, where * multiplies 36 pairs of numbers; summed over channels
these are 36 matrix products. `backends.numba_kernels.convolution.algorithms` has the same formulas in general form.
"""

import numpy as np
from numba import njit

from backends.numba_kernels.convolution.algorithms import P3, Q3, g43
from benchmarks.ladder.cpu.threads import share

G = np.array([g43(unit) for unit in np.eye(3)], np.float32).T
P, Q, PP, QQ = (np.float32(value) for value in (P3, Q3, P3**2, Q3**2))
PPQQ, PP_QQ, P_1, Q_1, QQ_1 = (np.float32(v) for v in ((P3 * Q3) ** 2, P3**2 + Q3**2, 1 / P3, 1 / Q3, 1 / Q3**2))


def transform_weights(w):
    """u[q] = (G w G^T)[q] of w: (3, 3, C, K), in an array (36, C, K)."""
    u = np.zeros((36, *w.shape[2:]), np.float32)
    share(weights_of_channels, w, u)
    return u


@njit(nogil=True, fastmath=True)
def weights_of_channels(part, parts, w, u):
    """Every parts-th input channel of `transform_weights`; u holds zeros."""
    _, _, channels, outputs = w.shape
    for c in range(part, channels, parts):
        for q in range(36):
            for a in range(3):
                for b in range(3):
                    factor = G[q // 6, a] * G[q % 6, b]
                    if factor != 0:
                        for k in range(outputs):
                            u[q, c, k] += factor * w[a, b, c, k]


@njit(fastmath=True)
def transform_input(x, tile, v, p, d, e):
    """v[:, p] = B^T d B for the 6 x 6 pixels of this tile of x; d, e: (6, 6, C), scratch."""
    _, height, width, channels = x.shape
    down, across = (height + 3) // 4, (width + 3) // 4
    n, i0, j0 = tile // (down * across), tile // across % down * 4 - 1, tile % across * 4 - 1
    for a in range(6):
        for b in range(6):
            if 0 <= i0 + a < height and 0 <= j0 + b < width:
                for c in range(channels):
                    d[a, b, c] = x[n, i0 + a, j0 + b, c]
            else:
                for c in range(channels):
                    d[a, b, c] = 0
    for b in range(6):
        for c in range(channels):
            d0, d1, d2, d3, d4, d5 = d[0, b, c], d[1, b, c], d[2, b, c], d[3, b, c], d[4, b, c], d[5, b, c]
            even, odd, even2, odd2 = d4 - QQ * d2, d3 - QQ * d1, d4 - PP * d2, d3 - PP * d1
            e[0, b, c], e[5, b, c] = PPQQ * d0 + (d4 - PP_QQ * d2), PPQQ * d1 + (d5 - PP_QQ * d3)
            e[1, b, c], e[2, b, c] = even + P * odd, even - P * odd
            e[3, b, c], e[4, b, c] = even2 + Q * odd2, even2 - Q * odd2
    for a in range(6):
        for c in range(channels):
            d0, d1, d2, d3, d4, d5 = e[a, 0, c], e[a, 1, c], e[a, 2, c], e[a, 3, c], e[a, 4, c], e[a, 5, c]
            even, odd, even2, odd2 = d4 - QQ * d2, d3 - QQ * d1, d4 - PP * d2, d3 - PP * d1
            q = 6 * a
            v[q, p, c], v[q + 5, p, c] = PPQQ * d0 + (d4 - PP_QQ * d2), PPQQ * d1 + (d5 - PP_QQ * d3)
            v[q + 1, p, c], v[q + 2, p, c] = even + P * odd, even - P * odd
            v[q + 3, p, c], v[q + 4, p, c] = even2 + Q * odd2, even2 - Q * odd2


@njit(fastmath=True)
def transform_output(m, p, y, tile, e):
    """This tile of y = A^T m[:, p] A, cut at the image's edges; e: (4, 6, K), scratch."""
    _, height, width, outputs = y.shape
    down, across = (height + 3) // 4, (width + 3) // 4
    n, i0, j0 = tile // (down * across), tile // across % down * 4, tile % across * 4
    for b in range(6):
        for k in range(outputs):
            m1, m2, m3, m4 = m[6 + b, p, k], m[12 + b, p, k], m[18 + b, p, k], m[24 + b, p, k]
            s, d, s2, d2 = m1 + m2, m1 - m2, m3 + m4, m3 - m4
            e[0, b, k], e[1, b, k] = m[b, p, k] + P_1 * s + QQ_1 * s2, d + Q_1 * d2
            e[2, b, k], e[3, b, k] = P * s + s2, PP * d + Q * d2 + m[30 + b, p, k]
    for a in range(min(4, height - i0)):
        columns = min(4, width - j0)
        for k in range(outputs):
            m1, m2, m3, m4 = e[a, 1, k], e[a, 2, k], e[a, 3, k], e[a, 4, k]
            s, d, s2, d2 = m1 + m2, m1 - m2, m3 + m4, m3 - m4
            y[n, i0 + a, j0, k] = e[a, 0, k] + P_1 * s + QQ_1 * s2
            if columns > 1:
                y[n, i0 + a, j0 + 1, k] = d + Q_1 * d2
            if columns > 2:
                y[n, i0 + a, j0 + 2, k] = P * s + s2
            if columns > 3:
                y[n, i0 + a, j0 + 3, k] = PP * d + Q * d2 + e[a, 5, k]
