"""The bug museum: the suite notices every mistake on exhibition, and each leaves everything as it was."""

import functools
import gc
import types
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

import backends
from backends.cupy_kernels import geometry as geometries
from backends.cupy_kernels import tuning
from backends.cupy_kernels.runtime import compilation
from backends.numba_kernels.convolution.algorithms import CONV
from backends.numba_kernels.convolution.tiles import TileKernels
from backends.numba_kernels.runtime.compilation import sources_digest
from backends.testing import check_gradient
from tests.emulation.compiler import missing
from tests.emulation.device import cupy_backend, device_with
from tests.museum.exhibit import Check, Mutant
from tests.museum.mutants import MUTANTS
from tests.museum.pitfalls import NOT_EXPRESSED, PITFALLS
from tests.museum.sources import sources
from tests.museum.switch import Edit, SourceEdit, named, switched_on
from tinyddpm.diffusion.schedules import Schedule

# The sources of the CUDA kernels
ORIGINAL = sources()

every_mutant = pytest.mark.parametrize("mutant", MUTANTS, ids=str)


@functools.cache
def passes_without_mistakes(check: Check) -> None:
    """Runs the check, once however many mistakes it is to notice."""
    check()


@every_mutant
def test_the_suite_notices(mutant: Mutant) -> None:
    for check in (*mutant.killers, *mutant.passes):
        if reason := check.cannot_run():
            pytest.skip(reason)
        passes_without_mistakes(check)
    with switched_on(mutant.edits):
        for killer in mutant.killers:
            # Not pytest.raises, which lets no test end in pytest's own kind of failure
            try:
                killer()
            except mutant.noticed_by:
                continue
            raise AssertionError(f"{killer} does not notice: {mutant.name}")
        for check in mutant.passes:
            check()


def test_the_exhibition_is_complete() -> None:
    shown = {mutant.pitfall for mutant in MUTANTS}
    for number, pitfall in PITFALLS.items():
        print(f"\n{number:2d}. {pitfall}")
        for mutant in (mutant for mutant in MUTANTS if mutant.pitfall == number):
            print(f"    {mutant.name}, noticed by")
            print(*(f"        {killer}" for killer in mutant.killers), sep="\n")
            print(
                *(f"        (but not by {check})" for check in mutant.passes), sep="\n", end="\n" * bool(mutant.passes)
            )
        if number in NOT_EXPRESSED:
            print(f"    not shown: {NOT_EXPRESSED[number]}")
    print(f"\n{len(MUTANTS)} mutants of {len(shown)} of the {len(PITFALLS)} pitfalls")

    assert len(MUTANTS) >= 100
    assert len(shown) >= 30
    assert len({str(mutant) for mutant in MUTANTS}) == len(MUTANTS)
    assert all(mutant.killers for mutant in MUTANTS)
    assert shown | NOT_EXPRESSED.keys() == PITFALLS.keys() == set(range(1, len(PITFALLS) + 1))
    assert not shown & NOT_EXPRESSED.keys()


# The switch itself


Definition = tuple[types.CodeType, Any, Any]


def definition(function: types.FunctionType) -> Definition:
    return function.__code__, function.__defaults__, dict(function.__kwdefaults__ or {})


@pytest.fixture(scope="module")
def functions() -> list[tuple[types.FunctionType, Definition]]:
    """All functions of the two packages, however deep they hide, with their code and defaults."""
    for mutant in MUTANTS:
        for edit in mutant.edits:
            if isinstance(edit, Edit):
                named(edit.function)  # whose module is imported, if it was not yet
    return [
        (value, definition(value))
        for value in gc.get_objects()
        if type(value) is types.FunctionType and str(value.__module__).partition(".")[0] in ("backends", "tinyddpm")
    ]


def changed(functions: list[tuple[types.FunctionType, Definition]]) -> set[str]:
    """Those whose code, by identity, or defaults are not as they were. Compiled ones have a digest in their name."""
    return {
        f"{function.__module__}:{function.__qualname__.removesuffix(f'_{sources_digest()}')}"
        for function, (code, *defaults) in functions
        if function.__code__ is not code or list(definition(function)[1:]) != defaults
    }


def fail_within(mutant: Mutant, functions: list[tuple[types.FunctionType, Definition]]) -> None:
    with switched_on(mutant.edits):
        assert changed(functions) == {edit.function for edit in mutant.edits if isinstance(edit, Edit)}
        assert (sources() != ORIGINAL) == any(isinstance(edit, SourceEdit) for edit in mutant.edits)
        raise ZeroDivisionError


def test_every_switch_changes_its_functions_alone_and_changes_them_back(functions: Any) -> None:
    assert len(functions) > 100
    for mutant in MUTANTS:
        with pytest.raises(ZeroDivisionError):
            fail_within(mutant, functions)
        assert changed(functions) == set()
        assert sources() == ORIGINAL


def test_tables_made_before_do_not_hide_a_mistake_nor_does_a_mistake_leave_wrong_ones() -> None:
    (mutant,) = (mutant for mutant in MUTANTS if mutant.name == "last alpha_bar not 1")
    used, unused = Schedule.linear(50), Schedule.linear(50)
    first = used.posterior_variance[0], used.alpha_bars_prev[0]
    assert first == (0, 1)
    with switched_on(mutant.edits):
        for schedule in (used, unused):
            assert schedule.alpha_bars_prev[0] < 1
            assert schedule.posterior_variance[0] > 0
    for schedule in (used, unused):
        assert (schedule.posterior_variance[0], schedule.alpha_bars_prev[0]) == first


@pytest.mark.parametrize(("old", "count"), [("1.0 - self.beta_s", 0), ("self", 2)])
def test_a_mutant_whose_place_is_gone_or_no_longer_the_only_one_says_so(old: str, count: int) -> None:
    edit = Edit("tinyddpm.diffusion.schedules:Schedule.alphas", old, "0")
    with (
        pytest.raises(AssertionError, match=rf"Schedule\.alphas holds '{old}' {count} times: adapt the mutant"),
        switched_on((edit,)),
    ):
        pass


def test_so_does_a_mutant_of_a_cuda_source() -> None:
    edit = SourceEdit("noise.cu", "__syncthreads()", "")
    with (
        pytest.raises(AssertionError, match=r"noise\.cu holds '__syncthreads\(\)' 0 times: adapt the mutant"),
        switched_on((edit,)),
    ):
        pass


# Pitfall 4


def test_the_gradient_check_sees_errors_that_cancel_in_a_sum() -> None:
    def check(error: np.ndarray) -> None:
        def backward(xp: Any, dy: np.ndarray, ctx: None) -> tuple[np.ndarray]:
            return (2 * dy + error,)

        check_gradient(lambda xp, x: (2 * x, None), backward, {"x": np.array([0.3, -0.8])})

    check(np.zeros(2))
    for size in (1.0, 1e-8):
        with pytest.raises(AssertionError, match="the gradient of x is wrong"):
            check(size * np.array([1.0, -1.0]))


# Pitfall 28


def test_kernels_are_made_anew_and_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (mutant,) = (mutant for mutant in MUTANTS if mutant.name == "a sign in the transform of the input")
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((4, 16, 16, 16), np.float32), rng.standard_normal((3, 3, 16, 16), np.float32)
    backend = backends.get("numba")

    def convolved() -> np.ndarray:
        return backend.conv2d(x, w, padding=1)[0]

    before = convolved()
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    with switched_on(mutant.edits):
        assert np.abs(convolved() - before).max() > 1
    assert not list(tmp_path.iterdir())
    np.testing.assert_array_equal(convolved(), before)
    # The folder is the one where kernels go that are made without a mistake
    assert TileKernels(CONV).input_tile.address
    assert list(tmp_path.iterdir())


# Pitfalls 31 and 33 to 36


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
@pytest.mark.parametrize(
    "name", ["the right half of a square missed", "a thread that takes one vector, however many there are"]
)
def test_cuda_kernels_are_compiled_with_the_mistake_and_without_it_again(name: str) -> None:
    """In a source and in a header."""
    (mutant,) = (mutant for mutant in MUTANTS if mutant.name == name)
    with cupy_backend() as backend, device_with(1):
        x = backend.asarray(np.ones((1, 64, 64, 3)), "float32")

        def enlarged() -> np.ndarray:
            return backend.upsample_nearest(x)[0].get()

        options = compilation.options()
        np.testing.assert_array_equal(enlarged(), 1)
        with switched_on(mutant.edits):
            assert np.isnan(enlarged()).any()
        np.testing.assert_array_equal(enlarged(), 1)
        assert compilation.options() == options


def test_what_a_function_has_kept_does_not_outlast_its_mistake() -> None:
    geometry = geometries.plain((1, 8, 8, 128), 0, (1, 1, 128, 8), 1, (0, 0, 0, 0))
    (mutant,) = (mutant for mutant in MUTANTS if mutant.name.startswith("slices of an image overwritten"))

    def slots() -> int:
        return tuning.fit_conv(geometry, tuning.TILES[-1], False).slots

    before = slots()
    with switched_on(mutant.edits):
        assert slots() == before - 1
    assert slots() == before
