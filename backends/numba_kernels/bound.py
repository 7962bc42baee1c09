"""The terms of the variational bound and their gradients: see `backends.ops.bound` for what is computed.

The decoder is computed in float64: few images need it, and differences of probabilities would lose their digits.
"""

import math
from typing import Any

import numpy as np
from numba import carray, njit

from backends.array import Array
from backends.numba_kernels.runtime.addresses import address, as_single, bits_of, floats, write_float
from backends.numba_kernels.runtime.launch import PlanType, worker
from backends.ops.bound import BITS, DENSITY, EDGE, HALF_CELL, STEPS

PLAN = PlanType("output target x0 steps hybrid per channels count losses", optional="dy factor doutput")
MEAN = PlanType("losses count")
OPTIONS: dict[str, Any] = {"error_model": "numpy"}
COLUMNS = len(STEPS)
ROOT_HALF, ROOT_PI = math.sqrt(0.5), math.sqrt(math.pi)
# From here on exp(x^2) nears the end of float64, and the first terms of its asymptotic series are exact to 1e-9
FAR_OUT = 24.0


@njit(inline="always")
def scaled_erfc(x):
    """exp(x^2) erfc(x) for x >= 0."""
    if x < FAR_OUT:
        return math.exp(x * x) * math.erfc(x)
    inverse = 1.0 / (x * x)
    return (1.0 - 0.5 * inverse * (1.0 - 1.5 * inverse)) / (x * ROOT_PI)


@njit(inline="always")
def columns(steps, image):
    """What the timestep of an image says, in the order of STEPS; steps: an address."""
    values, i = floats(steps), image * COLUMNS
    return values[i], values[i + 1], values[i + 2], values[i + 3], values[i + 4], values[i + 5]


@njit(inline="always")
def decoder(d, x0, log_variance):
    """-log p of a grey level in nats, and its derivatives by x0 - mean and by the log-variance."""
    two_sided, side = True, 1.0 if d > 0 else -1.0 if d < 0 else 0.0
    if x0 >= EDGE or x0 <= -EDGE:
        two_sided, side = False, 1.0 if x0 >= EDGE else -1.0
    inverse, distance = math.exp(-0.5 * log_variance), side * d
    near, far, ratio, far_tail = (HALF_CELL - distance) * inverse, 0.0, 0.0, 0.0
    if two_sided:
        far = (HALF_CELL + distance) * inverse
        ratio = math.exp(-2.0 * HALF_CELL * distance * inverse * inverse)
        far_tail = 0.5 * scaled_erfc(far * ROOT_HALF) * ratio
    half_square, near_tail = 0.5 * near * near, 0.5 * scaled_erfc(abs(near) * ROOT_HALF)
    if near > 0:
        inside = math.exp(-half_square)
        p = 1.0 - inside * (near_tail + far_tail)
        nats, at_near = -math.log(p), DENSITY * inside / p
    else:
        p = near_tail - far_tail
        nats, at_near = half_square - math.log(p), DENSITY / p
    at_far = ratio * at_near
    return nats, (at_near - at_far) * inverse * side, 0.5 * (near * at_near + far * at_far)


@worker(PLAN, **OPTIONS)
def forward_worker(part, plans):
    """The loss of one image. output: N x P x 2C; target, x0: N x P x C (`per` = P C); steps: N x 6; losses: 1 + N."""
    plan = carray(plans, 1)[0]
    channels = plan.channels
    gap, low, high, first, simple, bound = columns(plan.steps, part)
    output, target, x0 = floats(plan.output), floats(plan.target), floats(plan.x0)
    half, squares, nats = np.float32(0.5) * (high - low), 0.0, 0.0
    for pixel in range(plan.per // channels):
        i, j = part * plan.per + pixel * channels, 2 * (part * plan.per + pixel * channels)
        for c in range(channels):
            r = output[j + c] - target[i + c]
            log_variance = low + half * (output[j + channels + c] + np.float32(1))
            d = gap * r
            squares += np.float64(r * r)
            if first > 0:
                term, _, _ = decoder(np.float64(d), x0[i + c], np.float64(log_variance))
                nats += term
            else:
                excess = log_variance - low
                nats += 0.5 * np.float64(excess - np.float32(1) + math.exp(-excess) + d * d * math.exp(-log_variance))
    loss = (simple * squares + BITS * bound * nats) / plan.per
    write_float(plan.losses + 4 * (1 + part), np.float32(loss))


@worker(MEAN, **OPTIONS)
def mean_worker(part, plans):
    """The mean of N (`count`) losses goes before them."""
    plan = carray(plans, 1)[0]
    losses, total = floats(plan.losses), 0.0
    for n in range(plan.count):
        total += np.float64(losses[1 + n])
    write_float(plan.losses, np.float32(total / plan.count))


@worker(PLAN, **OPTIONS)
def backward_worker(part, plans):
    """The gradient of one image. dy: 1 + N, or null where `factor` is the mean's; the rest as in forward."""
    plan = carray(plans, 1)[0]
    channels = plan.channels
    gap, low, high, first, simple, bound = columns(plan.steps, part)
    output, target, x0, doutput = floats(plan.output), floats(plan.target), floats(plan.x0), floats(plan.doutput)
    dloss = as_single(plan.factor) / np.float32(plan.count)
    if plan.dy != 0:
        dy = floats(plan.dy)
        dloss = dy[0] / np.float32(plan.count) + dy[1 + part]
    half = np.float32(0.5) * (high - low)
    by_square = np.float32(2.0 * simple * dloss / plan.per)
    by_nats = np.float32(BITS * bound * dloss / plan.per)
    for pixel in range(plan.per // channels):
        i, j = part * plan.per + pixel * channels, 2 * (part * plan.per + pixel * channels)
        for c in range(channels):
            r = output[j + c] - target[i + c]
            log_variance = low + half * (output[j + channels + c] + np.float32(1))
            d = gap * r
            if first > 0:
                _, wide_dd, wide_slope = decoder(np.float64(d), x0[i + c], np.float64(log_variance))
                dd, slope = np.float32(wide_dd), np.float32(wide_slope)
            else:
                inverse = np.float32(math.exp(-log_variance))
                dd = d * inverse
                slope = np.float32(0.5) * (np.float32(1) - np.float32(math.exp(low - log_variance)) - d * dd)
            dr = by_square * r
            if plan.hybrid == 0:
                dr += by_nats * gap * dd
            doutput[j + c] = dr
            doutput[j + channels + c] = by_nats * half * slope


def fields(output: Array, target: Array, x0: Array, steps: Array, hybrid: bool) -> dict[str, int]:
    """What both passes read."""
    return {
        "output": address(output), "target": address(target), "x0": address(x0), "steps": address(steps),
        "hybrid": int(hybrid), "per": target.size // target.shape[0], "channels": target.shape[-1],
        "count": target.shape[0],
    }  # fmt: skip


def forward(losses: Array, output: Array, target: Array, x0: Array, steps: Array, hybrid: bool) -> None:
    """losses (1 + N,) = the mean, and each image's; arguments as of the operation."""
    plan = forward_worker.plan(**fields(output, target, x0, steps, hybrid), losses=address(losses))
    forward_worker.run(target.shape[0], plan)
    mean_worker.run(1, mean_worker.plan(losses=address(losses), count=target.shape[0]))


def backward(
    dy: Array | float, doutput: Array, output: Array, target: Array, x0: Array, steps: Array, hybrid: bool
) -> None:
    """doutput, of output's shape; dy: (1 + N,), or a number."""
    there = isinstance(dy, np.ndarray)
    plan = backward_worker.plan(
        **fields(output, target, x0, steps, hybrid), losses=0, dy=address(dy) if there else 0,
        factor=0 if there else bits_of(dy), doutput=address(doutput),
    )  # fmt: skip
    backward_worker.run(target.shape[0], plan)
