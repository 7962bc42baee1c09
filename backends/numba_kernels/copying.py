"""Copies and sums from one float32 array into another, both with any strides: packing, padding, joining."""

import numpy as np
from numba import carray, njit

from backends.array import Array
from backends.numba_kernels.limits import AXES
from backends.numba_kernels.runtime.addresses import address, constants, read_float, write_float
from backends.numba_kernels.runtime.launch import PlanType, worker
from backends.numba_kernels.runtime.pool import POOL
from backends.numba_kernels.vectors.intrinsics import lanes_kernel
from backends.numba_kernels.vectors.lanes import BYTES, WIDTH, const, loop
from backends.thread_count import threads

# n0 … n4: lengths of five axes; source0 …, target0 …: bytes from one element to the next along each; by_rows: whether
# parts share out rows, or each row
PLAN = PlanType(
    "source target parts by_rows add"
    " n0 n1 n2 n3 n4 source0 source1 source2 source3 source4 target0 target1 target2 target3 target4"
)
# Numbers that one thread copies before another has woken up
FEW = 1 << 13


@lanes_kernel
def copy_vectors(builder, memory, source, target, count):
    """target[count][16] = source[count][16]."""

    def one(i, _):
        step = builder.mul(i, const(BYTES))
        memory(target).offset(step).store(memory(source).offset(step).load())
        return []

    loop(builder, count, [], one)


@lanes_kernel
def add_vectors(builder, memory, source, target, count):
    """target[count][16] += source[count][16]."""

    def one(i, _):
        step = builder.mul(i, const(BYTES))
        place = memory(target).offset(step)
        place.store(place.load() + memory(source).offset(step).load())
        return []

    loop(builder, count, [], one)


@njit(inline="always")
def copy_row(source, target, count):
    """target[count] = source[count]."""
    whole = count // WIDTH
    copy_vectors(WIDTH, source, target, whole)
    if count % WIDTH != 0:
        copy_vectors(count % WIDTH, source + whole * BYTES, target + whole * BYTES, 1)


@njit(inline="always")
def add_row(source, target, count):
    """target[count] += source[count]."""
    whole = count // WIDTH
    add_vectors(WIDTH, source, target, whole)
    if count % WIDTH != 0:
        add_vectors(count % WIDTH, source + whole * BYTES, target + whole * BYTES, 1)


@worker(PLAN)
def copy_worker(part, plans):
    """One part's rows, or its part of every row, a row being the last axis.

    source, target: n0 × n1 × n2 × n3 × n4 float32 of any strides, which may be 0 for source.
    """
    plan = carray(plans, 1)[0]
    first, last, begin, end = 0, plan.n0 * plan.n1 * plan.n2 * plan.n3, 0, plan.n4
    if plan.by_rows != 0:
        first, last = last * part // plan.parts, last * (part + 1) // plan.parts
    else:
        begin, end = end * part // plan.parts, end * (part + 1) // plan.parts
    # Counted on from row to row: a division takes longer than a short row
    rest, i3 = divmod(first, plan.n3)
    rest, i2 = divmod(rest, plan.n2)
    i0, i1 = divmod(rest, plan.n1)
    for _ in range(first, last):
        source = plan.source + i0 * plan.source0 + i1 * plan.source1 + i2 * plan.source2 + i3 * plan.source3
        target = plan.target + i0 * plan.target0 + i1 * plan.target1 + i2 * plan.target2 + i3 * plan.target3
        source, target = source + begin * plan.source4, target + begin * plan.target4
        if plan.source4 == 4 and plan.target4 == 4:
            if plan.add != 0:
                add_row(source, target, end - begin)
            else:
                copy_row(source, target, end - begin)
        elif plan.add != 0:
            for j in range(end - begin):
                at = target + j * plan.target4
                write_float(at, read_float(at) + read_float(source + j * plan.source4))
        else:
            for j in range(end - begin):
                write_float(target + j * plan.target4, read_float(source + j * plan.source4))
        i3 += 1
        if i3 == plan.n3:
            i3, i2 = 0, i2 + 1
            if i2 == plan.n2:
                i2, i1 = 0, i1 + 1
                if i1 == plan.n1:
                    i1, i0 = 0, i0 + 1


def copy(source: Array, target: Array, add: bool = False) -> None:
    """target[...] = source, or += where asked, source being broadcast to target's shape; no memory in common.

    Raises ValueError for shapes that do not broadcast, and for more than five axes that cannot be joined.
    """
    source = np.broadcast_to(source, target.shape)
    if target.size == 0:
        return
    axes = joined(target.shape, source.strides, target.strides)
    lengths, steps, target_steps = zip(*axes, strict=True)
    rows = target.size // lengths[-1]
    parts = 1 if target.size <= FEW else threads()
    plan = copy_worker.plan(
        source=address(source), target=address(target), parts=parts, by_rows=rows >= parts, add=add,
        **{f"n{i}": n for i, n in enumerate(lengths)},
        **{f"source{i}": n for i, n in enumerate(steps)},
        **{f"target{i}": n for i, n in enumerate(target_steps)},
    )  # fmt: skip
    copy_worker.run(parts, plan)


def copied(a: Array) -> Array:
    """A copy without gaps."""
    target = POOL.empty(a.shape)
    copy(a, target)
    return target


def fill(target: Array, value: float) -> None:
    """target[...] = value."""
    copy(constants(value), target)


def joined(shape: tuple[int, ...], steps: tuple[int, ...], others: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """(length, bytes in the one, bytes in the other) of five axes, from axes some of which run on into the next."""
    axes: list[tuple[int, int, int]] = []
    for length, step, other in zip(shape, steps, others, strict=True):
        if length == 1:
            continue
        if axes and axes[-1][1:] == (length * step, length * other):
            length *= axes.pop()[0]
        axes.append((length, step, other))
    if len(axes) > AXES:
        raise ValueError(f"copies have at most {AXES} axes, got {shape} with strides {steps} and {others}")
    axes = axes or [(1, 4, 4)]
    return [(1, 0, 0)] * (AXES - len(axes)) + axes
