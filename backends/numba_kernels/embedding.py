"""Embeddings: rows of a table by label, sinusoids by timestep."""

import math
from functools import cache

import numpy as np
from numba import carray

from backends.array import Array
from backends.numba_kernels import copying
from backends.numba_kernels.runtime.addresses import address, doubles, fixed, longs, write_float
from backends.numba_kernels.runtime.launch import PlanType, worker
from backends.thread_count import threads

TAKE = PlanType("table indices y rows channels")
TAKE_BACKWARD = PlanType("dtable indices dy count channels")
SINUSOIDS = PlanType("t is_whole frequencies half dim cos_first out count parts")


@worker(TAKE)
def take_worker(part, plans):
    """One index. table: V (`rows`) × C float32; indices: N int64; y: N × C."""
    plan = carray(plans, 1)[0]
    index, out = longs(plan.indices)[part], plan.y + part * plan.channels * 4
    if 0 <= index < plan.rows:
        copying.copy_row(plan.table + index * plan.channels * 4, out, plan.channels)
    else:
        for c in range(plan.channels):
            write_float(out + 4 * c, np.float32(np.nan))


@worker(TAKE_BACKWARD)
def take_backward_worker(part, plans):
    """One row of the table: the sum of the gradients where it was taken. dtable: V × C float32; dy: N (`count`) × C."""
    plan = carray(plans, 1)[0]
    row = plan.dtable + part * plan.channels * 4
    for c in range(plan.channels):
        write_float(row + 4 * c, np.float32(0))
    for n in range(plan.count):
        if longs(plan.indices)[n] == part:
            copying.add_row(plan.dy + n * plan.channels * 4, row, plan.channels)


@worker(SINUSOIDS)
def sinusoids_worker(part, plans):
    """One part's timesteps; computed in float64, as the reference does.

    t: N (`count`) int64 or float64; frequencies: D // 2 (`half`) float64; out: N × D (`dim`) float32.
    """
    plan = carray(plans, 1)[0]
    frequencies = doubles(plan.frequencies)
    for n in range(plan.count * part // plan.parts, plan.count * (part + 1) // plan.parts):
        t = np.float64(longs(plan.t)[n]) if plan.is_whole != 0 else doubles(plan.t)[n]
        out = plan.out + n * plan.dim * 4
        cosines, sines = (out, out + plan.half * 4) if plan.cos_first != 0 else (out + plan.half * 4, out)
        for i in range(plan.half):
            angle = t * frequencies[i]
            write_float(cosines + 4 * i, np.float32(math.cos(angle)))
            write_float(sines + 4 * i, np.float32(math.sin(angle)))
        if plan.dim % 2 != 0:
            write_float(out + (plan.dim - 1) * 4, np.float32(0))


def take(table: Array, indices: Array, y: Array) -> None:
    """y (N, C) = rows of the table (V, C) by int64 indices (N,); NaN for one outside [0, V)."""
    rows, channels = table.shape
    plan = take_worker.plan(table=address(table), indices=address(indices), y=address(y), rows=rows, channels=channels)
    take_worker.run(indices.size, plan)


def take_backward(dy: Array, indices: Array, dtable: Array) -> None:
    """dtable (V, C) from dy (N, C)."""
    plan = take_backward_worker.plan(
        dtable=address(dtable), indices=address(indices), dy=address(dy), count=indices.size, channels=dy.shape[1]
    )
    take_backward_worker.run(dtable.shape[0], plan)


def sinusoids(t: Array, frequencies: tuple[float, ...], cos_first: bool, y: Array) -> None:
    """y (N, D) = cosines and sines of t_n times each of D // 2 frequencies; t (N,) int64 or float64."""
    parts = threads()
    plan = sinusoids_worker.plan(
        t=address(t), is_whole=t.dtype == np.int64, frequencies=address(table_of(frequencies)),
        half=len(frequencies), dim=y.shape[1], cos_first=cos_first, out=address(y), count=t.size, parts=parts,
    )  # fmt: skip
    sinusoids_worker.run(parts, plan)


@cache
def table_of(frequencies: tuple[float, ...]) -> np.ndarray:
    """The frequencies as float64, the same array at every call."""
    return fixed(np.array(frequencies, np.float64))
