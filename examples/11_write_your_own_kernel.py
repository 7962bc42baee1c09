"""A kernel of your own: group normalisation in plain loops, compiled by Numba, on all cores; the benchmark moves.

A backend of your own is a class; a method with the name of an operation replaces it, forward, backward or both. Each
rung is compared with the reference before it is timed. Writes kernel.png: milliseconds of each, the library's own
kernel below. A core that another program holds is waited for, so that on a busy machine all cores may be slower than
one. `python -m benchmarks ops --only group_norm` times the library's kernel beside PyTorch; change
backends/numba_kernels/normalization.py and see it move.
"""

import timeit

import matplotlib.pyplot as plt
import numba
import numpy as np
from hypothesis import given, settings

import backends
from backends.ops.normalization import NormContext, group_norm
from backends.testing import SHAPES, check_against


def kernel(x, gamma, beta, eps, y, mean, rstd):
    """x, y: (N, P, C), gamma, beta: (C,), mean, rstd: (N, G); all float32. Inner loops run over channels."""
    _, pixels, channels = x.shape
    width = channels // mean.shape[1]
    for n in numba.prange(x.shape[0]):
        sums, squares = np.zeros(channels, np.float32), np.zeros(channels, np.float32)
        for p in range(pixels):
            for c in range(channels):
                sums[c] += x[n, p, c]
        mean[n] = sums.reshape(-1, width).sum(axis=1) / np.float32(pixels * width)
        mu = np.repeat(mean[n], width)
        # A pass of its own: the mean square less mu^2 would cancel where mu is large, and fail the check below
        for p in range(pixels):
            for c in range(channels):
                squares[c] += (x[n, p, c] - mu[c]) ** 2
        rstd[n] = 1 / np.sqrt(squares.reshape(-1, width).sum(axis=1) / (pixels * width) + eps)
        scale = np.repeat(rstd[n], width) * gamma
        for p in range(pixels):
            for c in range(channels):
                y[n, p, c] = (x[n, p, c] - mu[c]) * scale[c] + beta[c]


def with_kernel(**how):
    """A backend of NumPy whose `group_norm` runs the kernel, compiled like that; backward stays the reference."""
    compiled = numba.njit(**how)(kernel)

    class WithKernel(backends.NumpyBackend):
        def group_norm(self, x, gamma, beta, groups, eps=1e-5):
            if not (x.dtype == gamma.dtype == beta.dtype == np.float32 and x.flags.c_contiguous and x.size):
                return group_norm(np, x, gamma, beta, groups, eps)  # what the kernel is not written for
            y, mean, rstd = np.empty_like(x), *(np.empty((x.shape[0], groups), np.float32) for _ in range(2))
            flat = (x.shape[0], -1, x.shape[-1])
            compiled(x.reshape(flat), gamma, beta, eps, y.reshape(flat), mean, rstd)
            return y, NormContext(x, gamma, beta, mean, rstd)

    return WithKernel()


def check(be):
    """Raises AssertionError unless the backend computes what the reference does, at 20 random shapes."""

    @settings(max_examples=20, deadline=None)
    @given(SHAPES["group_norm"])
    def at(case):
        check_against("group_norm", be, case)

    at()


def milliseconds(be, case):
    """The best of two hundred runs, since other programs take turns on the cores."""
    return 1e3 * min(timeit.repeat(lambda: be.group_norm(**case), number=1, repeat=200))


if __name__ == "__main__":
    rungs = {
        "the NumPy backend": backends.get("numpy"),
        "the kernel, compiled": with_kernel(),
        "the same on all cores": with_kernel(parallel=True),
        "the library's kernel": backends.get("numba"),
    }
    rng = np.random.default_rng(0)
    case = {"x": rng.standard_normal((32, 32, 32, 64), np.float32), "groups": 8}
    case |= {name: rng.standard_normal(64, np.float32) for name in ("gamma", "beta")}
    found = {}
    for name, be in rungs.items():
        be.group_norm(**case)  # compiles, before the check has NumPy allocate NaNs
        check(be)
        found[name] = milliseconds(be, case)
        print(f"{name:>24}: as the reference at 20 random shapes, {found[name]:6.2f} ms")
    figure, ax = plt.subplots(figsize=(8, 3), layout="constrained")
    ax.bar_label(ax.barh(list(found), list(found.values())), fmt="%.1f", padding=3)
    ax.invert_yaxis()
    ax.set(title="group normalisation of 32 images of 32x32, 64 channels", xlabel="milliseconds")
    figure.savefig("kernel.png", dpi=100)
    print("wrote kernel.png")
