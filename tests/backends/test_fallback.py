"""Overrides and their guards: what a guard refuses reaches the reference operation just as the caller gave it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import backends
from backends import OPS, NumpyBackend
from backends.fallback import parameters, reference, unless_reference
from backends.numba_backend import NumbaBackend
from backends.numba_kernels.limits import STRIDES_AND_SIDES
from backends.testing import SEEDS, SHAPES, check_refusals

OVERRIDES = [
    pytest.param(kind, name, id=f"{kind.name}-{name}")
    for kind in (NumpyBackend, NumbaBackend)
    for name in (n + end for n in OPS for end in ("", "_backward"))
    if hasattr(kind, name)
]


def test_every_override_is_walked():
    assert len(OVERRIDES) == 69


@pytest.mark.parametrize(("kind", "name"), OVERRIDES)
def test_override_has_a_guard(kind: type, name: str):
    assert callable(getattr(kind, name).fits)


@pytest.mark.parametrize("by_name", [0, 1, 2, 99], ids=["none", "last", "last two", "all"])
@pytest.mark.parametrize(("kind", "name"), OVERRIDES)
def test_refused_arguments_reach_the_reference(monkeypatch: pytest.MonkeyPatch, kind: type, name: str, by_name: int):
    names = [n for n, _ in parameters(reference(name))[1:]]
    values = {n: object() for n in names}
    split = max(0, len(names) - by_name)
    args, kwargs = tuple(values[n] for n in names[:split]), {n: values[n] for n in names[split:]}
    asked, answered = [], []

    def refuse(*rest: Any, **more: Any) -> bool:
        asked.append((rest, more))
        return False

    def noted(*rest: Any, **more: Any) -> str:
        answered.append((rest, more))
        return "the reference's"

    refused = unless_reference(refuse)(getattr(kind, name).__wrapped__)
    monkeypatch.setattr("backends.fallback.reference", lambda wanted: noted if wanted == name else None)
    be = backends.get(kind.name)
    assert refused(be, *args, **kwargs) == "the reference's"
    assert asked == [(args, kwargs)]
    assert answered == [((np, *args), kwargs)]


@pytest.mark.parametrize(("kind", "name"), OVERRIDES)
def test_guard_is_asked_with_the_callers_arguments(kind: type, name: str):
    """It takes every way to call the operation: required arguments alone, and all of them by name."""
    fits = getattr(kind, name).fits
    leading = ("dtype",) if parameters(fits)[0][0] == "dtype" else ()
    assert leading == (("dtype",) if kind is NumpyBackend else ())
    named = [p for p in parameters(fits)[len(leading) :] if p[0] not in ("rest", "more")]
    assert named == parameters(reference(name))[1:][: len(named)]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(kind, name, id=f"{kind.name}-{name}")
        for kind in (NumpyBackend, NumbaBackend)
        for name in backends.get(kind.name).overrides()
    ],
)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_guard_lets_through_only_what_the_kernel_is_written_for(kind: type, name: str, data: st.DataObject):
    check_refusals(name, backends.get(kind.name), data.draw(SHAPES[name]), seed=data.draw(SEEDS))


def test_guard_of_another_operation_is_refused():
    def fits(x: Any, weight: Any, bias: Any) -> bool:
        return True

    def linear(self: Any, x: Any, weight: Any, bias: Any = None) -> Any:
        return None

    with pytest.raises(
        TypeError, match=r"linear: fits takes \(x, weight, bias\), .*operation's \(x, weight, bias=None\)"
    ):
        unless_reference(fits)(linear)


def test_guard_that_drops_the_rest_is_refused():
    def fits(x: Any, weight: Any) -> bool:
        return True

    def linear(self: Any, x: Any, weight: Any, bias: Any = None) -> Any:
        return None

    with pytest.raises(TypeError, match="linear: fits takes"):
        unless_reference(fits)(linear)


def test_method_that_lacks_an_argument_is_refused():
    def linear(self: Any, x: Any, weight: Any) -> Any:
        return None

    with pytest.raises(TypeError, match="linear: the method takes"):
        unless_reference(lambda *rest, **more: True)(linear)


def test_name_of_no_operation_is_refused():
    with pytest.raises(TypeError, match="no_such is the name of no operation"):
        reference("no_such")


def test_limits_name_the_convolutions_that_there_are():
    assert set(backends.get("numba").kernels.KINDS) == STRIDES_AND_SIDES
