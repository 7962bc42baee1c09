"""Rung 5: the work of rung 4 in blocks of tiles that stay in the core's own cache.

A block goes through all three steps, input transform, products and output transform, before the next one begins. Its
`v` and `m` are used again and again and never leave the 1 MiB of L2; memory sees only the image and the result.

Look at the size of a block: larger ones make better use of the weights, 36 C K numbers that every block reads again,
but v and m must fit. And at who works in parallel: each thread takes blocks and does their products alone, so BLAS,
which it calls, must not start further threads.
"""

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401  the BLAS that Numba calls; loaded before its threads are looked for
from numba import njit
from threadpoolctl import ThreadpoolController

from benchmarks.ladder.cpu.threads import share
from benchmarks.ladder.cpu.tiles import transform_input, transform_output, transform_weights

BLAS = ThreadpoolController()
L2_SHARE = 600_000  # bytes for v and m


def block_size(channels, outputs):
    """Tiles in a block, a multiple of 8."""
    return max(8, min(64, L2_SHARE // (36 * 4 * (channels + outputs)) // 8 * 8))


@njit(nogil=True)
def blocks(part, parts, x, u, y, size):
    """Every parts-th block of tiles of y, with u from `transform_weights`."""
    images, height, width, channels = x.shape
    outputs, tiles = u.shape[2], images * ((height + 3) // 4) * ((width + 3) // 4)
    v, m = np.empty((36, size, channels), np.float32), np.empty((36, size, outputs), np.float32)
    d, e = np.empty((6, 6, channels), np.float32), np.empty((6, 6, channels), np.float32)
    f = np.empty((4, 6, outputs), np.float32)
    for start in range(part * size, tiles, parts * size):
        count = min(size, tiles - start)
        for p in range(count):
            transform_input(x, start + p, v, p, d, e)
        for q in range(36):
            np.dot(v[q], u[q], m[q])
        for p in range(count):
            transform_output(m, p, y, start + p, f)


def conv(x, w):
    """See the package."""
    y = np.empty((*x.shape[:3], w.shape[3]), np.float32)
    with BLAS.limit(limits=1, user_api="blas"):
        share(blocks, x, transform_weights(w), y, block_size(*w.shape[2:]))
    return y
