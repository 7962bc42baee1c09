"""One pass over memory each, over flat float32 arrays: sum of squares, Adam, the moving average of weights."""

from typing import Any

import numpy as np
from numba import njit, prange


F = np.float32
# fastmath without "reassoc": sums keep their order, so results repeat bit for bit
OPTIONS: dict[str, Any] = {"fastmath": {"contract", "nsz", "arcp"}, "cache": True, "error_model": "numpy"}
# Of fixed size, so that the order of a sum does not depend on the number of threads
CHUNK = 1 << 14
# Within a chunk the order is the compiler's, the same at every call
REORDERED = OPTIONS | {"fastmath": True}


@njit(**REORDERED)
def chunk_squares(x):
    """The sum of squares, in float64."""
    total = 0.0
    for i in range(x.size):
        value = np.float64(x[i])
        total += value * value
    return total


@njit("float64(float32[::1])", parallel=True, **OPTIONS)
def squared_norm(x):
    """Sum of x[i]^2, with partial sums in float64; the same at any number of threads."""
    chunks = (x.size + CHUNK - 1) // CHUNK
    partial = np.empty(chunks, np.float64)
    for k in prange(chunks):
        partial[k] = chunk_squares(x[k * CHUNK : (k + 1) * CHUNK])
    total = 0.0
    for k in range(chunks):
        total += partial[k]
    return total


@njit(**OPTIONS)
def chunk_adam(params, grads, m, v, beta1, share1, beta2, share2, rate, keep, unbias, eps):
    """One chunk of `adam`, all factors float32."""
    for i in range(params.size):
        g = grads[i]
        first = beta1 * m[i] + share1 * g
        second = beta2 * v[i] + share2 * (g * g)
        m[i] = first
        v[i] = second
        params[i] = params[i] * keep - rate * (first / (np.sqrt(second * unbias) + eps))


@njit(
    "void(float32[::1], float32[::1], float32[::1], float32[::1], int64, float64, float64, float64, float64, float64)",
    parallel=True,
    **OPTIONS,
)
def adam(params, grads, m, v, step, lr, beta1, beta2, eps, weight_decay):
    """`backends.ops.optimizer.adam` in place: params, m and v are updated, all (P,)."""
    rate = F(lr / (1.0 - beta1**step))
    unbias = F(1.0 / (1.0 - beta2**step))
    keep = F(1.0 - lr * weight_decay)
    b1, b2, e = F(beta1), F(beta2), F(eps)
    # From float64: 1 - 0.999 in float32 is off by 1e-5
    share1, share2 = F(1.0 - beta1), F(1.0 - beta2)
    for k in prange((params.size + CHUNK - 1) // CHUNK):
        a, b = k * CHUNK, (k + 1) * CHUNK
        chunk_adam(params[a:b], grads[a:b], m[a:b], v[a:b], b1, share1, b2, share2, rate, keep, unbias, e)


@njit("void(float32[::1], float32[::1], float64)", parallel=True, **OPTIONS)
def ema(average, params, decay):
    """average += (1 - decay) (params - average), both (P,)."""
    share = F(1.0 - decay)
    for i in prange(average.size):
        average[i] += share * (params[i] - average[i])
