"""Group normalisation, with or without SiLU, over one tensor or two that are joined along channels.

One image is one task: its pixels are summed, normalised and written while they are in the core's cache. Sums
run over pixels channel by channel, so that the inner loops are vector code and the order never changes.
"""

import numpy as np
from numba import carray, njit

from backends.numba_kernels.fast_math import sigmoid, silu
from backends.numba_kernels.simd import WIDTH, Memory, const, either, kernel, over_rows
from backends.numba_kernels.threads import address, floats, plan_type, worker
from backends.numba_kernels.workspace import aligned_empty
from backends.processors import threads

PLAN = plan_type(
    "images pixels first second groups x skip gamma beta eps mean rstd silu y dy dx dskip add residual residual_skip "
    "dgamma dbeta parts scratch scratch_step"
)


@kernel
def add_up(builder, x, pixels, channels, total):
    """total[c] += sum over p of x[p][c]."""
    x, total, x_step = Memory(builder, x), Memory(builder, total), builder.mul(channels, const(4))

    def emit(p, c, read, write):
        place = total.offset(c)
        write(place, read(place) + read(x.offset(builder.mul(p, x_step)).offset(c)))

    over_rows(builder, pixels, channels, emit)


@kernel
def add_up_squares(builder, x, pixels, channels, centre, total):
    """total[c] += sum over p of (x[p][c] - centre[c])^2."""
    x, centre, total = (Memory(builder, pointer) for pointer in (x, centre, total))
    x_step = builder.mul(channels, const(4))

    def emit(p, c, read, write):
        place, d = total.offset(c), read(x.offset(builder.mul(p, x_step)).offset(c)) - read(centre.offset(c))
        write(place, d * d + read(place))

    over_rows(builder, pixels, channels, emit)


@kernel
def apply(builder, x, pixels, channels, scale, offset, with_silu, y, y_step):
    """y[p][c] = z or silu(z), z = scale[c] x[p][c] + offset[c]; y's pixels are y_step bytes apart."""
    x, scale, offset, y = (Memory(builder, pointer) for pointer in (x, scale, offset, y))
    x_step = builder.mul(channels, const(4))

    def each(function):
        def emit(p, c, read, write):
            value = read(x.offset(builder.mul(p, x_step)).offset(c))
            z = read(scale.offset(c)) * value + read(offset.offset(c))
            write(y.offset(builder.mul(p, y_step)).offset(c), function(z))

        over_rows(builder, pixels, channels, emit)

    either(builder, with_silu, lambda: each(silu), lambda: each(lambda z: z))


@kernel
def through_silu(
    builder, x, pixels, channels, dy, dy_step, scale, offset, centre, with_silu, dx, sum_d, sum_dx
):  # fmt: skip
    """dx = dz, the gradient at the normalisation's output; its sums, and those of dz (x - mean), per channel."""
    x, dy, scale, offset, centre, dx = (Memory(builder, pointer) for pointer in (x, dy, scale, offset, centre, dx))
    sum_d, sum_dx, x_step = Memory(builder, sum_d), Memory(builder, sum_dx), builder.mul(channels, const(4))

    def each(function):
        def emit(p, c, read, write):
            at = builder.mul(p, x_step)
            value, d = read(x.offset(at).offset(c)), read(dy.offset(builder.mul(p, dy_step)).offset(c))
            d = function(read(scale.offset(c)) * value + read(offset.offset(c)), d)
            write(dx.offset(at).offset(c), d)
            write(sum_d.offset(c), read(sum_d.offset(c)) + d)
            write(sum_dx.offset(c), d * (value - read(centre.offset(c))) + read(sum_dx.offset(c)))

        over_rows(builder, pixels, channels, emit)

    either(builder, with_silu, lambda: each(silu_slope), lambda: each(lambda z, d: d))


def silu_slope(z, d):
    """d times the derivative of silu at z."""
    s = sigmoid(z)
    return d * s * (z * (1.0 - s) + 1.0)


@kernel
def finish(builder, x, pixels, channels, scale, slope, level, dx, add, residual):
    """dx = scale dz - slope x + level (+ residual)."""
    x, scale, slope, level, dx = (Memory(builder, pointer) for pointer in (x, scale, slope, level, dx))
    residual, x_step = Memory(builder, residual), builder.mul(channels, const(4))

    def each(added):
        def emit(p, c, read, write):
            at = builder.mul(p, x_step)
            place = dx.offset(at).offset(c)
            value = read(scale.offset(c)) * read(place) + read(level.offset(c))
            value = value - read(slope.offset(c)) * read(x.offset(at).offset(c))
            write(place, value + read(residual.offset(at).offset(c)) if added else value)

        over_rows(builder, pixels, channels, emit)

    either(builder, add, lambda: each(True), lambda: each(False))


@njit(inline="always")
def side(plan, number, x, skip, n):
    """Of tensor 0 or 1: its channels, the bytes before them in a joined row, and the address of image n."""
    if number == 0:
        return plan.first, 0, x + n * plan.pixels * plan.first * 4
    return plan.second, plan.first * 4, skip + n * plan.pixels * plan.second * 4


@worker(PLAN, error_model="numpy")
def forward_worker(part, plans):
    """y, mean and rstd of one part's images; without `eps` y from the mean and rstd that are there."""
    plan = carray(plans, 1)[0]
    channels, groups, pixels = plan.first + plan.second, plan.groups, plan.pixels
    tensors, width, step = 2 if plan.second > 0 else 1, channels // groups, channels * 4
    gamma, beta = floats(plan.gamma), floats(plan.beta)
    pitch = plan.scratch_step // 5
    at = plan.scratch + part * plan.scratch_step
    total, centre, scale, offset = floats(at), floats(at + pitch), floats(at + 2 * pitch), floats(at + 3 * pitch)
    for n in range(plan.images * part // plan.parts, plan.images * (part + 1) // plan.parts):
        mean, rstd = floats(plan.mean + n * groups * 4), floats(plan.rstd + n * groups * 4)
        # Twice over the pixels: for the mean, and for the squares around it
        for squares in range(2 if plan.eps != 0 else 0):
            for c in range(channels):
                total[c] = 0
            for number in range(tensors):
                own, first, x = side(plan, number, plan.x, plan.skip, n)
                if squares:
                    add_up_squares(x, pixels, own, at + pitch + first, at + first)
                else:
                    add_up(x, pixels, own, at + first)
            for g in range(groups):
                s = 0.0
                for c in range(g * width, (g + 1) * width):
                    s += total[c]
                if squares:
                    rstd[g] = 1.0 / np.sqrt(s / (pixels * width) + floats(plan.eps)[0])
                else:
                    mean[g] = s / (pixels * width)
                    for c in range(g * width, (g + 1) * width):
                        centre[c] = mean[g]
        for c in range(channels):
            scale[c] = gamma[c] * rstd[c // width]
            offset[c] = beta[c] - mean[c // width] * scale[c]
        for number in range(tensors):
            own, first, x = side(plan, number, plan.x, plan.skip, n)
            y, factors = plan.y + n * pixels * step + first, at + 2 * pitch + first
            apply(x, pixels, own, factors, factors + pitch, plan.silu, y, step)


@worker(PLAN, error_model="numpy")
def backward_worker(part, plans):
    """dx, dskip, dgamma and dbeta of one part's images."""
    plan = carray(plans, 1)[0]
    channels, groups, pixels = plan.first + plan.second, plan.groups, plan.pixels
    tensors, width, step = 2 if plan.second > 0 else 1, channels // groups, channels * 4
    gamma, beta = floats(plan.gamma), floats(plan.beta)
    pitch = plan.scratch_step // 5
    at = plan.scratch + part * plan.scratch_step
    scale, offset, centre = floats(at), floats(at + pitch), floats(at + 2 * pitch)
    sum_d, sum_dx = floats(at + 3 * pitch), floats(at + 4 * pitch)
    for n in range(plan.images * part // plan.parts, plan.images * (part + 1) // plan.parts):
        mean, rstd = floats(plan.mean + n * groups * 4), floats(plan.rstd + n * groups * 4)
        dgamma, dbeta = floats(plan.dgamma + n * step), floats(plan.dbeta + n * step)
        for c in range(channels):
            centre[c] = mean[c // width]
            scale[c] = gamma[c] * rstd[c // width]
            offset[c] = beta[c] - centre[c] * scale[c]
            sum_d[c] = 0
            sum_dx[c] = 0
        for number in range(tensors):
            own, first, x = side(plan, number, plan.x, plan.skip, n)
            _, _, dx = side(plan, number, plan.dx, plan.dskip, n)
            dy, factors = plan.dy + n * pixels * step + first, at + first
            through_silu(
                x, pixels, own, dy, step, factors, factors + pitch, factors + 2 * pitch, plan.silu, dx,
                factors + 3 * pitch, factors + 4 * pitch,
            )  # fmt: skip
        for g in range(groups):
            r, mean_d, mean_dn = np.float64(rstd[g]), 0.0, 0.0
            for c in range(g * width, (g + 1) * width):
                dbeta[c] = sum_d[c]
                dgamma[c] = sum_dx[c] * rstd[g]
                mean_d += sum_d[c] * gamma[c]
                mean_dn += sum_dx[c] * gamma[c]
            level, slope = mean_d * r / (pixels * width), mean_dn * r * r * r / (pixels * width)
            for c in range(g * width, (g + 1) * width):
                sum_d[c] = slope
                sum_dx[c] = slope * mean[g] - level
        for number in range(tensors):
            own, first, x = side(plan, number, plan.x, plan.skip, n)
            _, _, dx = side(plan, number, plan.dx, plan.dskip, n)
            _, _, residual = side(plan, number, plan.residual, plan.residual_skip, n)
            factors = at + first
            finish(x, pixels, own, factors, factors + 3 * pitch, factors + 4 * pitch, dx, plan.add, residual)


def run(work, x, skip, gamma, beta, mean, rstd, silu, **more):
    """Run `work` on what all of these functions take; more: addresses of the other arrays, and flags."""
    images, pixels, first = x.shape
    parts = min(images, threads())
    gamma, beta = np.ascontiguousarray(gamma), np.ascontiguousarray(beta)
    # Five rows of factors and sums, each on cache lines of its own
    scratch = aligned_empty((parts, 5, -(-gamma.size // WIDTH) * WIDTH))
    plan = work.plan(
        images=images, pixels=pixels, first=first, second=skip.shape[2], groups=mean.shape[1], silu=silu, parts=parts,
        x=address(x), skip=address(skip), gamma=address(gamma), beta=address(beta), mean=address(mean),
        rstd=address(rstd), scratch=address(scratch), scratch_step=scratch.strides[0], **more,
    )  # fmt: skip
    work.run(parts, plan)


def forward(x, skip, gamma, beta, eps, silu, y, mean, rstd):
    """y (N, P, A + B) from x (N, P, A) and skip (N, P, B); mean, rstd (N, G) are written too."""
    eps = np.array([eps], np.float32)
    run(forward_worker, x, skip, gamma, beta, mean, rstd, silu, y=address(y), eps=address(eps))


def repeat(x, skip, gamma, beta, mean, rstd, silu, y):
    """y again, from the statistics that `forward` found: what backward recomputes instead of keeping."""
    run(forward_worker, x, skip, gamma, beta, mean, rstd, silu, y=address(y))


def backward(x, skip, dy, gamma, beta, mean, rstd, silu, dx, dskip, add, residual, residual_skip, dgamma, dbeta):
    """dx (N, P, A), dskip (N, P, B) and, per image, dgamma and dbeta (N, A + B).

    add: residual and residual_skip, of dx's and dskip's shapes, are added to them (they may be the same arrays).
    """
    run(
        backward_worker, x, skip, gamma, beta, mean, rstd, silu, dy=address(dy), dx=address(dx), dskip=address(dskip),
        add=add, residual=address(residual), residual_skip=address(residual_skip), dgamma=address(dgamma),
        dbeta=address(dbeta),
    )  # fmt: skip
