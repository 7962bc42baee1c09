"""Sums and SiLU over contiguous float32 arrays; those of any shape are passed flat, as `x.reshape(-1)`."""

from numba import carray

from backends.numba_kernels.fast_exp import ONE, OPTIONS, exp, sigmoid
from backends.numba_kernels.normalization import add_up
from backends.numba_kernels.threads import address, floats, plan_type, worker
from backends.processors import threads

PLAN = plan_type("a b out count pixels channels parts")


@worker(PLAN, **OPTIONS)
def add_worker(part, plans):
    """out = a + b."""
    plan = carray(plans, 1)[0]
    a, b, out = floats(plan.a), floats(plan.b), floats(plan.out)
    for i in range(plan.count * part // plan.parts, plan.count * (part + 1) // plan.parts):
        out[i] = a[i] + b[i]


@worker(PLAN, **OPTIONS)
def silu_worker(part, plans):
    """out = a sigmoid(a)."""
    plan = carray(plans, 1)[0]
    x, y = floats(plan.a), floats(plan.out)
    for i in range(plan.count * part // plan.parts, plan.count * (part + 1) // plan.parts):
        y[i] = x[i] / (ONE + exp(-x[i]))


@worker(PLAN, **OPTIONS)
def silu_backward_worker(part, plans):
    """out = b s (1 + a (1 - s)) with s = sigmoid(a)."""
    plan = carray(plans, 1)[0]
    x, dy, dx = floats(plan.a), floats(plan.b), floats(plan.out)
    for i in range(plan.count * part // plan.parts, plan.count * (part + 1) // plan.parts):
        s = sigmoid(x[i])
        dx[i] = dy[i] * s * (ONE + x[i] * (ONE - s))


@worker(PLAN, **OPTIONS)
def sum_worker(part, plans):
    """out[n][c] = sum over p of a[n][p][c], n < count, in order."""
    plan = carray(plans, 1)[0]
    channels = plan.channels
    for n in range(plan.count * part // plan.parts, plan.count * (part + 1) // plan.parts):
        out = floats(plan.out + n * channels * 4)
        for c in range(channels):
            out[c] = 0
        add_up(plan.a + n * plan.pixels * channels * 4, plan.pixels, channels, plan.out + n * channels * 4)


def run(work, a, b, out, **more):
    """Run `work` on these arrays."""
    parts = threads()
    plan = work.plan(a=address(a), b=address(b), out=address(out), parts=parts, **more)
    work.run(parts, plan)


def add(a, b, out):
    """out = a + b; out may be a or b."""
    run(add_worker, a, b, out, count=out.size)


def sum_pixels(x, out):
    """out (N, C) = sum over p of x (N, P, C), in order."""
    run(sum_worker, x, None, out, count=x.shape[0], pixels=x.shape[1], channels=x.shape[2])


def silu(x, y):
    """y = x sigmoid(x); y may be x."""
    run(silu_worker, x, None, y, count=y.size)


def silu_backward(x, dy, dx):
    """dx = dy s (1 + x (1 - s)) with s = sigmoid(x); dx may be dy."""
    run(silu_backward_worker, x, dy, dx, count=dx.size)
