"""The benchmark of single operations: it has all of them, and times nothing that is wrong."""

import importlib.util

import numpy as np
import pytest

from backends import OPS
from benchmarks import ops as operations
from benchmarks.operation_cases import CASES, SMOKE, Case, Numbers, without_case
from benchmarks.operation_peers import TorchCase


def test_every_operation_has_a_case():
    assert without_case(list(OPS)) == []
    assert {case.op for case in CASES} == OPS.keys(), "a case of no operation"


def test_names_tell_cases_apart():
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("only", ["conv2d 8x8", "clip_by_global_norm", "dropout_mask"])
def test_smoke(only: str):
    rows, rates = operations.measure(True, 1, 1, only)
    chosen = [case for case in CASES if only in case.name]
    assert [row["work"] for row in rows] == [c.name for c in chosen for _ in range(1 + bool(OPS[c.op].backward))]
    has_torch = importlib.util.find_spec("torch") is not None and only != "dropout_mask"
    for row in rows:
        assert row["numba ms"] > 0
        assert (row["ratio"] is not None) == (row["torch ms"] is not None) == has_torch
        least = max(row["MFLOP"] * 1e6 / rates["gemm"], row["MB"] * 1e6 / rates["copy"])
        assert np.isclose(row["numba roofline"], least / (row["numba ms"] / 1e3))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_pytorch_takes_the_arguments_of_every_case(case: Case):
    pytest.importorskip("torch", reason="its twins need PyTorch: pip install 'tinyddpm[parity]'")
    try:
        twin = TorchCase(case.op, case.make(Numbers(SMOKE)))
    except LookupError:
        pytest.skip(f"{case.op} has no twin")
    results = twin.both() if OPS[case.op].backward else twin.forward()
    assert all(np.isfinite(np.asarray(a)).all() for a in results)


def case_of(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def test_work_of_a_convolution():
    case = case_of("conv2d 16x16, 64->64, stride 2").make(Numbers(SMOKE))
    y = np.zeros((2, 8, 8, 64), np.float32)
    gradients = [case["x"], case["weight"], case["bias"]]
    flops = 2 * 9 * 64 * 64 * y.size // 64
    x, weight, bias = (a.nbytes for a in gradients)
    forward = x + weight + bias + y.nbytes
    assert operations.work("conv2d", case, [y, *gradients], False) == (flops, forward)
    backward = y.nbytes + x + weight + (x + weight + bias)
    assert operations.work("conv2d", case, [y, *gradients], True) == (3 * flops, forward + backward)


def test_work_of_adam():
    case = case_of("adam all parameters").make(Numbers(SMOKE))
    assert operations.work("adam", case, [case["params"], case["m"], case["v"]], False) == (0, 7 * 4 * SMOKE.params)


def test_a_wrong_result_is_not_timed():
    case, right = case_of("adam all parameters"), np.ones(4, np.float32)
    operations.check_agreement(case, {"numpy": [right], "numba": [right * np.float32(1 + 5e-5)]})
    for wrong in (right * np.float32(1.001), right * np.nan):
        with pytest.raises(RuntimeError, match=r"^adam all parameters: result 0 of numba is not numpy's"):
            operations.check_agreement(case, {"numpy": [right], "numba": [wrong]})
