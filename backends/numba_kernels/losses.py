"""Training losses and what their gradients are multiples of, in one pass."""

from typing import Any

import numpy as np
from numba import carray

from backends.array import Array
from backends.numba_kernels.runtime.addresses import address, as_single, bits_of, doubles, floats, write_float
from backends.numba_kernels.runtime.launch import PlanType, worker
from backends.numba_kernels.runtime.pool import POOL

PLAN = PlanType("kind prediction target weights per delta slope partial chunks count value")
KINDS = {"mse": 0, "l1": 1, "huber": 2}
# Fixed, so that the order of a sum does not depend on the number of threads
CHUNK = 1 << 13
OPTIONS: dict[str, Any] = {"error_model": "numpy"}


@worker(PLAN, **OPTIONS)
def loss_worker(part, plans):
    """One chunk: the slopes, and the sum of its losses in float64.

    prediction, target, slope: `count` float32; weights: one for each `per` of them, or null; partial: `chunks` float64.
    """
    plan = carray(plans, 1)[0]
    prediction, target, slope = floats(plan.prediction), floats(plan.target), floats(plan.slope)
    delta, total, weights = as_single(plan.delta), 0.0, floats(plan.weights)
    for i in range(part * CHUNK, min(part * CHUNK + CHUNK, plan.count)):
        r = prediction[i] - target[i]
        c, term = r, r
        if plan.kind == 1:
            # NaN compares as neither, and must spread
            c = np.float32(1) if r > 0 else np.float32(-1) if r < 0 else np.float32(0) * r
        elif plan.kind == 2:
            c = delta if r > delta else -delta if r < -delta else r
            term = r - np.float32(0.5) * c
        if plan.weights != 0:
            c = weights[i // plan.per] * c
        total += np.float64(term * c)
        slope[i] = c
    doubles(plan.partial)[part] = total


@worker(PLAN, **OPTIONS)
def mean_worker(part, plans):
    """The mean, one float32, from the chunks' sums in their order."""
    plan = carray(plans, 1)[0]
    partial, total = doubles(plan.partial), 0.0
    for i in range(plan.chunks):
        total += partial[i]
    write_float(plan.value, np.float32(total / plan.count))


def forward(
    kind: str, prediction: Array, target: Array, weights: Array | None, delta: float, value: Array, slope: Array
) -> None:
    """value () = the mean loss; slope, of the prediction's shape, that which times 1/n (mse: 2/n) is its gradient.

    kind: one of KINDS. weights: (N,), of each image, or None. delta: of the Huber loss.
    """
    count = prediction.size
    per = count if weights is None else count // weights.size
    chunks = -(-count // CHUNK)
    partial = POOL.empty((chunks,), np.float64)
    plan = loss_worker.plan(
        kind=KINDS[kind], prediction=address(prediction), target=address(target), weights=address(weights), per=per,
        delta=bits_of(delta), slope=address(slope), partial=address(partial), chunks=chunks, count=count,
        value=address(value),
    )  # fmt: skip
    loss_worker.run(chunks, plan)
    mean_worker.run(1, plan)
