"""Every override of the CuPy backend against the reference operation in float64, on the stand-in for CuPy.

A kernel that is new needs nothing here: its operations are found by `overrides`, its cases are `SHAPES`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import OPS, CupyBackend
from backends.testing import CASES, SEEDS, SHAPES, check_against, check_refusals, single
from backends.testing.registry import OVERWRITES
from tests.emulation.compiler import missing
from tests.emulation.cupy.kernels import running
from tests.emulation.device import beginning_anywhere, cupy_backend, device_with, operation
from tests.emulation.launch import statistics

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

OVERRIDDEN = tuple(n for n in OPS if hasattr(CupyBackend, n) or hasattr(CupyBackend, f"{n}_backward"))
# Made in float64 by a kernel, whose logarithm and sine may differ from NumPy's in the last bit
LAST_BIT = ("random_normal", "sinusoidal_embedding")
# Relative errors by norm; where products are rounded, those of the precision
EXACT = {"value": 2e-6, "gradient": 2e-6}


@pytest.fixture(scope="module")
def backend() -> Iterator[CupyBackend]:
    with cupy_backend(precision="fp32") as backend:
        yield backend


def assert_equals_the_reference(
    backend: CupyBackend, name: str, case: Any, seed: int, upload: Callable[[Any], Any] | None = None
) -> None:
    options = {**EXACT, "wrt": OPS[name].wrt, "overwrites": OVERWRITES.get(name, ())}
    check_against(name, operation(backend, name, upload), case, seed=seed, **options)


@pytest.mark.parametrize("name", OVERRIDDEN)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_override_equals_the_reference(backend: CupyBackend, name: str, data: st.DataObject) -> None:
    """In ascending, descending and random orders of threads, on small and large devices, old and new."""
    device = device_with(data.draw(st.sampled_from([1, 132])), data.draw(st.sampled_from(["80", "90"])))
    with running(seed=data.draw(st.integers(0, 3))), device:
        case = data.draw(st.one_of(CASES[name], SHAPES[name]))
        assert_equals_the_reference(backend, name, case, data.draw(SEEDS))


@pytest.mark.parametrize("name", OVERRIDDEN)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_override_makes_no_mistake_that_luck_hides(backend: CupyBackend, name: str, data: st.DataObject) -> None:
    """Races, stray and misaligned accesses, unfinished copies: whatever the order of threads."""
    with running(checked=True, seed=0):
        case = data.draw(st.one_of(CASES[name], SHAPES[name]))
        assert_equals_the_reference(backend, name, case, data.draw(SEEDS))


@pytest.mark.parametrize("name", OVERRIDDEN)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_override_takes_each_array_wherever_it_begins(backend: CupyBackend, name: str, data: st.DataObject) -> None:
    """One at a multiple of 16 bytes, another not: an instance that moves 16 bytes at once must ask for all of them."""
    with running(checked=True, seed=0):
        case, seed = data.draw(SHAPES[name]), data.draw(SEEDS)
        assert_equals_the_reference(backend, name, case, seed, beginning_anywhere(backend, seed))


@pytest.mark.parametrize("name", OVERRIDDEN)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_other_precisions_and_gaps_run_the_reference(backend: CupyBackend, name: str, data: st.DataObject) -> None:
    case = {k: backend.asarray(v) if isinstance(v, np.ndarray) else v for k, v in data.draw(CASES[name]).items()}
    result, wanted = getattr(backend, name)(**case), OPS[name].forward(backend.xp, **case)
    for ours, reference in zip(first_arrays(result), first_arrays(wanted), strict=True):
        tolerance = {"rtol": 1e-13, "atol": 1e-15} if name in LAST_BIT else {"rtol": 0, "atol": 0}
        np.testing.assert_allclose(backend.to_numpy(ours), backend.to_numpy(reference), **tolerance)


@pytest.mark.parametrize("name", OVERRIDDEN)
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_guard_lets_through_only_what_the_kernel_is_written_for(
    backend: CupyBackend, name: str, data: st.DataObject
) -> None:
    check_refusals(name, operation(backend, name), data.draw(CASES[name]), seed=data.draw(SEEDS))


def first_arrays(result: Any) -> list[Any]:
    members = result if isinstance(result, tuple) else (result,)
    return [a for a in members if hasattr(a, "get")]


@pytest.mark.parametrize("name", OVERRIDDEN)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_kernels_take_all_that_networks_give_them(backend: CupyBackend, name: str, data: st.DataObject) -> None:
    """A guard that is too strict would leave the work to the reference, unseen."""
    forward, backward = operation(backend, name)
    case = single(data.draw(SHAPES[name]))
    statistics()
    result = forward(**case)
    assert (statistics()["blocks"] > 0) == hasattr(CupyBackend, name)
    if backward is not None:
        backward(*result)
        assert (statistics()["blocks"] > 0) == hasattr(CupyBackend, f"{name}_backward")


@pytest.mark.parametrize("name", ["silu", "add", "average_pool"])
def test_views_with_gaps_run_the_reference(backend: CupyBackend, name: str) -> None:
    x = backend.asarray(np.random.default_rng(0).standard_normal((2, 4, 4, 16)), "float32")[..., ::2]
    args = (x, x) if name == "add" else (x,)
    y = getattr(backend, name)(*args)[0]
    wanted = OPS[name].forward(np, *(a.get() for a in args))[0]
    np.testing.assert_allclose(y.get(), wanted, rtol=1e-6)
