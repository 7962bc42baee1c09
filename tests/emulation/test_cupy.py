"""The stand-in for CuPy: what it computes, and what it refuses where a GPU would go wrong in silence."""

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import OPS, CupyBackend
from backends.testing import CASES, SEEDS, check_against
from backends.testing.registry import OVERWRITES
from tests.emulation.compiler import missing
from tests.emulation.cupy.kernels import running
from tests.emulation.device import cupy_backend, operation
from tests.emulation.launch import KernelError

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

SOURCE = r"""
struct Sizes { int count; float factor; };
extern "C" __global__ void scale(const float* __restrict__ x, float* __restrict__ y, Sizes sizes) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < sizes.count; i += gridDim.x * blockDim.x)
    y[i] = sizes.factor * x[i];
}
extern "C" __global__ void fill(float* y, int count, float value, unsigned char flag) {
  if (flag && (int)threadIdx.x < count) y[threadIdx.x] = value;
}
"""
SIZES = np.dtype([("count", np.int32), ("factor", np.float32)])


@pytest.fixture(scope="module")
def backend() -> Iterator[CupyBackend]:
    with cupy_backend() as backend:
        yield backend


@pytest.fixture(scope="module")
def cp(backend: CupyBackend) -> Any:
    return backend.xp


@pytest.fixture(scope="module")
def scale(cp: Any) -> Callable[..., None]:
    kernel = cp.RawModule(code=SOURCE).get_function("scale")

    def launch(x: Any, y: Any, factor: float = 2.0, count: int | None = None) -> None:
        kernel((2,), (32,), (x, y, np.array((x.size if count is None else count, factor), SIZES)))

    return launch


# Operations


class ReferenceOnly(CupyBackend):
    """The operations as they are written, without kernels."""

    def __getattribute__(self, name: str) -> Any:
        if name.removesuffix("_backward") in OPS:
            return self.__getattr__(name)
        return super().__getattribute__(name)


@pytest.mark.parametrize("name", OPS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_reference_operations_run_unchanged(backend: CupyBackend, name: str, data: st.DataObject) -> None:
    op = OPS[name]
    case, pair = data.draw(CASES[name]), operation(ReferenceOnly(), name)
    check_against(name, pair, case, wrt=op.wrt, seed=data.draw(SEEDS), overwrites=OVERWRITES.get(name, ()))


def test_arrays_compute_as_numpys_and_stay_on_the_device(cp: Any) -> None:
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(3, np.float32)
    x, y = cp.asarray(a), cp.asarray(b)
    assert isinstance(x + y, cp.ndarray)
    np.testing.assert_array_equal((2 * x @ y - x.sum()).get(), 2 * a @ b - a.sum())
    x[:, 1] += 10
    x[0] *= y
    assert x.T.shape == (3, 2)
    assert float(x[1, 1]) == 14.0
    assert x.dtype == cp.float32
    assert isinstance(cp.linalg.norm(x), cp.ndarray)
    for mix in (lambda: x + a, lambda: cp.add(a, a), lambda: np.asarray(x)):
        with pytest.raises(TypeError, match=r"asarray|Implicit conversion|unsupported"):
            mix()


def test_fresh_memory_is_nan_and_counted(cp: Any) -> None:
    gc.collect()
    pool = cp.get_default_memory_pool()
    before = pool.used_bytes()
    x = cp.empty((3, 100), np.float32)
    assert np.isnan(x.get()).all()
    assert pool.used_bytes() - before == 1536
    del x
    assert pool.used_bytes() == before
    pool.set_limit(size=before + 4096)
    try:
        with pytest.raises(cp.cuda.memory.OutOfMemoryError, match="Out of memory allocating 8,192 bytes"):
            cp.empty(2048, np.float32)
    finally:
        pool.set_limit(size=0)


# Kernels


def test_a_kernel_computes(cp: Any, scale: Callable[..., None]) -> None:
    x, y = cp.arange(100, dtype=np.float32), cp.empty(100, np.float32)
    scale(x, y)
    np.testing.assert_array_equal(y.get(), 2 * np.arange(100))


WRONG_CALLS = {
    "an argument too few": (lambda x, y, r: (x, y), "takes 3 arguments"),
    "two arguments swapped": (lambda x, y, r: (x, r, y), "wants an array on the device"),
    "a host array": (lambda x, y, r: (x.get(), y, r), "wants an array on the device, got ndarray"),
    "float64": (lambda x, y, r: (x.astype(np.float64), y, r), "got float64"),
    "whole numbers": (lambda x, y, r: (x.astype(np.int32), y, r), "got int32"),
    "a strided view": (lambda x, y, r: (x[::2], y, r), "make it contiguous"),
    "too small a record": (lambda x, y, r: (x, y, np.zeros(1, np.int32)), "record of 8 bytes, got ndarray of 4"),
    "a record that is no array": (lambda x, y, r: (x, y, r[()]), "record of 8 bytes, got void"),
}


@pytest.mark.parametrize("what", WRONG_CALLS)
def test_arguments_are_checked_against_the_signature(cp: Any, what: str) -> None:
    kernel = cp.RawModule(code=SOURCE).get_function("scale")
    x, record = cp.zeros(8, np.float32), np.array((8, 2.0), SIZES)
    arguments, message = WRONG_CALLS[what]
    with pytest.raises(TypeError, match=message):
        kernel((1,), (32,), arguments(x, cp.empty_like(x), record))


def test_scalars_are_checked(cp: Any) -> None:
    kernel = cp.RawKernel(SOURCE, "fill")
    y = cp.empty(4, np.float32)
    kernel((1,), (32,), (y, 4, np.float32(3), np.bool_(True)))
    np.testing.assert_array_equal(y.get(), 3)
    for arguments, message in [
        ((y, 4, 3.0, True), "passed as a double"),
        ((y, 1 << 31, np.float32(3), True), "does not fit"),
        ((y, np.int64(4), np.float32(3), True), "got int64"),
        ((y, y, np.float32(3), True), "passed by value"),
        ((y, "4", np.float32(3), True), "got str"),
    ]:
        with pytest.raises(TypeError, match=message):
            kernel((1,), (32,), arguments)


def test_launches_beyond_the_limits(cp: Any) -> None:
    kernel = cp.RawKernel(SOURCE, "fill")
    arguments = (cp.empty(4, np.float32), 4, np.float32(3), True)
    for grid, block in [((0,), (32,)), ((1, 65536), (32,)), ((1,), (2048,)), ((1,), (1, 1, 65))]:
        with pytest.raises(RuntimeError, match="INVALID_VALUE"):
            kernel(grid, block, arguments)
    with pytest.raises(RuntimeError, match="max_dynamic_shared_size_bytes is 49152"):
        kernel((1,), (32,), arguments, shared_mem=50000)
    kernel.max_dynamic_shared_size_bytes = 50000
    kernel((1,), (32,), arguments, shared_mem=50000)
    with pytest.raises(RuntimeError, match="INVALID_VALUE"):
        kernel.max_dynamic_shared_size_bytes = 300000


def test_modules_are_made_as_cupy_makes_them(cp: Any) -> None:
    template = "template <int N> __global__ void f(float* y) { y[threadIdx.x] = N; }"
    with pytest.raises(ValueError, match=r"C\+\+ standard"):
        cp.RawModule(code=template, name_expressions=("f<3>",))
    with pytest.raises(TypeError, match="expected tuple, got list"):
        cp.RawModule(code=template, options=["-std=c++17"])
    with pytest.raises(cp.cuda.compiler.CompileException, match="unrecognized option -O3"):
        cp.RawModule(code=template, options=("-O3",))
    with pytest.raises(cp.cuda.compiler.CompileException, match="not declared"):
        cp.RawModule(code='extern "C" __global__ void f() { g(); }').compile()
    module = cp.RawModule(code=template, options=("-std=c++17",), name_expressions=("f<3>",))
    with pytest.raises(RuntimeError, match="NOT_FOUND"):
        module.get_function("f<4>")
    y = cp.empty(8, np.float32)
    module.get_function("f<3>")((1,), (8,), (y,))
    np.testing.assert_array_equal(y.get(), 3)


def test_an_array_too_small_is_a_kernels_error(cp: Any, scale: Callable[..., None]) -> None:
    x = cp.zeros(100, np.float32)
    with running(checked=True, seed=0), pytest.raises(KernelError, match="stray access of 2 bytes at 0 bytes behind"):
        scale(x, cp.empty(96, np.float32))


# Streams


def pinned(cp: Any, values: Any) -> np.ndarray:
    values = np.asarray(values, np.float32)
    host = np.frombuffer(cp.cuda.alloc_pinned_memory(values.nbytes), np.float32, values.size)
    host[...] = values
    return host


def test_a_copy_arrives_late(cp: Any) -> None:
    stream, host, x = cp.cuda.Stream(non_blocking=True), pinned(cp, [1, 2, 3]), cp.zeros(3, np.float32)
    x.set(host, stream)
    assert np.isnan(x.get()).all()  # the default stream does not wait
    stream.synchronize()
    np.testing.assert_array_equal(x.get(), [1, 2, 3])
    back = pinned(cp, [0, 0, 0])
    x.get(stream=stream, out=back, blocking=False)
    assert np.isnan(back).all()
    stream.synchronize()
    np.testing.assert_array_equal(back, [1, 2, 3])


def test_pinned_memory_that_is_filled_again_too_early(cp: Any) -> None:
    stream, host, x = cp.cuda.Stream(non_blocking=True), pinned(cp, [1, 2, 3]), cp.zeros(3, np.float32)
    x.set(host, stream)
    host[...] = 9
    stream.synchronize()
    np.testing.assert_array_equal(x.get(), 9)


def test_memory_that_is_not_pinned_is_copied_at_once(cp: Any) -> None:
    stream, host, x = cp.cuda.Stream(non_blocking=True), np.ones(3, np.float32), cp.zeros(3, np.float32)
    x.set(host, stream)
    host[...] = 9
    np.testing.assert_array_equal(x.get(), 1)


@pytest.mark.parametrize("waits", [False, True])
def test_one_stream_sees_anothers_copy_only_after_waiting(cp: Any, scale: Callable[..., None], waits: bool) -> None:
    copies, work = cp.cuda.Stream(non_blocking=True), cp.cuda.Stream(non_blocking=True)
    x, y = cp.zeros(3, np.float32), cp.empty(3, np.float32)
    x.set(pinned(cp, [1, 2, 3]), copies)
    if waits:
        work.wait_event(copies.record())
    with work:
        scale(x, y)
    work.synchronize()
    assert np.isnan(y.get()).all() == (not waits)


@pytest.mark.parametrize("waits", [False, True])
def test_a_copy_into_what_is_still_read(cp: Any, scale: Callable[..., None], waits: bool) -> None:
    copies, work = cp.cuda.Stream(non_blocking=True), cp.cuda.Stream(non_blocking=True)
    x, y = cp.ones(3, np.float32), cp.empty(3, np.float32)
    with work:
        scale(x, y)
    if waits:
        copies.wait_event(work.record())
    x.set(pinned(cp, [1, 2, 3]), copies)
    work.synchronize()
    assert np.isnan(y.get()).all() == (not waits)


def test_the_device_waits_for_all(cp: Any, scale: Callable[..., None]) -> None:
    x, y, event = cp.ones(3, np.float32), cp.empty(3, np.float32), cp.cuda.Event()
    with cp.cuda.Stream(non_blocking=True) as stream:
        scale(x, y)
        event.record()
    assert not event.done
    cp.cuda.Device().synchronize()
    assert event.done
    np.testing.assert_array_equal(y.get(), 2)
    assert stream.done == stream.given


# Capture


@pytest.fixture
def stream(cp: Any) -> Iterator[Any]:
    stream = cp.cuda.Stream(non_blocking=True)
    yield stream
    if stream.is_capturing():
        stream.end_capture()


def test_a_graph_replays_on_new_inputs(cp: Any, scale: Callable[..., None], stream: Any) -> None:
    x, y = cp.ones(3, np.float32), cp.zeros(3, np.float32)
    with stream:
        stream.begin_capture()
        scale(x, y)
        y += 1
        cp.multiply(y, 3, out=y)
        graph = stream.end_capture()
    np.testing.assert_array_equal(y.get(), 0)  # a capture runs nothing
    for value in (1, 5):
        x[...] = value
        graph.launch(stream)
        stream.synchronize()
        np.testing.assert_array_equal(y.get(), (2 * value + 1) * 3)


FORBIDDEN = {
    "allocation": lambda cp, x: cp.empty(3),
    "an operation without out=": lambda cp, x: x + x,
    "a copy to the host": lambda cp, x: x.get(),
    "a number on the host": lambda cp, x: float(x[0]),
    "a copy from the host": lambda cp, x: x.set(np.zeros(3, np.float32)),
    "a product by cuBLAS": lambda cp, x: cp.matmul(x, x, out=x),
    "a reduction": lambda cp, x: cp.sum(x, out=x[0]),
    "waiting for the device": lambda cp, x: cp.cuda.Device().synchronize(),
    "waiting for a stream": lambda cp, x: cp.cuda.Stream.null.synchronize(),
    "pinned memory": lambda cp, x: cp.cuda.alloc_pinned_memory(8),
    "a library": lambda cp, x: cp.linalg.norm(x),
    "a second capture": lambda cp, x: cp.cuda.Stream().begin_capture(),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_a_capture_refuses(cp: Any, stream: Any, what: str) -> None:
    x = cp.zeros(3, np.float32)
    with stream:
        stream.begin_capture()
        with pytest.raises((RuntimeError, NotImplementedError), match=r"captured|capture is not supported"):
            FORBIDDEN[what](cp, x)


def test_a_capture_refuses_other_streams(cp: Any, scale: Callable[..., None], stream: Any) -> None:
    x = cp.zeros(3, np.float32)
    stream.begin_capture()
    with pytest.raises(RuntimeError, match="work on another stream"):
        scale(x, x)
    stream.end_capture()
    with pytest.raises(RuntimeError, match="default stream cannot be captured"):
        cp.cuda.Stream.null.begin_capture()


def test_a_graph_does_not_keep_its_arrays(cp: Any, scale: Callable[..., None], stream: Any) -> None:
    x, y = cp.ones(3, np.float32), cp.zeros(3, np.float32)
    with stream:
        stream.begin_capture()
        scale(x, y)
        graph = stream.end_capture()
    del x
    with pytest.raises(RuntimeError, match=r"array of shape \(3,\) that was freed"):
        graph.launch()


def test_a_capture_may_allocate_from_an_arena(cp: Any, stream: Any) -> None:
    arena, used = cp.empty(1024, np.uint8), 0

    def place(size: int) -> Any:
        nonlocal used
        pointer, used = arena.data + used, used + -(-size // 16) * 16
        return pointer

    x = cp.ones(3, np.float32)
    with stream, cp.cuda.using_allocator(place):
        stream.begin_capture()
        y = cp.exp(x + x)
        graph = stream.end_capture()
    x[...] = 2
    graph.launch(stream)
    stream.synchronize()
    np.testing.assert_allclose(y.get(), np.exp(4), rtol=1e-6)
    assert used == 32
