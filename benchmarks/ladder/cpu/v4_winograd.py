"""Rung 4: a quarter of the multiplications, by Winograd's F(4x4, 3x3).

16 pixels of the result take 36 multiplications for each pair of channels instead of 144. What remains is 36 products of
(tiles x C) and (C x K) matrices, which BLAS does, and additions before and after (see `tiles`).

Look at the sizes of `v` and `m`: 36 numbers for 16 pixels, so each is 2.25 times as large as the image or the result,
38 MB for 64 images of 32 x 32 x 64. Both are written to memory and read back, and with few channels, where a number
takes part in few multiplications, that costs all that was gained.
"""

import numpy as np
from numba import njit

from backends.numba_kernels.runtime.pool import POOL
from benchmarks.ladder.cpu.threads import share
from benchmarks.ladder.cpu.tiles import transform_input, transform_output, transform_weights


@njit(nogil=True)
def transform_inputs(part, parts, x, v):
    """A share of the tiles of x into v (36, tiles, C)."""
    tiles, channels = v.shape[1], x.shape[3]
    d, e = np.empty((6, 6, channels), np.float32), np.empty((6, 6, channels), np.float32)
    for tile in range(part * tiles // parts, (part + 1) * tiles // parts):
        transform_input(x, tile, v, tile, d, e)


@njit(nogil=True)
def transform_outputs(part, parts, m, y):
    """A share of the tiles of y from the products m (36, tiles, K)."""
    _, tiles, outputs = m.shape
    e = np.empty((4, 6, outputs), np.float32)
    for tile in range(part * tiles // parts, (part + 1) * tiles // parts):
        transform_output(m, tile, y, tile, e)


def conv(x, w):
    """See the package."""
    images, height, width, channels = x.shape
    outputs, tiles = w.shape[3], images * ((height + 3) // 4) * ((width + 3) // 4)
    # Memory that is used again: fresh arrays of this size would cost more than filling them
    v, m = POOL.empty((36, tiles, channels)), POOL.empty((36, tiles, outputs))
    y = np.empty((images, height, width, outputs), np.float32)
    share(transform_inputs, x, v)
    np.matmul(v, transform_weights(w), out=m)
    share(transform_outputs, m, y)
    return y
