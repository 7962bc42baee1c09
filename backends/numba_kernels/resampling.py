"""Halving and doubling the sides of images (N, H, W, C), one pass each."""

from numba import carray

from backends.array import Array
from backends.numba_kernels.runtime.addresses import address, constants
from backends.numba_kernels.runtime.launch import PlanType, Worker, worker
from backends.numba_kernels.vectors.intrinsics import lanes_kernel
from backends.numba_kernels.vectors.lanes import BYTES, WIDTH, Memory, const, loop
from backends.thread_count import threads

# rows: of the smaller images, all together
PLAN = PlanType("large small factor rows width channels parts")


@lanes_kernel
def gather_square(builder, memory, large, row_bytes, pixel_bytes, small, count, factor):
    """small[count][16] = factor times the sum of four pixels."""
    scale = Memory(builder, factor).broadcast()

    def one(i, _):
        step = builder.mul(i, const(BYTES))
        above = memory(large).offset(step)
        below = above.offset(row_bytes)
        total = (above.load() + above.offset(pixel_bytes).load()) + (below.load() + below.offset(pixel_bytes).load())
        memory(small).offset(step).store(scale * total)
        return []

    loop(builder, count, [], one)


@lanes_kernel
def scatter_square(builder, memory, large, row_bytes, pixel_bytes, small, count, factor):
    """All four pixels = factor * small[count][16]."""
    scale = Memory(builder, factor).broadcast()

    def one(i, _):
        step = builder.mul(i, const(BYTES))
        value = scale * memory(small).offset(step).load()
        above = memory(large).offset(step)
        for line in (above, above.offset(row_bytes)):
            line.store(value)
            line.offset(pixel_bytes).store(value)
        return []

    loop(builder, count, [], one)


def worker_of(square):
    """A kernel that does this for one thread's rows.

    large: N × 2H × 2W × C float32; small: N × H × W × C; rows = N H.
    """

    @worker(PLAN)
    def rows_worker(part, plans):
        plan = carray(plans, 1)[0]
        pixel, whole, rest = plan.channels * 4, plan.channels // WIDTH, plan.channels % WIDTH
        row = 2 * plan.width * pixel
        for i in range(plan.rows * part // plan.parts, plan.rows * (part + 1) // plan.parts):
            for j in range(plan.width):
                large, small = plan.large + 2 * (i * row + j * pixel), plan.small + (i * plan.width + j) * pixel
                square(WIDTH, large, row, pixel, small, whole, plan.factor)
                if rest != 0:
                    large, small = large + whole * BYTES, small + whole * BYTES
                    square(rest, large, row, pixel, small, 1, plan.factor)

    return rows_worker


halve_worker, double_worker = worker_of(gather_square), worker_of(scatter_square)


def run(work: Worker, large: Array, small: Array, factor: float) -> None:
    n, h, w, c = small.shape
    plan = work.plan(
        large=address(large), small=address(small), factor=address(constants(factor)),
        rows=n * h, width=w, channels=c, parts=threads(),
    )  # fmt: skip
    work.run(threads(), plan)


def halve(x: Array, y: Array, factor: float) -> None:
    """y (N, H / 2, W / 2, C) = factor times the sums over squares of 2x2 pixels of x."""
    run(halve_worker, x, y, factor)


def double(x: Array, y: Array, factor: float) -> None:
    """All four pixels of y (N, 2H, 2W, C) = factor times each of x."""
    run(double_worker, y, x, factor)
