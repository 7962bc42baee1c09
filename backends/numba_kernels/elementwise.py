"""Sums and SiLU over contiguous float32 arrays of any shape; what an image's pixels have in common, and their sum."""

from numba import carray

from backends.array import Array
from backends.numba_kernels.normalization import sum_rows, through_silu
from backends.numba_kernels.runtime.addresses import address, as_single, bits_of, read_float, write_float
from backends.numba_kernels.runtime.launch import PlanType, worker
from backends.numba_kernels.vectors import fast_math
from backends.numba_kernels.vectors.intrinsics import lanes_kernel
from backends.numba_kernels.vectors.lanes import BYTES, WIDTH, const, loop

# b: an address, or the bits of the factor of TIMES
ELEMENTWISE = PlanType("kind a b out size")
PIXELS = PlanType("a out pixels channels", optional="shift")
ADD, SILU, SILU_BACKWARD, TIMES = range(4)
# Numbers in one task: a few pages of each array
BLOCK = 1 << 13


def emit_vectors(function):
    def vectors(builder, memory, a, b, out, count):
        def one(i, _):
            step = builder.mul(i, const(BYTES))
            memory(out).offset(step).store(function(memory(a).offset(step).load(), memory(b).offset(step).load()))
            return []

        loop(builder, count, [], one)

    return lanes_kernel(vectors)


# out[count][16] = function(a, b)
add_vectors = emit_vectors(lambda a, b: a + b)
silu_vectors = emit_vectors(lambda a, _: fast_math.silu(a))
silu_backward_vectors = emit_vectors(through_silu)


@worker(ELEMENTWISE)
def elementwise_worker(part, plans):
    """One block: its whole vectors, then what is left. a, b, out: `size` float32."""
    plan = carray(plans, 1)[0]
    start, end = part * BLOCK, min((part + 1) * BLOCK, plan.size)
    whole = (end - start) // WIDTH
    for first, count, lanes in ((start, whole, WIDTH), (start + whole * WIDTH, 1, (end - start) % WIDTH)):
        a, b, out = plan.a + first * 4, plan.b + first * 4, plan.out + first * 4
        if lanes == 0:
            break
        if plan.kind == ADD:
            add_vectors(lanes, a, b, out, count)
        elif plan.kind == SILU:
            silu_vectors(lanes, a, b, out, count)
        elif plan.kind == SILU_BACKWARD:
            silu_backward_vectors(lanes, a, b, out, count)
        else:
            factor = as_single(plan.b)
            for i in range(WIDTH * count if lanes == WIDTH else lanes):
                write_float(out + 4 * i, factor * read_float(a + 4 * i))


@lanes_kernel
def shift_vectors(builder, memory, a, shift, out, row_bytes, count):
    """out[count][16] = a[count][16] + shift[16], the rows `row_bytes` apart."""
    value = memory(shift).load()

    def one(i, _):
        step = builder.mul(i, row_bytes)
        memory(out).offset(step).store(memory(a).offset(step).load() + value)
        return []

    loop(builder, count, [], one)


@worker(PIXELS)
def add_shift_worker(part, plans):
    """One image. a, out: N × P × C float32; shift: N × C."""
    plan = carray(plans, 1)[0]
    image = part * plan.pixels * plan.channels * 4
    for c in range(0, plan.channels, WIDTH):
        a, shift, out = plan.a + image + c * 4, plan.shift + (part * plan.channels + c) * 4, plan.out + image + c * 4
        shift_vectors(min(WIDTH, plan.channels - c), a, shift, out, plan.channels * 4, plan.pixels)


@worker(PIXELS)
def sum_pixels_worker(part, plans):
    """One image. a: N × P × C float32; out: N × C."""
    plan = carray(plans, 1)[0]
    image = plan.a + part * plan.pixels * plan.channels * 4
    for c in range(0, plan.channels, WIDTH):
        lanes = min(WIDTH, plan.channels - c)
        sum_rows(lanes, image + c * 4, plan.pixels, plan.channels * 4, plan.out + (part * plan.channels + c) * 4)


def run(kind: int, a: Array, b: Array, out: Array) -> None:
    plan = elementwise_worker.plan(kind=kind, a=address(a), b=address(b), out=address(out), size=out.size)
    elementwise_worker.run(-(-out.size // BLOCK), plan)


def add(a: Array, b: Array, out: Array) -> None:
    """out = a + b; out may be a or b."""
    run(ADD, a, b, out)


def silu(x: Array, y: Array) -> None:
    """y = x sigmoid(x); y may be x."""
    run(SILU, x, x, y)


def silu_backward(x: Array, dy: Array, dx: Array) -> None:
    """dx = dy s (1 + x (1 - s)) with s = sigmoid(x); dx may be dy."""
    run(SILU_BACKWARD, dy, x, dx)


def times(a: Array, factor: float, out: Array) -> None:
    """out = factor a."""
    plan = elementwise_worker.plan(kind=TIMES, a=address(a), b=bits_of(factor), out=address(out), size=out.size)
    elementwise_worker.run(-(-out.size // BLOCK), plan)


def add_shift(x: Array, shift: Array, y: Array) -> None:
    """y = x (N, ..., C) + shift (N, C) at every pixel; y may be x."""
    images, channels = shift.shape
    pixels = x.size // shift.size
    plan = add_shift_worker.plan(a=address(x), shift=address(shift), out=address(y), pixels=pixels, channels=channels)
    add_shift_worker.run(images, plan)


def sum_pixels(x: Array, out: Array) -> None:
    """out (N, C) = sum over the pixels of x (N, ..., C), in a fixed order."""
    images, channels = out.shape
    pixels = x.size // out.size
    plan = sum_pixels_worker.plan(a=address(x), out=address(out), pixels=pixels, channels=channels)
    sum_pixels_worker.run(images, plan)
