"""Rung 7: the transforms in registers as well, 16 channels of a tile at a time.

`tiles` writes and reads each number of a tile three times: with zeros at the edges, between columns and rows, and in
the end. But 16 channels of its 36 pixels are 36 vectors, nearly as many as there are registers. So the tile functions
of `backends.numba_kernels.convolution.tiles` load each pixel once (outside the image from a row of zeros, chosen
without a branch), transform columns and rows by one straight line of vector instructions, and store each result once.
"""

import numpy as np
from numba import njit

from backends.numba_kernels.convolution.kinds import PLAIN
from backends.numba_kernels.runtime.addresses import call10, call11
from benchmarks.ladder.cpu.threads import share
from benchmarks.ladder.cpu.v5_blocked import block_size
from benchmarks.ladder.cpu.v6_products import products, transformed


@njit
def inputs(tile, x, first, count, v, zeros):
    """v[:, p] of the tiles first + p, p < count; tile: address of the tile function, zeros: of zeros."""
    _, height, width, channels = x.shape
    down, across, pixel = (height + 3) // 4, (width + 3) // 4, 4 * channels
    for p in range(count):
        row, j = divmod(first + p, across)
        n, i = divmod(row, down)
        i, j = 4 * i - 1, 4 * j - 1
        corner, out = x.ctypes.data + ((n * height + i) * width + j) * pixel, v[0, p].ctypes.data
        for c in range(0, pixel, 64):
            step = v.shape[1] * pixel
            call10(tile, corner + c, i, j, height, width, width * pixel, pixel, zeros, out + c, step)


@njit
def outputs(tile, m, k0, y, first, count, zeros):
    """The tiles first + p of y, outputs from k0 on, from m[:, p]."""
    _, height, width, pixel = y.shape[0], y.shape[1], y.shape[2], 4 * y.shape[3]
    down, across = (height + 3) // 4, (width + 3) // 4
    _, size, outputs = m.shape
    for p in range(count):
        row, j = divmod(first + p, across)
        n, i = divmod(row, down)
        i, j = 4 * i, 4 * j
        corner, at = y.ctypes.data + ((n * height + i) * width + j) * pixel + 4 * k0, m[0, p].ctypes.data
        for k in range(0, 4 * outputs, 64):
            step = 4 * size * outputs
            call11(tile, at + k, step, corner + k, i, j, height, width, width * pixel, pixel, zeros, 0)


@njit(nogil=True)
def blocks(part, parts, x, u, y, size, input_tile, output_tile):
    """As in rung 5."""
    images, height, width, channels = x.shape
    tiles = images * ((height + 3) // 4) * ((width + 3) // 4)
    v, m = np.empty((36, size, channels), np.float32), np.empty((36, size, y.shape[3]), np.float32)
    zeros = np.zeros(16, np.float32)
    for start in range(part * size, tiles, parts * size):
        count = min(size, tiles - start)
        inputs(input_tile, x, start, count, v, zeros.ctypes.data)
        products(v, u, m)
        outputs(output_tile, m, 0, y, start, count, zeros.ctypes.data)


def conv(x, w):
    """See the package."""
    y = np.empty((*x.shape[:3], w.shape[3]), np.float32)
    tiles = PLAIN.tiles.input_tile.address, PLAIN.tiles.output_tile.address
    share(blocks, x, transformed(w), y, block_size(*w.shape[2:]), *tiles)
    return y
