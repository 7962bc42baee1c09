"""How CUDA kernels are compiled and launched, on the stand-in for CuPy."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import BackendUnavailable, CupyBackend
from backends.cupy_kernels import elementwise, resampling
from backends.cupy_kernels.runtime import compilation, launch
from backends.cupy_kernels.runtime.launch import Kernel, RecordType, grid_over, vectors
from tests.emulation.compiler import missing
from tests.emulation.cupy.kernels import running
from tests.emulation.device import cupy_backend, device_with

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

SOURCE = r"""
#include "types.cuh"
struct Sizes { int count; float factor; };
template <class T, int N> __global__ void scale(const T* x, T* y, Sizes sizes) {
  DYNAMIC_SHARED(float, s);
  s[threadIdx.x] = sizes.factor;
  EACH(i, sizes.count) y[i] = from_float<T>(s[threadIdx.x] * to_float(x[i]) + N);
}
__global__ void shift(float* y, int by, float factor) { y[threadIdx.x] = factor * y[threadIdx.x] + by; }
"""
WRONG = "__global__ void wrong(float* y) { y[0] = nobody; }"
SIZES = RecordType("count", "factor")


@pytest.fixture(scope="module")
def backend() -> Iterator[CupyBackend]:
    with cupy_backend() as backend:
        yield backend


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Sources of this test beside the headers of the kernels."""
    (tmp_path / "types.cuh").write_text((compilation.FOLDER / "types.cuh").read_text())
    (tmp_path / "source.cu").write_text(SOURCE)
    (tmp_path / "wrong.cu").write_text(WRONG)
    monkeypatch.setattr(compilation, "FOLDER", tmp_path)
    monkeypatch.setattr(Kernel, "every", [])
    compilation.options.cache_clear()
    compilation.compiled.cache_clear()
    yield tmp_path
    compilation.options.cache_clear()
    compilation.compiled.cache_clear()


def test_a_template_with_a_record_and_shared_memory(backend: CupyBackend, folder: Path) -> None:
    kernel = Kernel("source.cu", "scale", (("float", 3),), threads=64, shared=lambda element, n: 64 * 4)
    x = backend.asarray(np.arange(100), "float32")
    y = backend.xp.empty_like(x)
    kernel.run((1,), x, y, SIZES(count=100, factor=2.0), template=("float", 3))
    np.testing.assert_array_equal(y.get(), 2 * np.arange(100) + 3)


def test_more_shared_memory_than_is_plain_is_asked_for(backend: CupyBackend, folder: Path) -> None:
    kernel = Kernel("source.cu", "scale", (("float", 0),), threads=64)
    x = backend.asarray([1], "float32")
    kernel.run((1,), x, x, SIZES(count=1, factor=2.0), template=("float", 0), shared=100 << 10)
    assert float(x[0]) == 2.0


def test_numbers_are_passed_in_32_bits(backend: CupyBackend, folder: Path) -> None:
    kernel = Kernel("source.cu", "shift")
    y = backend.asarray([1, 2], "float32")
    kernel.run((1,), y, 3, 0.5, block=(2,))
    np.testing.assert_array_equal(y.get(), [3.5, 4])
    with pytest.raises(OverflowError):
        kernel.run((1,), y, 1 << 31, 0.5)


def test_only_declared_instances_run(backend: CupyBackend, folder: Path) -> None:
    with pytest.raises(KeyError):
        Kernel("source.cu", "scale", (("float", 1),)).run((1,), template=("float", 2))


def test_records_want_their_fields(backend: CupyBackend) -> None:
    assert SIZES.dtype.itemsize == 8
    for values in ({"count": 1}, {"count": 1, "factor": 1.0, "more": 2}):
        with pytest.raises(TypeError, match="a record of count, factor got"):
            SIZES(**values)


def test_a_kernel_that_does_not_compile_is_told_in_one_line(backend: CupyBackend, folder: Path) -> None:
    with pytest.raises(BackendUnavailable) as caught:
        Kernel("wrong.cu", "wrong").run((1,))
    # "." stops at the end of a line
    told = r"the CUDA kernel wrong of wrong\.cu does not compile here \(.*nobody.*\); another version .*"
    assert re.fullmatch(told, str(caught.value))


def test_kernels_are_compiled_once_and_again_where_a_header_changed(backend: CupyBackend, folder: Path) -> None:
    first = compilation.compiled(backend.xp, "source.cu", "shift")
    assert compilation.compiled(backend.xp, "source.cu", "shift") is first
    before = compilation.options()
    compilation.options.cache_clear()
    header = folder / "types.cuh"
    header.write_text(header.read_text() + "// more\n")
    assert compilation.options() != before


def test_vectors_are_as_wide_as_length_and_addresses_allow(backend: CupyBackend) -> None:
    x = backend.xp.zeros(64, np.float32)
    assert vectors(x, 64) == ("float", 4)
    assert vectors(x, 6) == ("float", 1)
    assert vectors(x, 60, x[1:61]) == ("float", 1)
    assert vectors(x, 60, x[4:]) == ("float", 4)


@pytest.mark.parametrize("first", [0, 1])
def test_views_that_begin_anywhere(backend: CupyBackend, first: int) -> None:
    x = backend.asarray(np.random.default_rng(0).standard_normal(257), "float32")
    with running(checked=True, seed=0):
        y, _ = backend.silu(x[first : first + 256])
    host = x.get()[first : first + 256].astype(np.float64)
    np.testing.assert_allclose(y.get(), host / (1 + np.exp(-host)), rtol=1e-5)


def test_grids_are_no_larger_than_what_runs_at_once(backend: CupyBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "multiprocessors", lambda module: 2)
    assert grid_over(1) == (1,)
    assert grid_over(257) == (2,)
    assert grid_over(10**6) == (16,)


def test_threads_of_a_small_grid_walk_over_the_array(backend: CupyBackend) -> None:
    x = np.random.default_rng(0).standard_normal(3 * 4 * launch.THREADS * launch.BLOCKS + 4).astype(np.float32)
    with device_with(1):
        y, _ = backend.add(backend.asarray(x), backend.asarray(x))
    np.testing.assert_array_equal(y.get(), 2 * x)


# bfloat16, which NumPy has not: bits in uint16


def to_bf16(x: np.ndarray) -> np.ndarray:
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(x: np.ndarray) -> np.ndarray:
    return (x.astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize("wide", [8, 1])
def test_kernels_take_bfloat16(backend: CupyBackend, wide: int) -> None:
    rng, xp = np.random.default_rng(0), backend.xp
    small, large, shift = (to_bf16(rng.standard_normal(s)) for s in ((2, 3, 2, 8), (2, 6, 4, 8), (2, 8)))
    x, z, b = (from_bf16(a).astype(np.float64) for a in (small, large, shift))
    sigmoid = 1 / (1 + np.exp(-x))
    count, row = small.size // wide, 8 // wide
    given: dict[Any, tuple] = {
        elementwise.SILU: ((small,), x.shape, (count,), x * sigmoid),
        elementwise.SILU_BACKWARD: ((small, small), x.shape, (count,), x * sigmoid * (1 + x * (1 - sigmoid))),
        elementwise.ADD: ((small, small), x.shape, (count,), x + x),
        elementwise.ADD_SHIFT: ((small, shift), x.shape, (count, row, 6 * row), x + b[:, None, None]),
        elementwise.JOIN: ((small, small), (2, 3, 2, 16), (2 * count, row, row), np.concatenate([x, x], -1)),
        resampling.SPREAD: ((small,), z.shape, (1.0, count, row, 2 * row), x.repeat(2, 1).repeat(2, 2)),
        resampling.GATHER: (
            (large,),
            x.shape,
            (0.25, count, row, 2 * row),
            z.reshape(2, 3, 2, 2, 2, 8).mean((2, 4)),
        ),
    }
    for kernel, (inputs, shape, sizes, wanted) in given.items():
        y = xp.empty(shape, np.uint16)
        kernel.run((2,), *(xp.asarray(a) for a in inputs), y, *sizes, template=("bf16", wide))
        error = np.linalg.norm(from_bf16(y.get()) - wanted) / np.linalg.norm(wanted)
        assert error < 4e-3, kernel.name
    out = xp.empty((2, 8), np.uint16)
    elementwise.SUM_PIXELS.run((2, 1), xp.asarray(small), out, 6, 8, template=("bf16",), block=(32, 16))
    np.testing.assert_allclose(from_bf16(out.get()), x.sum((1, 2)), rtol=8e-3, atol=1e-2)
