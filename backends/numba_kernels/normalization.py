"""Group normalisation, with or without SiLU, over one tensor or two that are joined along channels.

One task is one image, or some of its groups where images are few; its pixels are summed, normalised and written
while they are in the core's cache, sixteen channels at a time and down the pixels, so that sums stay in registers
and their order never changes. Tensors are (N, P, A) and (N, P, B), statistics (N, G), all float32 and contiguous.

Backward, for a group of n numbers with mean μ and r = 1 / sqrt(variance + ε). With x̂ = r (x - μ), z = γ x̂ + β,
and dz the gradient at z (through SiLU, where it follows),

  dx = r (γ dz - mean(γ dz) - x̂ mean(γ dz x̂))                                  as in `backends.ops.normalization`
     = γ r dz - r³ (x - μ) Σ γ dz (x - μ) / n - r Σ γ dz / n
     = scale dz - slope x + level
  scale = γ r     slope = r³ Σ γ dz (x - μ) / n     level = slope μ - r Σ γ dz / n

so one pass over the pixels sums dz and dz (x - μ) of each channel, from which dβ, dγ / r, slope and level follow, and a
second writes dx: two fused multiply-adds a number.
"""

from typing import NamedTuple

import numpy as np
from numba import carray, njit

from backends.array import Array
from backends.numba_kernels.runtime.addresses import address, constants, read_float, write_float
from backends.numba_kernels.runtime.launch import PlanType, Worker, worker
from backends.numba_kernels.runtime.layouts import Layout
from backends.numba_kernels.runtime.pool import POOL
from backends.numba_kernels.vectors.fast_math import sigmoid, silu
from backends.numba_kernels.vectors.intrinsics import lanes_kernel
from backends.numba_kernels.vectors.lanes import FLOAT_BYTES, WIDTH, Memory, loop, unrolled, zeros
from backends.thread_count import threads

COMMON = "x gamma beta mean rstd images pixels first channels groups silu splits parts scratch part_bytes"
ROWS = "centre_at scale_at offset_at"
FORWARD = PlanType(f"{COMMON} {ROWS} sums_at y eps", optional="skip")
REPEAT = PlanType(f"{COMMON} {ROWS} y", optional="skip")
BACKWARD = PlanType(f"{COMMON} {ROWS} sums_at sums_x_at dx dgamma dbeta", optional="skip dy dskip more")


def layout_of(plan_type, channels):
    """The scratch of one part: a row of channels for each place that this type names, and a vector that the last
    store of a row may reach into."""
    names = [name.removesuffix("_at") for name in plan_type.places if name.endswith("_at")]
    return Layout(**dict.fromkeys(names, (channels + WIDTH) * FLOAT_BYTES))


# Kernels for sixteen channels or, at a tensor's end, the first `lanes` of them; rows are *_bytes apart


@lanes_kernel
def sum_rows(builder, memory, x, rows, x_bytes, out):
    """out[16] = the sum of the rows."""
    x = memory(x)

    def row(p, totals):
        return [totals[0] + x.offset(builder.mul(p, x_bytes)).load()]

    memory(out).store(unrolled(builder, rows, [zeros(builder)], row)[0])


@lanes_kernel
def sum_squares(builder, memory, x, rows, x_bytes, centre, out):
    """out[16] = the sum over rows of (x - centre)^2."""
    x, centre = memory(x), Memory(builder, centre).load()

    def row(p, totals):
        d = x.offset(builder.mul(p, x_bytes)).load() - centre
        return [d * d + totals[0]]

    memory(out).store(unrolled(builder, rows, [zeros(builder)], row)[0])


def emit_apply(activation):
    def apply(builder, memory, x, rows, x_bytes, scale, offset, y, y_bytes):
        x, y = memory(x), memory(y)
        scale, offset = Memory(builder, scale).load(), Memory(builder, offset).load()

        def row(p, _):
            z = scale * x.offset(builder.mul(p, x_bytes)).load() + offset
            y.offset(builder.mul(p, y_bytes)).store(activation(z))
            return []

        loop(builder, rows, [], row)

    return lanes_kernel(apply)


apply_plain, apply_silu = emit_apply(lambda z: z), emit_apply(silu)


def through_silu(d, z):
    """The gradient at z from the one at silu(z)."""
    s = sigmoid(z)
    return d * (s * (z * (1.0 - s) + 1.0))


def emit_sums(through):
    def sums(builder, memory, x, rows, x_bytes, dy, dy_bytes, scale, offset, centre, dz, out, out_x):
        x, dz = memory(x), memory(dz)
        dy = memory(dy)
        scale, offset, centre = (Memory(builder, a).load() for a in (scale, offset, centre))

        def row(p, totals):
            at = builder.mul(p, x_bytes)
            value, d = x.offset(at).load(), dy.offset(builder.mul(p, dy_bytes)).load()
            d = through(d, scale * value + offset)
            dz.offset(at).store(d)
            return [totals[0] + d, d * (value - centre) + totals[1]]

        total, total_x = unrolled(builder, rows, [zeros(builder)] * 2, row)
        memory(out).store(total)
        memory(out_x).store(total_x)

    return lanes_kernel(sums)


# dz, the gradient at the normalisation's output; its sum, and that of dz (x - centre)
sums_plain, sums_silu = emit_sums(lambda d, z: d), emit_sums(through_silu)


def emit_finish(adds):
    def finish(builder, memory, x, rows, x_bytes, scale, slope, level, dx, more):
        x, dx, more = (memory(a) for a in (x, dx, more))
        scale, slope, level = (Memory(builder, a).load() for a in (scale, slope, level))

        def row(p, _):
            at = builder.mul(p, x_bytes)
            place = dx.offset(at)
            value = scale * place.load() + (level - slope * x.offset(at).load())
            place.store(value + more.offset(at).load() if adds else value)
            return []

        loop(builder, rows, [], row)

    return lanes_kernel(finish)


# dx = scale dz - slope x + level (+ more)
finish_alone, finish_more = emit_finish(False), emit_finish(True)


# Tasks


@njit(inline="always")
def vector_at(plan, n, c, x, skip, end):
    """Address, bytes from pixel to pixel, and number of the (up to) sixteen channels from c on, in x or skip."""
    if c < plan.first:
        return x + (n * plan.pixels * plan.first + c) * 4, plan.first * 4, min(16, plan.first - c, end - c)
    width = plan.channels - plan.first
    return skip + (n * plan.pixels * width + c - plan.first) * 4, width * 4, min(16, end - c)


@njit(inline="always")
def task_range(plan, task):
    """Image, first channel and the channel after the last of a task."""
    n, split = divmod(task, plan.splits)
    width = plan.channels // plan.splits
    return n, split * width, (split + 1) * width


@njit(inline="always")
def scales(plan, n, begin, end, centre, scale, offset):
    """centre, scale and offset of each channel, from mean and rstd."""
    width = plan.channels // plan.groups
    for c in range(begin, end):
        at = (n * plan.groups + c // width) * 4
        mean, rstd = read_float(plan.mean + at), read_float(plan.rstd + at)
        factor = read_float(plan.gamma + c * 4) * rstd
        write_float(centre + c * 4, mean)
        write_float(scale + c * 4, factor)
        write_float(offset + c * 4, read_float(plan.beta + c * 4) - mean * factor)


@njit(inline="always")
def group_sum(values, begin, end):
    """The sum of float32 numbers, in float64."""
    total = 0.0
    for c in range(begin, end):
        total += read_float(values + c * 4)
    return total


@njit(inline="always")
def apply_task(plan, n, begin, end, scale, offset):
    """y of a task."""
    c = begin
    while c < end:
        x, pixel_bytes, lanes = vector_at(plan, n, c, plan.x, plan.skip, end)
        y = plan.y + (n * plan.pixels * plan.channels + c) * 4
        if plan.silu != 0:
            apply_silu(lanes, x, plan.pixels, pixel_bytes, scale + c * 4, offset + c * 4, y, plan.channels * 4)
        else:
            apply_plain(lanes, x, plan.pixels, pixel_bytes, scale + c * 4, offset + c * 4, y, plan.channels * 4)
        c += lanes


@worker(FORWARD)
def forward_worker(part, plans):
    """Statistics, then y.

    x: N × P × A float32; skip: N × P × B; y: N × P × (A + B); mean, rstd: N × G. Address of channel c of pixel p =
    plan.x + ((n·P + p)·A + c)·4.
    """
    plan = carray(plans, 1)[0]
    tasks, scratch = plan.images * plan.splits, plan.scratch + part * plan.part_bytes
    centre, scale, offset = scratch + plan.centre_at, scratch + plan.scale_at, scratch + plan.offset_at
    sums = scratch + plan.sums_at
    width = plan.channels // plan.groups
    count = plan.pixels * width
    for task in range(tasks * part // plan.parts, tasks * (part + 1) // plan.parts):
        n, begin, end = task_range(plan, task)
        c = begin
        while c < end:
            x, pixel_bytes, lanes = vector_at(plan, n, c, plan.x, plan.skip, end)
            sum_rows(lanes, x, plan.pixels, pixel_bytes, sums + c * 4)
            c += lanes
        for g in range(begin // width, end // width):
            mean = np.float32(group_sum(sums, g * width, (g + 1) * width) / count)
            write_float(plan.mean + (n * plan.groups + g) * 4, mean)
            for c in range(g * width, (g + 1) * width):
                write_float(centre + c * 4, mean)
        c = begin
        while c < end:
            x, pixel_bytes, lanes = vector_at(plan, n, c, plan.x, plan.skip, end)
            sum_squares(lanes, x, plan.pixels, pixel_bytes, centre + c * 4, sums + c * 4)
            c += lanes
        for g in range(begin // width, end // width):
            variance = group_sum(sums, g * width, (g + 1) * width) / count
            rstd = np.float32(1.0 / np.sqrt(variance + read_float(plan.eps)))
            write_float(plan.rstd + (n * plan.groups + g) * 4, rstd)
        scales(plan, n, begin, end, centre, scale, offset)
        apply_task(plan, n, begin, end, scale, offset)


@worker(REPEAT)
def repeat_worker(part, plans):
    """y from mean and rstd: what backward recomputes instead of keeping. Shapes as in `forward_worker`."""
    plan = carray(plans, 1)[0]
    tasks, scratch = plan.images * plan.splits, plan.scratch + part * plan.part_bytes
    centre, scale, offset = scratch + plan.centre_at, scratch + plan.scale_at, scratch + plan.offset_at
    for task in range(tasks * part // plan.parts, tasks * (part + 1) // plan.parts):
        n, begin, end = task_range(plan, task)
        scales(plan, n, begin, end, centre, scale, offset)
        apply_task(plan, n, begin, end, scale, offset)


@worker(BACKWARD)
def backward_worker(part, plans):
    """dx, dskip and, for each image, dgamma and dbeta.

    x, dx, more: N × P × A float32; skip, dskip: N × P × B; dy: N × P × (A + B); dgamma, dbeta: N × (A + B). dx and
    dskip hold dz between the two passes.
    """
    plan = carray(plans, 1)[0]
    tasks, scratch = plan.images * plan.splits, plan.scratch + part * plan.part_bytes
    centre, scale, offset = scratch + plan.centre_at, scratch + plan.scale_at, scratch + plan.offset_at
    sums, sums_x = scratch + plan.sums_at, scratch + plan.sums_x_at
    width = plan.channels // plan.groups
    count = plan.pixels * width
    for task in range(tasks * part // plan.parts, tasks * (part + 1) // plan.parts):
        n, begin, end = task_range(plan, task)
        scales(plan, n, begin, end, centre, scale, offset)
        c = begin
        while c < end:
            x, pixel_bytes, lanes = vector_at(plan, n, c, plan.x, plan.skip, end)
            dx, _, _ = vector_at(plan, n, c, plan.dx, plan.dskip, end)
            dy, dy_pixel_bytes, at = dx, pixel_bytes, c * 4
            if plan.dy != 0:
                dy, dy_pixel_bytes = plan.dy + (n * plan.pixels * plan.channels + c) * 4, plan.channels * 4
            if plan.silu != 0:
                sums_silu(
                    lanes, x, plan.pixels, pixel_bytes, dy, dy_pixel_bytes,
                    scale + at, offset + at, centre + at, dx, sums + at, sums_x + at,
                )  # fmt: skip
            else:
                sums_plain(
                    lanes, x, plan.pixels, pixel_bytes, dy, dy_pixel_bytes,
                    scale + at, offset + at, centre + at, dx, sums + at, sums_x + at,
                )  # fmt: skip
            c += lanes
        for g in range(begin // width, end // width):
            rstd = np.float64(read_float(plan.rstd + (n * plan.groups + g) * 4))
            mean = np.float64(read_float(plan.mean + (n * plan.groups + g) * 4))
            sum_dz, sum_dz_x = 0.0, 0.0
            for c in range(g * width, (g + 1) * width):
                gamma, total, total_x = (
                    np.float64(read_float(plan.gamma + c * 4)),
                    np.float64(read_float(sums + c * 4)),
                    np.float64(read_float(sums_x + c * 4)),
                )
                write_float(plan.dbeta + (n * plan.channels + c) * 4, np.float32(total))
                write_float(plan.dgamma + (n * plan.channels + c) * 4, np.float32(total_x * rstd))
                sum_dz += total * gamma
                sum_dz_x += total_x * gamma
            slope = sum_dz_x * rstd * rstd * rstd / count
            level = slope * mean - sum_dz * rstd / count
            for c in range(g * width, (g + 1) * width):
                write_float(sums + c * 4, np.float32(slope))
                write_float(sums_x + c * 4, np.float32(level))
        c = begin
        while c < end:
            x, pixel_bytes, lanes = vector_at(plan, n, c, plan.x, plan.skip, end)
            dx, _, _ = vector_at(plan, n, c, plan.dx, plan.dskip, end)
            at = c * 4
            if plan.more != 0 and c < plan.first:
                more, _, _ = vector_at(plan, n, c, plan.more, 0, end)
                finish_more(lanes, x, plan.pixels, pixel_bytes, scale + at, sums + at, sums_x + at, dx, more)
            else:
                finish_alone(lanes, x, plan.pixels, pixel_bytes, scale + at, sums + at, sums_x + at, dx, dx)
            c += lanes


# Array functions


class Norm(NamedTuple):
    """A normalisation of x, or of x and skip joined along channels, and its statistics.

    x: (N, ..., A); skip: (N, ..., B) or None (B = 0); gamma, beta: (A + B,); mean, rstd: (N, G); silu: whether SiLU
    follows it. All float32 and contiguous.
    """

    x: Array
    skip: Array
    gamma: Array
    beta: Array
    mean: Array
    rstd: Array
    silu: bool


def run(work: Worker, plan_type: PlanType, norm: Norm, **arrays: int) -> None:
    """Runs a worker on all threads. arrays: further fields of its plan."""
    x, skip, groups = norm.x, norm.skip, norm.mean.shape[1]
    images, first = x.shape[0], x.shape[-1]
    pixels = x.size // (images * first)
    channels = first + (0 if skip is None else skip.shape[-1])
    most = threads()
    # Whole groups and whole vectors, so that no sum depends on the split
    by_groups = images < most and channels % (WIDTH * most) == groups % most == first % WIDTH == 0
    splits = most if by_groups else 1
    parts = min(most, images * splits)
    layout = layout_of(plan_type, channels)
    scratch = POOL.empty(layout.floats(parts))
    plan = work.plan(
        x=address(x), skip=address(skip), gamma=address(norm.gamma), beta=address(norm.beta), mean=address(norm.mean),
        rstd=address(norm.rstd), images=images, pixels=pixels, first=first, channels=channels, groups=groups,
        silu=norm.silu, splits=splits, parts=parts, scratch=address(scratch), part_bytes=layout.bytes,
        **layout.fields, **arrays,
    )  # fmt: skip
    work.run(parts, plan)


def forward(norm: Norm, eps: float, y: Array) -> None:
    """y (N, ..., A + B); writes norm.mean and norm.rstd too."""
    run(forward_worker, FORWARD, norm, eps=address(constants(eps)), y=address(y))


def repeat(norm: Norm, y: Array) -> None:
    """y of `forward` again, from its statistics."""
    run(repeat_worker, REPEAT, norm, y=address(y))


def backward(
    norm: Norm, dx: Array, dskip: Array, dgamma: Array, dbeta: Array, dy: Array = None, more: Array = None
) -> None:
    """dx, dskip and, per image, dgamma and dbeta (N, A + B).

    dy: None where dx and dskip hold the gradient of y's two parts. more: None, or of dx's shape and added to it.
    """
    run(
        backward_worker, BACKWARD, norm, dx=address(dx), dskip=address(dskip), dgamma=address(dgamma),
        dbeta=address(dbeta), dy=address(dy), more=address(more),
    )  # fmt: skip
