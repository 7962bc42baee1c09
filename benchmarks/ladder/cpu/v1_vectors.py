"""Rung 1: the same loops in another order, for vectors and for threads.

The output channel is innermost now. Its iterations do not depend on one another and touch neighbouring memory, so that
LLVM does eight or sixteen of them with one vector instruction; and the rows of the result are shared among the threads.
Look at the innermost loop again: for each multiplication it loads a weight and a sum, and stores the sum. A core cannot
load and store nearly as much as it can multiply, so the arithmetic waits for L1; and every pixel reads all the 9 C K
weights (147 kB at 64 channels) again, which come from L2 or, with more channels, from L3. The sums begin at a cache
line: NumPy's own arrays often begin 16 bytes after one, then vectors straddle lines, and all takes twice as long.
"""

from numba import njit

from backends.numba_kernels.runtime.pool import aligned_empty
from benchmarks.ladder.cpu.threads import share


@njit(nogil=True, fastmath=True)
def rows(part, parts, x, w, y):
    """Every parts-th row of y, which holds zeros, from row `part` on."""
    images, height, width, channels = x.shape
    outputs = w.shape[3]
    for row in range(part, images * height, parts):
        n, i = divmod(row, height)
        for j in range(width):
            for a in range(max(0, 1 - i), min(3, height + 1 - i)):
                for b in range(max(0, 1 - j), min(3, width + 1 - j)):
                    for c in range(channels):
                        value = x[n, i + a - 1, j + b - 1, c]
                        for k in range(outputs):
                            y[n, i, j, k] += value * w[a, b, c, k]


def conv(x, w):
    """See the package."""
    y = aligned_empty((*x.shape[:3], w.shape[3]))
    y[:] = 0
    share(rows, x, w, y)
    return y
