"""Rung 0: the definition, seven plain loops.

Numba makes machine code of them, so nothing is lost to an interpreter; yet a core that can do 32 multiplications and
additions a cycle does not do one. Look at the innermost loop: one sum, to which each term is added after the one before
it, in an order that the compiler may not change, so that it cannot use vectors; and w[a, b, c, k] and w[a, b, c + 1, k]
are K floats apart, each in another cache line.
"""

import numpy as np
from numba import njit


@njit
def conv(x, w):
    """See the package."""
    images, height, width, channels = x.shape
    outputs = w.shape[3]
    y = np.empty((images, height, width, outputs), np.float32)
    for n in range(images):
        for i in range(height):
            for j in range(width):
                for k in range(outputs):
                    total = np.float32(0)
                    for a in range(max(0, 1 - i), min(3, height + 1 - i)):
                        for b in range(max(0, 1 - j), min(3, width + 1 - j)):
                            for c in range(channels):
                                total += x[n, i + a - 1, j + b - 1, c] * w[a, b, c, k]
                    y[n, i, j, k] = total
    return y
