"""Planted mistakes, each noticed by name: most by wrong results or faults in fast mode, all of them in checked mode."""

import re
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest

from backends.cupy_kernels.runtime.compilation import FOLDER
from tests.emulation.compiler import missing
from tests.emulation.launch import KernelError, Module
from tests.emulation.memory import empty, upload

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


class Mistake(NamedTuple):
    """The body of a kernel of two warps; what fast mode says over four orders of threads (None: it may see nothing),
    and what checked mode says in one."""

    body: str
    fast: str | None
    checked: str


NAN = "NaNs in the output"
SHARED = "DYNAMIC_SHARED(float, s); const int t = threadIdx.x; "
MISTAKES = {
    "shared memory read before it is written": Mistake(SHARED + "y[t] = s[t];", NAN, NAN),
    "a static shared array read before it is written": Mistake(
        "SHARED(float, s, [64]); const int t = threadIdx.x; y[t] = s[t];", NAN, NAN
    ),
    "no __syncthreads between warps": Mistake(SHARED + "s[t] = 1.f; y[t] = s[t ^ 32];", NAN, "race, reads"),
    "no __syncwarp within a warp": Mistake(SHARED + "s[t] = 1.f; y[t] = s[t ^ 1];", NAN, "race, reads"),
    "a shuffle taken for a barrier": Mistake(
        SHARED + "s[t] = 1.f; __shfl_sync(ALL_LANES, 0, 0); y[t] = s[t ^ 1];", None, "race, reads"
    ),
    "a missing second barrier in a loop": Mistake(
        SHARED
        + "float v = 0.f; for (int i = 0; i < 3; i++) { s[t] = 1.f; __syncthreads(); v += s[t ^ 32]; } y[t] = v;",
        None,
        "race, overwrites what was read",
    ),
    "a race in a static shared array": Mistake(
        "SHARED(float, s, [64]); const int t = threadIdx.x; s[t] = 1.f; y[t] = s[t ^ 32];", NAN, "race, reads"
    ),
    "__syncthreads in half a block": Mistake(
        "if (threadIdx.x < 32) __syncthreads();\n __syncwarp(); y[threadIdx.x] = 1.f; __syncthreads();",
        None,
        "two different __syncthreads",
    ),
    "a shuffle in half a warp": Mistake(
        "y[threadIdx.x] = 1.f; if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(ALL_LANES, 1.f, 0); "
        "else __syncthreads();",
        "deadlock",
        "deadlock",
    ),
    "a mask that does not name the caller": Mistake("y[threadIdx.x] = __shfl_sync(1u, 1.f, 0);", "mask", "mask"),
    "different operations meet": Mistake(
        "y[threadIdx.x] = threadIdx.x & 1 ? __shfl_sync(ALL_LANES, 1.f, 0) : (float)__ballot_sync(ALL_LANES, 1);",
        "different operations",
        "different operations",
    ),
    "mma with lanes missing": Mistake(
        "float d[4] = {}; uint32_t a[4] = {}, b[2] = {}; if (threadIdx.x == 3) return; "
        "mma_tf32(d, a, b); y[threadIdx.x] = d[0];",
        "all 32 lanes",
        "all 32 lanes",
    ),
    "one element past an array": Mistake("y[threadIdx.x + 1] = 1.f;", "illegal access|wrote beside", "stray access"),
    "one element before an array": Mistake(
        "y[(int)threadIdx.x - 1] = 1.f;", "illegal access|wrote beside", "stray access"
    ),
    "a read past an array": Mistake("y[threadIdx.x] = x[threadIdx.x + 1] > 0.f ? 1.f : 2.f;", None, "stray access"),
    "past shared memory": Mistake(SHARED + "s[t + 1] = 1.f; y[t] = 1.f;", "illegal access", "stray access"),
    "past a static shared array": Mistake(
        "SHARED(float, s, [64]); float* p = s; p[threadIdx.x + 1] = 1.f; y[threadIdx.x] = 1.f;", None, "stray access"
    ),
    "a float4 at an odd place": Mistake(
        "y[threadIdx.x] = 1.f; if (threadIdx.x == 0) *(float4*)(y + 1) = make_float4(1.f, 1.f, 1.f, 1.f);",
        None,
        "misaligned access",
    ),
    "all threads store to one place": Mistake("y[threadIdx.x] = 1.f; y[0] = 1.f;", None, "race, overwrites"),
    "blocks that overlap": Mistake("y[threadIdx.x] = 1.f;", None, "another block .* wrote"),
    "an index past a local array": Mistake(
        "float v[4] = {1, 1, 1, 1}; y[threadIdx.x] = v[threadIdx.x & 7];", None, r"index \d out of bounds"
    ),
    "division by zero": Mistake("y[threadIdx.x] = (float)(7 / (n - 64));", "division by zero", "division by zero"),
    "cp.async not waited for": Mistake(
        SHARED + "copy_async16(s + t * 4, x, true); commit_group(); __syncthreads(); y[t] = s[t * 4];",
        "ends with a cp.async",
        "has not waited for",
    ),
    "cp.async not committed": Mistake(
        SHARED + "copy_async16(s + t * 4, x, true); wait_group<0>(); __syncthreads(); y[t] = s[t * 4];",
        "ends with a cp.async",
        "has not waited for",
    ),
    "cp.async seen by others without a barrier": Mistake(
        SHARED + "copy_async16(s + t * 4, x, true); commit_group(); wait_group<0>(); y[t] = s[(t ^ 32) * 4];",
        None,
        "race, reads",
    ),
    "cp.async to a misaligned place": Mistake(
        SHARED + "copy_async16(s + t * 4 + 1, x, true); commit_group(); wait_group<0>(); y[t] = 1.f;",
        "not aligned to its size",
        "not aligned to its size",
    ),
}


def kernel(number: int, mistake: Mistake) -> str:
    return (
        f'extern "C" __global__ void k{number}([[maybe_unused]] const float* __restrict__ x, '
        f"float* __restrict__ y, [[maybe_unused]] int n) {{\n{mistake.body}\n}}\n"
    )


SOURCE = '#include "warp.cuh"\n' + "".join(kernel(i, mistake) for i, mistake in enumerate(MISTAKES.values()))


@cache
def module(checked: bool) -> Module:
    return Module(SOURCE, include=[str(FOLDER)], checked=checked)


def said(what: str, checked: bool, seed: int) -> str:
    """What the emulation says about a mistake at this order of threads; "" if nothing."""
    x, y = upload(np.ones(64), np.float32), empty(64)
    name, grid = f"k{list(MISTAKES).index(what)}", (2,) if what == "blocks that overlap" else (1,)
    shared = 64 * 4 * (4 if "async" in what else 1)
    try:
        module(checked).launch(name, grid, (64,), [x, y, np.int32(64)], shared=shared, seed=seed)
    except KernelError as error:
        return str(error)
    return "" if np.isfinite(y).all() else NAN


@pytest.mark.parametrize("what", [what for what, mistake in MISTAKES.items() if mistake.fast])
def test_fast_mode_notices(what: str) -> None:
    assert any(re.search(str(MISTAKES[what].fast), said(what, False, seed)) for seed in range(4))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("what", MISTAKES)
def test_checked_mode_notices_whatever_the_order(what: str, seed: int) -> None:
    assert re.search(MISTAKES[what].checked, said(what, True, seed))


@pytest.mark.parametrize("what", ["no __syncthreads between warps", "one element past an array"])
def test_the_line_of_the_source_is_named(what: str) -> None:
    line = SOURCE[: SOURCE.index(MISTAKES[what].body)].count("\n") + 1
    assert f"[kernel.cu:{line}]" in said(what, True, 0)


def test_a_report_says_which_thread_and_how_far_beside() -> None:
    report = said("one element past an array", True, 0)
    assert re.search(r"k\d+, block \(0,0,0\), thread \(63,0,0\): stray access .* 0 bytes behind a global array", report)


def test_two_barriers_that_the_compiler_made_of_one_are_no_mistake() -> None:
    code = r"""
    extern "C" __global__ void k(float* y) {
      for (int i = 0; i < 2; i++) __syncthreads();
      y[threadIdx.x] = 1.f;
    }"""
    y = empty(64)
    Module(code, checked=True).launch("k", (1,), (64,), [y])
    np.testing.assert_array_equal(y, 1)
