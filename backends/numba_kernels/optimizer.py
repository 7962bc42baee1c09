"""One pass over memory each, over flat float32 arrays: sum of squares, Adam with or without the moving average of
weights, that average alone."""

from typing import Any

import numpy as np
from numba import carray, njit

from backends.numba_kernels.runtime.addresses import address, doubles, floats
from backends.numba_kernels.runtime.launch import plan_type, worker
from backends.thread_count import threads

F = np.float32
# fastmath without "reassoc": sums keep their order, so results repeat bit for bit
OPTIONS: dict[str, Any] = {"fastmath": {"contract", "nsz", "arcp"}, "error_model": "numpy"}
# Of fixed size, so that the order of a sum does not depend on the number of threads
CHUNK = 1 << 14
# Within a chunk the order is the compiler's, the same at every call
REORDERED = OPTIONS | {"fastmath": True}
PLAN = plan_type("count parts params grads m v average factors partial")


@njit(**REORDERED)
def sum_of_squares(x, first, last):
    """The sum of x[first:last]^2, in float64."""
    total = 0.0
    for i in range(first, last):
        value = np.float64(x[i])
        total += value * value
    return total


@worker(PLAN, **OPTIONS)
def squares_worker(part, plans):
    """partial[k] = the sum of squares of chunk k of params."""
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


@worker(PLAN, **OPTIONS)
def adam_worker(part, plans):
    """One part of `adam`."""
    plan = carray(plans, 1)[0]
    params, grads, m, v = floats(plan.params), floats(plan.grads), floats(plan.m), floats(plan.v)
    factors = floats(plan.factors)
    beta1, share1, beta2, share2 = factors[0], factors[1], factors[2], factors[3]
    rate, keep, unbias, eps = factors[4], factors[5], factors[6], factors[7]
    scale, share = factors[8], factors[9]
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


@worker(PLAN, **OPTIONS)
def ema_worker(part, plans):
    """One part of `ema`."""
    plan = carray(plans, 1)[0]
    begin, end = plan.count * part // plan.parts, plan.count * (part + 1) // plan.parts
    move(floats(plan.average), floats(plan.params), floats(plan.factors)[0], begin, end)


def run(work, params, **arrays):
    """Run `work` on flat arrays of params' size."""
    parts = threads()
    plan = work.plan(
        count=params.size, parts=parts, params=address(params), **{name: address(a) for name, a in arrays.items()}
    )
    work.run(parts, plan)


def squared_norm(x):
    """Sum of x[i]^2, with partial sums in float64; the same at any number of threads."""
    partial = np.empty((x.size + CHUNK - 1) // CHUNK)
    run(squares_worker, x, partial=partial)
    return float(partial.sum())


def adam(params, grads, m, v, step, lr, beta1, beta2, eps, weight_decay, average=None, decay=1.0, scale=1.0):
    """`backends.ops.optimizer.adam`, or with an average `adam_ema`, in place: all but grads are updated, all (P,)."""
    # Shares from float64: 1 - 0.999 in float32 is off by 1e-5
    factors = np.array(
        [
            beta1, 1 - beta1, beta2, 1 - beta2,
            lr / (1 - beta1**step), 1 - lr * weight_decay, 1 / (1 - beta2**step), eps, scale, 1 - decay,
        ],
        F,
    )  # fmt: skip
    run(adam_worker, params, grads=grads, m=m, v=v, average=average, factors=factors)


def ema(average, params, decay):
    """average += (1 - decay) (params - average), both (P,)."""
    run(ema_worker, params, average=average, factors=np.array([1 - decay], F))
