"""Philox noise, the numbers of `backends.ops.philox`: each from its position alone, so that blocks run in parallel."""

import math

import numpy as np
from numba import carray, njit

from backends.numba_kernels.runtime.addresses import address, doubles, floats
from backends.numba_kernels.runtime.launch import PlanType, worker
from backends.ops.philox import MASK, MULTIPLIERS, ROUNDS, WEYL
from backends.thread_count import threads

U = np.uint64
LOW, HALF = U(MASK), U(32)
M0, M1 = U(MULTIPLIERS[0]), U(MULTIPLIERS[1])
W0, W1 = U(WEYL[0]), U(WEYL[1])
CELL = 2.0**-32
PLAN = PlanType("out single count start seed_low seed_high stream step normal parts")


@njit(inline="always")
def four_words(block, stream, step, k0, k1):
    """Philox4x32-10 of the counter (block low, block high, stream, step); all uint64 below 2^32 but block."""
    c0, c1, c2, c3 = block & LOW, block >> HALF, stream, step
    for _ in range(ROUNDS):
        p0, p1 = c0 * M0, c2 * M1
        c0, c1, c2, c3 = (p1 >> HALF) ^ c1 ^ k0, p1 & LOW, (p0 >> HALF) ^ c3 ^ k1, p0 & LOW
        k0, k1 = (k0 + W0) & LOW, (k1 + W1) & LOW
    return c0, c1, c2, c3


@njit(inline="always")
def open_unit(word):
    """The middle of the word's cell of width 2^-32, in (0, 1)."""
    return (np.float64(word) + 0.5) * CELL


@njit(inline="always")
def pair(u0, u1):
    """Two normal numbers from two uniform ones (Box & Muller 1958)."""
    radius, angle = np.sqrt(-2.0 * np.log(u0)), (2.0 * math.pi) * u1
    return radius * np.cos(angle), radius * np.sin(angle)


@njit(inline="always")
def put(plan, i, value):
    """out[i] = value, rounded once where out is float32."""
    if plan.single:
        floats(plan.out)[i] = value
    else:
        doubles(plan.out)[i] = value


@worker(PLAN, error_model="numpy")
def fill_worker(part, plans):
    """One part's blocks of `fill`, four numbers each. out: `count` float32 (`single`) or float64.

    The first block may begin before the first number, as the last one may end after the last.
    """
    plan = carray(plans, 1)[0]
    k0, k1, stream, step = U(plan.seed_low), U(plan.seed_high), U(plan.stream), U(plan.step)
    count, normal = plan.count, plan.normal
    skipped, start = plan.start % 4, plan.start // 4
    blocks = (skipped + count + 3) // 4
    for block in range(blocks * part // plan.parts, blocks * (part + 1) // plan.parts):
        w0, w1, w2, w3 = four_words(U(start + block), stream, step, k0, k1)
        x0, x1, x2, x3 = open_unit(w0), open_unit(w1), open_unit(w2), open_unit(w3)
        if normal:
            x0, x1 = pair(x0, x1)
            x2, x3 = pair(x2, x3)
        at = 4 * block - skipped
        if at >= 0:
            put(plan, at, x0)
        if 0 <= at + 1 < count:
            put(plan, at + 1, x1)
        if 0 <= at + 2 < count:
            put(plan, at + 2, x2)
        if at + 3 < count:
            put(plan, at + 3, x3)


def fill(out, seed, stream, step, normal, start):
    """out (P,), float32 or float64, becomes the numbers start … start + P - 1 of `random_normal` or `random_uniform`.

    0 <= seed < 2^64, 0 <= stream, step < 2^32, 0 <= start <= 2^63 - P.
    """
    parts = threads()
    plan = fill_worker.plan(
        out=address(out), single=out.dtype == np.float32, count=out.size, start=start, seed_low=seed & MASK,
        seed_high=seed >> 32, stream=stream, step=step, normal=normal, parts=parts,
    )  # fmt: skip
    fill_worker.run(parts, plan)
