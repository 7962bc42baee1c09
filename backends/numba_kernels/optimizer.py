"""One pass over memory each, over flat float32 arrays: sum of squares, Adam with or without the moving average of
weights, that average alone."""

from typing import Any

import numpy as np
from numba import carray, njit

from backends.numba_kernels.runtime.addresses import address, as_single, bits_of, doubles, floats
from backends.numba_kernels.runtime.launch import PlanType, worker
from backends.thread_count import threads

# fastmath without "reassoc": sums keep their order, so results repeat bit for bit
OPTIONS: dict[str, Any] = {"fastmath": {"contract", "nsz", "arcp"}, "error_model": "numpy"}
# Fixed, so that the order of a sum does not depend on the number of threads
CHUNK = 1 << 14
# Within a chunk the order is the compiler's, the same at every call
REORDERED = OPTIONS | {"fastmath": True}
SQUARES = PlanType("count parts params partial")
# Addresses, then numbers as the bits of a float32: share1 = 1 - beta1, share2 = 1 - beta2, rate = lr / (1 -
# beta1^step), keep = 1 - lr weight_decay, unbias = 1 / (1 - beta2^step), share = 1 - decay
ADAM = PlanType(
    "count parts params grads m v beta1 share1 beta2 share2 rate keep unbias eps scale share", optional="average"
)
EMA = PlanType("count parts params average share")


@njit(**REORDERED)
def sum_of_squares(x, first, last):
    """The sum of x[first:last]^2, in float64."""
    total = 0.0
    for i in range(first, last):
        value = np.float64(x[i])
        total += value * value
    return total


@worker(SQUARES, **OPTIONS)
def squares_worker(part, plans):
    """partial[k] = the sum of squares of chunk k of params: `count` float32; partial: float64."""
    plan = carray(plans, 1)[0]
    x, partial = floats(plan.params), doubles(plan.partial)
    chunks = (plan.count + CHUNK - 1) // CHUNK
    for k in range(chunks * part // plan.parts, chunks * (part + 1) // plan.parts):
        partial[k] = sum_of_squares(x, k * CHUNK, min(k * CHUNK + CHUNK, plan.count))


@njit(**OPTIONS)
def move(average, params, share, start, stop):
    """average += share (params - average) between two indices."""
    for i in range(start, stop):
        average[i] += share * (params[i] - average[i])


@worker(ADAM, **OPTIONS)
def adam_worker(part, plans):
    """One part of `adam`. params, grads, m, v, average: `count` float32."""
    plan = carray(plans, 1)[0]
    params, grads, m, v = floats(plan.params), floats(plan.grads), floats(plan.m), floats(plan.v)
    beta1, share1, beta2, share2 = (
        as_single(plan.beta1), as_single(plan.share1), as_single(plan.beta2), as_single(plan.share2)
    )  # fmt: skip
    rate, keep, unbias = as_single(plan.rate), as_single(plan.keep), as_single(plan.unbias)
    eps, scale, share = as_single(plan.eps), as_single(plan.scale), as_single(plan.share)
    begin, end = plan.count * part // plan.parts, plan.count * (part + 1) // plan.parts
    # Chunk by chunk, so that the average finds the new parameters in the cache; of one loop over five arrays LLVM
    # makes slower code
    for start in range(begin, end, CHUNK):
        stop = min(start + CHUNK, end)
        for i in range(start, stop):
            g = scale * grads[i]
            first = beta1 * m[i] + share1 * g
            second = beta2 * v[i] + share2 * (g * g)
            m[i] = first
            v[i] = second
            params[i] = params[i] * keep - rate * (first / (np.sqrt(second * unbias) + eps))
        if plan.average != 0:
            move(floats(plan.average), params, share, start, stop)


@worker(EMA, **OPTIONS)
def ema_worker(part, plans):
    """One part of `ema`. params, average: `count` float32."""
    plan = carray(plans, 1)[0]
    begin, end = plan.count * part // plan.parts, plan.count * (part + 1) // plan.parts
    move(floats(plan.average), floats(plan.params), as_single(plan.share), begin, end)


def run(work, params, **fields):
    """Run `work` on flat arrays of params' size."""
    parts = threads()
    work.run(parts, work.plan(count=params.size, parts=parts, params=address(params), **fields))


def squared_norm(x):
    """Sum of x[i]^2, with partial sums in float64; the same at any number of threads."""
    partial = np.empty((x.size + CHUNK - 1) // CHUNK)
    run(squares_worker, x, partial=address(partial))
    return float(partial.sum())


def adam(params, grads, m, v, step, lr, beta1, beta2, eps, weight_decay, average=None, decay=1.0, scale=1.0):
    """`backends.ops.optimizer.adam`, or with an average `adam_ema`, in place: all but grads are updated, all (P,)."""
    # Shares from float64: 1 - 0.999 in float32 is off by 1e-5
    numbers = dict(
        beta1=beta1, share1=1 - beta1, beta2=beta2, share2=1 - beta2,
        rate=lr / (1 - beta1**step), keep=1 - lr * weight_decay, unbias=1 / (1 - beta2**step), eps=eps,
        scale=scale, share=1 - decay,
    )  # fmt: skip
    run(
        adam_worker, params, grads=address(grads), m=address(m), v=address(v), average=address(average),
        **{name: bits_of(number) for name, number in numbers.items()},
    )  # fmt: skip


def ema(average, params, decay):
    """average += (1 - decay) (params - average), both (P,)."""
    run(ema_worker, params, average=address(average), share=bits_of(1 - decay))
