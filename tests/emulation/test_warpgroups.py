"""wgmma in the emulation: products by the PTX manual's layouts, and what a kernel may not do while one is under way."""

from functools import cache

import numpy as np
import pytest

from backends.cupy_kernels.runtime.compilation import FOLDER
from tests.emulation.compiler import missing
from tests.emulation.launch import KernelError, Module, statistics
from tests.emulation.memory import empty, upload

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

# y (64 x 16) = a (64 x DEPTH) b (16 x DEPTH)^T for one warpgroup. WAY: both operands from shared memory, one from
# registers, and the mistakes below
KERNEL = """
template <class Math, int WAY> __global__ void product(const float* a, const float* b, float* y) {
  constexpr int LENGTH = CHUNK<Math>, DEPTH = 2 * LENGTH, ROWS = 65, COLUMNS = 17;
  DYNAMIC_SHARED(Cell, memory);
  Cell *of_a = memory, *of_b = memory + 2 * ROWS;
  const int t = threadIdx.x, lane = t & 31, warp = t >> 5;
  for (int u = t; u < 160; u += 128) {
    const int row = u / 2, chunk = u % 2;
    float v[LENGTH];
    for (int e = 0; e < LENGTH; e++) v[e] = row < 64 ? a[row * DEPTH + chunk * LENGTH + e]
                                                     : b[(row - 64) * DEPTH + chunk * LENGTH + e];
    store_cell<Math>(row < 64 ? of_a + chunk * ROWS + row : of_b + chunk * COLUMNS + row - 64, 0, v);
  }
  if (WAY != 2) publish();
  __syncthreads();
  float sum[8];
  const unsigned long long operand_b = operand(of_b, 8, COLUMNS);
  fence_group();
  uint32_t registers[4];
  if (WAY == 1 || WAY == 4) {
    for (int w = 0; w < 4; w++)
      registers[w] = of_a[(w >> 1) * ROWS + warp * 16 + (lane >> 2) + (w & 1) * 8].word[lane & 3];
    multiply_group<16, LENGTH == 8>(sum, registers, operand_b, 0);
  } else {
    multiply_group<16, LENGTH == 8>(sum, operand((Cell*)((char*)of_a + (WAY == 6 ? 4 : 0)), 8, ROWS), operand_b, 0);
  }
  commit_products();
  if (WAY == 3) of_a[t] = Cell{};  // read when the product is done
  if (WAY == 4) registers[0] += 1;
  if (WAY == 5) return;
  wait_products<0>();
  for (int j = 0; j < 2; j++)
    for (int e = 0; e < 4; e++)
      y[(warp * 16 + (lane >> 2) + e / 2 * 8) * 16 + j * 8 + (lane & 3) * 2 + e % 2] = sum[j * 4 + e];
}
"""
NAMES = [f"product<{math}, {way}>" for math in ("Tf32", "Rounded") for way in range(7)]


@cache
def module(checked: bool) -> Module:
    return Module('#include "warpgroup.cuh"\n' + KERNEL, NAMES, include=[str(FOLDER)], checked=checked)


def run(math: str, way: int, checked: bool = True, threads: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """What came out, and what should."""
    depth = {"Tf32": 8, "Rounded": 16}[math]
    rng = np.random.default_rng(way)
    a, b = (rng.integers(-8, 9, (rows, depth)).astype(np.float32) for rows in (64, 16))  # as bfloat16 holds them
    y = empty(64 * 16)
    shared = 16 * 2 * (65 + 17)
    module(checked).launch(f"product<{math}, {way}>", (1,), (threads,), [upload(a), upload(b), y], shared=shared)
    return np.array(y).reshape(64, 16), a @ b.T


@pytest.mark.parametrize("math", ["Tf32", "Rounded"])
@pytest.mark.parametrize("way", [0, 1], ids=["from shared memory", "from registers"])
def test_a_product(math: str, way: int) -> None:
    statistics()
    found, wanted = run(math, way)
    np.testing.assert_array_equal(found, wanted)
    assert statistics()["wgmma"] == 128


MISTAKES = {
    2: "a wgmma reads what its writer has not published",
    3: "race, overwrites|race, reads",
    4: "registers of an operand changed while it was under way",
    5: "ends with a wgmma that it has not waited for",
    6: "an operand is not aligned to 16 bytes",
}


@pytest.mark.parametrize("math", ["Tf32", "Rounded"])
@pytest.mark.parametrize("way", MISTAKES)
def test_a_mistake_is_noticed(math: str, way: int) -> None:
    with pytest.raises(KernelError, match=MISTAKES[way]):
        run(math, way)


def test_memory_that_is_overwritten_too_early_shows_in_the_result() -> None:
    """Without the detector too."""
    found, wanted = run("Tf32", 3, checked=False)
    assert (found != wanted).any()


def test_a_warpgroup_has_four_warps() -> None:
    with pytest.raises(KernelError, match="fewer than four warps"):
        run("Tf32", 0, threads=96)
