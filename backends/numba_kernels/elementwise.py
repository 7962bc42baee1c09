"""Sums and SiLU over contiguous float32 arrays; those of any shape are passed flat, as `x.reshape(-1)`."""

from numba import njit, prange

from backends.numba_kernels.fast_exp import ONE, OPTIONS, exp, sigmoid
from backends.numba_kernels.normalization import add_up

FLAT = "float32[::1]"


@njit(f"void({FLAT}, {FLAT}, {FLAT})", parallel=True, **OPTIONS)
def add(a, b, out):
    """out = a + b; out may be a or b."""
    for i in prange(out.size):
        out[i] = a[i] + b[i]


@njit("void(float32[:, :, ::1], float32[:, ::1])", parallel=True, **OPTIONS)
def sum_pixels(x, out):
    """out (N, C) = sum over p of x (N, P, C), in order."""
    for n in prange(x.shape[0]):
        for c in range(x.shape[2]):
            out[n, c] = 0
        add_up(x[n], out[n])


@njit(f"void({FLAT}, {FLAT})", parallel=True, **OPTIONS)
def silu(x, y):
    """y = x sigmoid(x); y may be x."""
    for i in prange(y.size):
        y[i] = x[i] / (ONE + exp(-x[i]))


@njit(f"void({FLAT}, {FLAT}, {FLAT})", parallel=True, **OPTIONS)
def silu_backward(x, dy, dx):
    """dx = dy s (1 + x (1 - s)) with s = sigmoid(x); dx may be dy."""
    for i in prange(dx.size):
        s = sigmoid(x[i])
        dx[i] = dy[i] * s * (ONE + x[i] * (ONE - s))
