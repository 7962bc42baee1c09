"""Group normalisation, with or without SiLU, over one tensor or two that are joined along channels.

One image is one task: its pixels are summed, normalised and written while they are in the core's cache. Sums
run over pixels channel by channel, so that the inner loops are vector code and the order never changes.
"""

import numpy as np
from numba import njit, prange

from backends.numba_kernels.fast_exp import ONE, OPTIONS, exp, sigmoid


@njit(**OPTIONS)
def add_up(x, total):
    """total[c] += sum over p of x[p, c]."""
    for p in range(x.shape[0]):
        for c in range(x.shape[1]):
            total[c] += x[p, c]


@njit(**OPTIONS)
def add_up_squares(x, centre, total):
    """total[c] += sum over p of (x[p, c] - centre[c])^2."""
    for p in range(x.shape[0]):
        for c in range(x.shape[1]):
            d = x[p, c] - centre[c]
            total[c] += d * d


@njit(**OPTIONS)
def apply(x, scale, offset, silu, y, first):
    """y[p, first + c] = z or silu(z), z = scale[c] x[p, c] + offset[c]."""
    if silu:
        for p in range(x.shape[0]):
            for c in range(x.shape[1]):
                z = scale[c] * x[p, c] + offset[c]
                y[p, first + c] = z / (ONE + exp(-z))
    else:
        for p in range(x.shape[0]):
            for c in range(x.shape[1]):
                y[p, first + c] = scale[c] * x[p, c] + offset[c]


@njit(parallel=True, **OPTIONS)
def forward(x, skip, gamma, beta, eps, silu, y, mean, rstd):
    """y (N, P, A + B) from x (N, P, A) and skip (N, P, B); mean, rstd (N, G) are written too."""
    images, pixels, first = x.shape
    channels, groups = gamma.size, mean.shape[1]
    width = channels // groups
    for n in prange(images):
        total = np.zeros(channels, np.float32)
        centre = np.empty(channels, np.float32)
        scale = np.empty(channels, np.float32)
        offset = np.empty(channels, np.float32)
        add_up(x[n], total[:first])
        add_up(skip[n], total[first:])
        for g in range(groups):
            s = 0.0
            for c in range(g * width, (g + 1) * width):
                s += total[c]
            mean[n, g] = s / (pixels * width)
            for c in range(g * width, (g + 1) * width):
                centre[c] = mean[n, g]
                total[c] = 0
        add_up_squares(x[n], centre[:first], total[:first])
        add_up_squares(skip[n], centre[first:], total[first:])
        for g in range(groups):
            s = 0.0
            for c in range(g * width, (g + 1) * width):
                s += total[c]
            rstd[n, g] = 1.0 / np.sqrt(s / (pixels * width) + eps)
            for c in range(g * width, (g + 1) * width):
                scale[c] = gamma[c] * rstd[n, g]
                offset[c] = beta[c] - mean[n, g] * scale[c]
        apply(x[n], scale[:first], offset[:first], silu, y[n], 0)
        apply(skip[n], scale[first:], offset[first:], silu, y[n], first)


@njit(parallel=True, **OPTIONS)
def repeat(x, skip, gamma, beta, mean, rstd, silu, y):
    """y again, from the statistics that `forward` found: what backward recomputes instead of keeping."""
    images, _, first = x.shape
    channels, groups = gamma.size, mean.shape[1]
    width = channels // groups
    for n in prange(images):
        scale = np.empty(channels, np.float32)
        offset = np.empty(channels, np.float32)
        for c in range(channels):
            scale[c] = gamma[c] * rstd[n, c // width]
            offset[c] = beta[c] - mean[n, c // width] * scale[c]
        apply(x[n], scale[:first], offset[:first], silu, y[n], 0)
        apply(skip[n], scale[first:], offset[first:], silu, y[n], first)


@njit(**OPTIONS)
def copy(dy, dx):
    """dx = dy."""
    for p in range(dy.shape[0]):
        for c in range(dy.shape[1]):
            dx[p, c] = dy[p, c]


@njit(**OPTIONS)
def through_silu(x, scale, offset, centre, silu, dx, sum_d, sum_dx):
    """dx = dy becomes dz, the gradient at the normalisation's output; its sums, and those of dz (x - mean)."""
    for p in range(x.shape[0]):
        for c in range(x.shape[1]):
            value, d = x[p, c], dx[p, c]
            if silu:
                z = scale[c] * value + offset[c]
                s = sigmoid(z)
                d = d * s * (ONE + z * (ONE - s))
            dx[p, c] = d
            sum_d[c] += d
            sum_dx[c] += d * (value - centre[c])


@njit(**OPTIONS)
def finish(x, scale, slope, level, dx, add, residual):
    """dx = scale dz - slope x + level (+ residual)."""
    if add:
        for p in range(x.shape[0]):
            for c in range(x.shape[1]):
                dx[p, c] = scale[c] * dx[p, c] - slope[c] * x[p, c] + level[c] + residual[p, c]
    else:
        for p in range(x.shape[0]):
            for c in range(x.shape[1]):
                dx[p, c] = scale[c] * dx[p, c] - slope[c] * x[p, c] + level[c]


@njit(parallel=True, **OPTIONS)
def backward(x, skip, dy, gamma, beta, mean, rstd, silu, given, dx, dskip, add, residual, dgamma, dbeta):
    """dx (N, P, A), dskip (N, P, B) and, per image, dgamma and dbeta (N, A + B).

    given: dx and dskip hold the gradient of y's two parts and are overwritten; else it is dy, and skip empty.
    add: residual, of dx's shape, is added to it.
    """
    images, pixels, first = x.shape
    channels, groups = gamma.size, mean.shape[1]
    width = channels // groups
    for n in prange(images):
        scale = np.empty(channels, np.float32)
        offset = np.empty(channels, np.float32)
        centre = np.empty(channels, np.float32)
        sum_d = np.zeros(channels, np.float32)
        sum_dx = np.zeros(channels, np.float32)
        for c in range(channels):
            centre[c] = mean[n, c // width]
            scale[c] = gamma[c] * rstd[n, c // width]
            offset[c] = beta[c] - centre[c] * scale[c]
        if not given:
            copy(dy[n], dx[n])
        through_silu(x[n], scale[:first], offset[:first], centre[:first], silu, dx[n], sum_d[:first], sum_dx[:first])
        through_silu(
            skip[n], scale[first:], offset[first:], centre[first:], silu, dskip[n], sum_d[first:], sum_dx[first:]
        )
        for g in range(groups):
            r, mean_d, mean_dn = np.float64(rstd[n, g]), 0.0, 0.0
            for c in range(g * width, (g + 1) * width):
                dbeta[n, c] = sum_d[c]
                dgamma[n, c] = sum_dx[c] * rstd[n, g]
                mean_d += sum_d[c] * gamma[c]
                mean_dn += sum_dx[c] * gamma[c]
            level, slope = mean_d * r / (pixels * width), mean_dn * r * r * r / (pixels * width)
            for c in range(g * width, (g + 1) * width):
                sum_d[c] = slope
                sum_dx[c] = slope * mean[n, g] - level
        finish(x[n], scale[:first], sum_d[:first], sum_dx[:first], dx[n], add, residual[n])
        finish(skip[n], scale[first:], sum_d[first:], sum_dx[first:], dskip[n], False, dskip[n])
