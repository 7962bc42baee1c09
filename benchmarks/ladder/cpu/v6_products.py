"""Rung 6: the products by the micro-kernel of rung 3 instead of BLAS.

A product of some 30 tiles with 64 x 64 weights is small for BLAS, which looks at sizes and copies both factors into an
order that suits it, for each of the 36 products of each block again. Here the weights are put in that order once for
the whole convolution, in panels of 32 outputs, by the library's function that transforms them; and the transformed
tiles are in the right order as they are.
"""

import numpy as np
from numba import njit

from backends.numba_kernels.convolution.kinds import PLAIN
from backends.numba_kernels.convolution.tiled import transformed_weights
from benchmarks.ladder.cpu.threads import share
from benchmarks.ladder.cpu.tiles import transform_input, transform_output
from benchmarks.ladder.cpu.v3_registers import product
from benchmarks.ladder.cpu.v5_blocked import block_size


@njit
def products(v, u, m):
    """m[q] = v[q] u[q]; u[panel, q] begins with the (C, 32) weights of a panel."""
    _, size, channels = v.shape
    outputs = m.shape[2]
    for q in range(36):
        for panel in range(outputs // 32):
            right = u[panel, q].ctypes.data
            for p in range(0, size, 8):
                left, out = v[q, p].ctypes.data, m[q, p].ctypes.data + 128 * panel
                product(left, 4 * channels, 0, right, 0, 1, channels, out, 4 * outputs)


@njit(nogil=True)
def blocks(part, parts, x, u, y, size):
    """As in rung 5."""
    images, height, width, channels = x.shape
    outputs, tiles = y.shape[3], images * ((height + 3) // 4) * ((width + 3) // 4)
    v, m = np.empty((36, size, channels), np.float32), np.empty((36, size, outputs), np.float32)
    d, e = np.empty((6, 6, channels), np.float32), np.empty((6, 6, channels), np.float32)
    f = np.empty((4, 6, outputs), np.float32)
    for start in range(part * size, tiles, parts * size):
        count = min(size, tiles - start)
        for p in range(count):
            transform_input(x, start + p, v, p, d, e)
        products(v, u, m)
        for p in range(count):
            transform_output(m, p, y, start + p, f)


def transformed(w):
    """u from weights (3, 3, C, K): see `products`."""
    return transformed_weights(PLAIN.tiles, PLAIN.tiles.weight_tile, w)


def conv(x, w):
    """See the package."""
    y = np.empty((*x.shape[:3], w.shape[3]), np.float32)
    share(blocks, x, transformed(w), y, block_size(*w.shape[2:]))
    return y
