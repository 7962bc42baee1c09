"""What the emulation imitates, by small kernels with known answers, in every order of threads."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from backends.cupy_kernels.runtime.compilation import FOLDER
from tests.emulation import compiler
from tests.emulation.compiler import CompileError, CompilerWarning, missing
from tests.emulation.launch import Module, statistics
from tests.emulation.memory import empty, upload

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

INCLUDE = [str(FOLDER)]

PRIMITIVES = r"""
#include "warp.cuh"
// Every shuffle, with a width; votes; a mask of half a warp; atomics; vectors; a static shared array
extern "C" __global__ void primitives(const float4* __restrict__ v, int* __restrict__ out, float* __restrict__ sums,
                                      int* counter) {
  int t = threadIdx.x, lane = t & 31, *o = out + t * 12;
  o[0] = __shfl_sync(ALL_LANES, lane * 10, 5);
  o[1] = __shfl_up_sync(ALL_LANES, lane, 3);
  o[2] = __shfl_down_sync(ALL_LANES, lane, 3);
  o[3] = __shfl_xor_sync(ALL_LANES, lane, 1);
  o[4] = __shfl_sync(ALL_LANES, lane, 2, 8);
  o[5] = __shfl_up_sync(ALL_LANES, lane, 1, 8);
  o[6] = __shfl_down_sync(ALL_LANES, lane, 1, 8);
  o[7] = (int)__ballot_sync(ALL_LANES, lane % 3 == 0);
  o[8] = __all_sync(ALL_LANES, lane < 32) * 2 + __any_sync(ALL_LANES, lane == 40);
  if (lane < 16) {
    o[9] = __shfl_xor_sync(0xffffu, lane, 8);
  } else {
    __syncwarp(0xffff0000u);
    o[9] = -1;
  }
  o[10] = (int)__shfl_xor_sync(ALL_LANES, (double)lane, 16);
  o[11] = atomicAdd(counter, 1) >= 0;
  float4 a = v[t];
  float s = sum_lanes(a.x + a.y + a.z + a.w);
  SHARED(float, part, [4]);
  if (lane == 0) part[t >> 5] = s;
  __syncthreads();
  if (t == 0) sums[blockIdx.x] = part[0] + part[1] + part[2] + part[3];
}
// Lanes of one warp hand data on through shared memory: __syncwarp is enough
extern "C" __global__ void through_shared(int* out) {
  DYNAMIC_SHARED(int, s);
  int t = threadIdx.x;
  s[t] = t;
  __syncwarp();
  out[t] = s[t ^ 1];
}
// Threads that end early do not hold the others up
extern "C" __global__ void early_end(int* out) {
  if (threadIdx.x >= 40) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}
"""


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_threads_meet_as_on_a_gpu(checked: bool, seed: int) -> None:
    module = Module(PRIMITIVES, include=INCLUDE, checked=checked)
    v = upload(np.random.default_rng(0).standard_normal((128, 4)), np.float32)
    out, sums, counter = empty((128, 12), np.int32), empty(1), upload(np.zeros(1, np.int32))
    module.launch("primitives", (1,), (128,), [v, out, sums, counter], seed=seed)
    lane = np.tile(np.arange(32), 4)
    wanted = [
        np.full(128, 50),
        np.where(lane >= 3, lane - 3, lane),
        np.where(lane < 29, lane + 3, lane),
        lane ^ 1,
        lane // 8 * 8 + 2,
        np.where(lane % 8, lane - 1, lane),
        np.where(lane % 8 < 7, lane + 1, lane),
        np.full(128, 0x49249249),
        np.full(128, 2),
        np.where(lane < 16, lane ^ 8, -1),
        lane ^ 16,
        np.ones(128, int),
    ]
    np.testing.assert_array_equal(out, np.stack(wanted, 1))
    assert counter[0] == 128
    assert sums[0] == pytest.approx(float(v.sum()), abs=1e-3)
    out = empty(64, np.int32)
    module.launch("through_shared", (1,), (64,), [out], shared=256, seed=seed)
    np.testing.assert_array_equal(out, np.arange(64) ^ 1)
    module.launch("early_end", (1,), (64,), [out], seed=seed)
    np.testing.assert_array_equal(out[:40], 1)


PRODUCT = r"""
#include "tile.cuh"
template <class Math, bool A_BY_ROWS>
__global__ void product(const typename Math::In* a, const typename Math::In* b, float* y) {
  typedef typename Math::In In;
  constexpr int DEPTH = Math::DEPTH, LDA = A_BY_ROWS ? DEPTH + WIDE<In> : 24, LDB = 24;
  DYNAMIC_SHARED(In, slice);
  In* of_b = slice + (A_BY_ROWS ? 16 : DEPTH) * LDA;
  for (int i = threadIdx.x; i < 16 * DEPTH; i += 32) {
    int row = i / DEPTH, k = i % DEPTH;
    slice[A_BY_ROWS ? row * LDA + k : k * LDA + row] = a[i];
    of_b[i / 16 * LDB + i % 16] = b[i];
  }
  __syncthreads();
  WarpTile<Math, 16, 16> tile;
  tile.clear();
  tile.template step<A_BY_ROWS, LDA, LDB>(slice, of_b, threadIdx.x);
  tile.each_pair(threadIdx.x, [&](int row, int column, float2 v) {
    y[row * 16 + column] = v.x;
    y[row * 16 + column + 1] = v.y;
  });
}
"""
INSTANCES = {f"product<{math}, {rows}>": math for math in ("Tf32", "Split", "Bf16") for rows in ("true", "false")}


def to_bf16(a: np.ndarray) -> np.ndarray:
    bits = np.asarray(a, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def operand(math: str, a: np.ndarray) -> np.ndarray:
    return upload(to_bf16(a) if math == "Bf16" else a.astype(np.float32))


@pytest.fixture(scope="module")
def products() -> Module:
    return Module(PRODUCT, INSTANCES, INCLUDE)


@pytest.mark.parametrize("name", INSTANCES)
def test_tensor_cores_are_exact_on_small_whole_numbers(products: Module, name: str) -> None:
    rng, depth = np.random.default_rng(0), 16 if INSTANCES[name] == "Bf16" else 8
    a, b, y = rng.integers(-8, 8, (16, depth)), rng.integers(-8, 8, (depth, 16)), empty((16, 16))
    products.launch(name, (1,), (32,), [operand(INSTANCES[name], a), operand(INSTANCES[name], b), y], shared=8192)
    np.testing.assert_array_equal(y, a @ b)


@pytest.mark.parametrize(("math", "least", "most"), [("Tf32", 1e-5, 1e-3), ("Split", 1e-9, 1e-6), ("Bf16", 1e-4, 8e-3)])
def test_the_error_of_each_precision(products: Module, math: str, least: float, most: float) -> None:
    rng, depth = np.random.default_rng(0), 16 if math == "Bf16" else 8
    a, b, y = rng.standard_normal((16, depth)), rng.standard_normal((depth, 16)), empty((16, 16))
    products.launch(f"product<{math}, true>", (1,), (32,), [operand(math, a), operand(math, b), y], shared=8192)
    error = np.linalg.norm(y - a @ b) / np.linalg.norm(a @ b)
    assert least < error < most


def test_statistics_count_and_show_bank_conflicts(products: Module) -> None:
    y = empty((16, 16))
    a, b = (operand("Tf32", np.ones(shape)) for shape in ((16, 8), (8, 16)))
    statistics()
    products.launch("product<Tf32, true>", (1,), (32,), [a, b, y], shared=8192)
    found = statistics()
    # Rows of 12 words: four conflicts in each of the four matrices would be rows of 16
    assert (found["mma"], found["ldmatrix"], found["ldmatrix_bank_conflicts"]) == (2, 1, 0)
    assert found["blocks"] == 1
    unpadded = PRODUCT.replace("DEPTH + WIDE<In>", "2 * DEPTH")
    Module(unpadded, ["product<Tf32, true>"], INCLUDE).launch("product<Tf32, true>", (1,), (32,), [a, b, y], 8192)
    assert statistics()["ldmatrix_bank_conflicts"] > 0
    assert sum(statistics().values()) == 0


COPY = r"""
#include "warp.cuh"
extern "C" __global__ void copy(const float* x, float* y) {
  DYNAMIC_SHARED(float, s);
  copy_async16(s + threadIdx.x * 4, x + threadIdx.x * 4, threadIdx.x % 2 == 0);
  commit_group();
  wait_group<0>();
  __syncthreads();
  y[threadIdx.x] = s[(threadIdx.x + 32) % 64 * 4];
}
"""


@pytest.mark.parametrize("checked", [False, True])
def test_copies_arrive_and_leave_zeros(checked: bool) -> None:
    x, y = upload(np.arange(1, 257), np.float32), empty(64)
    Module(COPY, include=INCLUDE, checked=checked).launch("copy", (1,), (64,), [x, y], shared=1024)
    thread = (np.arange(64) + 32) % 64
    np.testing.assert_array_equal(y, np.where(thread % 2, 0, thread * 4 + 1))


def test_a_source_that_does_not_compile_says_where() -> None:
    with pytest.raises(CompileError, match=r"wrong\.cu:2:.*nothing"):
        Module('\nextern "C" __global__ void k() { nothing(); }', label="wrong.cu")


def test_warnings_are_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compiler, "BUILD", tmp_path)
    with pytest.warns(CompilerWarning, match="unused variable 'left_over'"):
        Module('extern "C" __global__ void k() { int left_over = 1; }')


def test_kernels_of_one_name_stay_apart() -> None:
    one, other = (Module(f'extern "C" __global__ void same({types}) {{}}') for types in ("int", "float*, double"))
    assert (one.types["same"], other.types["same"]) == (["i4"], ["*f4", "f8"])


def test_what_no_gpu_has_does_not_compile() -> None:
    for line in ("__shared__ float s[4];", "wgmma();"):
        with pytest.raises(CompileError):
            Module(f'extern "C" __global__ void k() {{ {line} }}')


@pytest.mark.slow
def test_fibers_by_the_system_give_the_same() -> None:
    """What other processors than x86-64 use."""
    program = (
        "from tests.emulation import compiler, test_block\n"
        "compiler.FLAGS.append('-DEMULATION_UCONTEXT')\n"
        "test_block.test_threads_meet_as_on_a_gpu(False, 3)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=compiler.HERE.parents[1])
