"""The checks of `backends.testing` notice what they are for, and say it so that one can act on it."""

import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import backends
from backends import OPS, Op
from backends.ops.normalization import group_norm, group_norm_backward
from backends.testing import (
    CASES,
    SEEDS,
    arrays,
    channels_in_groups,
    channels_in_heads,
    check_against,
    check_gradient,
    image_shapes,
    register,
    registered,
    surviving_mutants,
)

RNG = np.random.default_rng(0)
CASE = {"x": RNG.standard_normal((2, 3, 4)), "gamma": RNG.standard_normal(4), "beta": RNG.standard_normal(4)}
CASE |= {"groups": 2}


# --- check_gradient ---


def spoiled(number: int, spoil: Callable[[Any], Any]) -> Callable[..., Any]:
    """`group_norm_backward` with one of its gradients changed."""

    def backward(xp: Any, dy: Any, ctx: Any) -> Any:
        gradients = list(group_norm_backward(xp, dy, ctx))
        gradients[number] = spoil(gradients[number])
        return tuple(gradients)

    return backward


def plus_one_at(place: tuple[int, ...]) -> Callable[[Any], Any]:
    def changed(gradient: Any) -> Any:
        gradient[place] += 1.0
        return gradient

    return changed


def swapped(xp: Any, dy: Any, ctx: Any) -> Any:
    dx, dgamma, dbeta = group_norm_backward(xp, dy, ctx)
    return dx, dbeta, dgamma


def overwriting(xp: Any, dy: Any, ctx: Any) -> Any:
    gradients = group_norm_backward(xp, dy, ctx)
    ctx.rstd[0, 1] = 0
    return gradients


def overwriting_dy(xp: Any, dy: Any, ctx: Any) -> Any:
    gradients = group_norm_backward(xp, dy, ctx)
    dy *= 2
    return gradients


WRONG = {
    r"the gradient of x is wrong: .* largest difference 1 at \(1, 2, 3\)": spoiled(0, plus_one_at((1, 2, 3))),
    r"the gradient of gamma is wrong.*Every element is 0.5 times the right one": spoiled(1, lambda g: g / 2),
    r"the gradient of beta is wrong.*Every element is -1 times": spoiled(2, lambda g: -g),
    r"the gradient of x is wrong.*It is zero everywhere": spoiled(0, np.zeros_like),
    r"the gradient of gamma is wrong.*It is what stands for beta: .*order of wrt": swapped,
    r"the gradient of gamma is not finite: nan at": spoiled(1, lambda g: g * np.nan),
    r"the gradient of x has x's shape \(2, 3, 4\) and dtype float64, got shape \(4, 3, 2\)": spoiled(0, np.transpose),
    r"the gradient of gamma has .* float64, got shape \(4,\), float32": spoiled(1, np.float32),
    r"the gradient of beta has .*, got None": spoiled(2, lambda g: None),
    r"backward returned 2 gradients, wrt names 3: x, gamma, beta": lambda xp, dy, ctx: group_norm_backward(xp, dy, ctx)[
        :2
    ],
    r"backward returns a tuple, .*, got shape \(2, 3, 4\)": lambda xp, dy, ctx: group_norm_backward(xp, dy, ctx)[0],
    r"backward overwrote ctx.rstd: at \(0, 1\) it was .* and is 0": overwriting,
    r"backward overwrote dy: at \(0, 0, 0\)": overwriting_dy,
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_backward_is_told_by_argument_place_and_kind(message: str):
    with pytest.raises(AssertionError, match=f"^group_norm: {message}"):
        check_gradient(group_norm, WRONG[message], CASE)


def test_an_absent_argument_has_no_gradient():
    op, case = OPS["linear"], {"x": np.ones((2, 3)), "weight": np.ones((3, 4)), "bias": None}
    check_gradient(op.forward, op.backward, case, wrt=op.wrt)
    with pytest.raises(AssertionError, match="bias is None, and so is its gradient; got shape"):
        check_gradient(op.forward, lambda xp, dy, ctx: (*op.backward(xp, dy, ctx)[:2], np.ones(4)), case, wrt=op.wrt)
    with pytest.raises(AssertionError, match="wrt names 'shift', which the case lacks; it has x, weight, bias"):
        check_gradient(op.forward, op.backward, case, wrt=("shift",))


def absolute(xp: Any, x: Any) -> Any:
    return xp.abs(x) ** 2, x


def casting(xp: Any, x: Any) -> Any:
    y = np.empty(x.shape)
    y[...] = x * x
    return y, x


def comparing(xp: Any, x: Any) -> Any:
    return xp.where(xp.imag(x) == 0, x, 2 * x), x


def without_ctx(xp: Any, x: Any) -> Any:
    return x * x


def in_place(xp: Any, x: Any) -> Any:
    x *= x
    return x, x


FORWARDS = {
    r"absolute: forward is not analytic in x: backward gives .* as a difference quotient does": absolute,
    r"comparing: forward is not analytic in x: .* square by d \* d": comparing,
    r"casting: forward casts x to real numbers": casting,
    r"without_ctx: forward returns \(y, ctx\)": without_ctx,
    r"in_place: forward overwrote x: at \(0,\) it was": in_place,
}


@pytest.mark.parametrize("message", FORWARDS)
def test_a_forward_that_hides_from_the_complex_step_says_so(message: str):
    with pytest.raises(AssertionError, match=f"^{message}"):
        check_gradient(FORWARDS[message], lambda xp, dy, x: (2 * x * dy,), {"x": np.array([0.3, -2.0])})


@pytest.mark.parametrize("name", ["group_norm", "silu"])
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_methods_of_a_backend_are_checked_alike(name: str, seed: int):
    be, case = backends.get("numpy"), CASE if name == "group_norm" else {"x": CASE["x"]}
    check_gradient(getattr(be, name), getattr(be, f"{name}_backward"), case, seed=seed)


def test_of_a_large_gradient_some_elements_are_looked_at():
    x = np.random.default_rng(0).standard_normal(10_000)
    with pytest.raises(AssertionError, match=r"the gradient of x is wrong: relative error 5.0e-01"):
        check_gradient(lambda xp, x: (x * x, x), lambda xp, dy, x: (dy * x,), {"x": x})


# --- mutants ---


def cubed(x: float) -> float:
    return x * x * x + 0.0 * x


def test_survivors_are_named_by_line_and_text():
    def check() -> None:
        assert cubed(2.0) == 8.0

    line = cubed.__code__.co_firstlineno + 1
    survivors = surviving_mutants(cubed, check)
    assert f"test_testing.py:{line}: x * x * x + 0.0 * x -> x * x * x" in [repr(mutant) for mutant in survivors]
    assert "x * x * x + 0.0 * x -> 0.0 * x" not in [mutant.text for mutant in survivors]
    assert cubed(3.0) == 27.0


def test_a_check_that_cannot_notice_is_refused():
    with pytest.raises(ValueError, match=r"^the check never calls cubed: nothing that is changed"):
        surviving_mutants(cubed, lambda: None)
    with pytest.raises(ValueError, match=r"^the check fails before anything is changed"):
        surviving_mutants(cubed, lambda: cubed("x"))
    with pytest.raises(ValueError, match="is not a Python function; mutate the function that it was compiled"):
        surviving_mutants(np.sum if not hasattr(np.sum, "__code__") else len, lambda: None)
    with pytest.raises(ValueError, match="holds variables of the function around it"):
        surviving_mutants(spoiled(0, np.negative), lambda: None)


# --- registration ---


def doubled(xp: Any, x: Any) -> Any:
    return 2.0 * x, None


def doubled_backward(xp: Any, dy: Any, ctx: Any) -> Any:
    return (2.0 * dy,)


def keeping(xp: Any, x: Any) -> Any:
    return x * x, x


def keeping_backward(xp: Any, dy: Any, x: Any) -> Any:
    return (2.0 * x * dy,)


DOUBLED = Op("doubled", doubled, doubled_backward, ("x",))
KNOWN: dict[str, Any] = {"cases": CASES["silu"], "twin": "no need", "benchmarks": "no need"}
LACKING: dict[str, tuple[Op, dict[str, Any]]] = {
    "doubled has no cases: give cases=": (DOUBLED, {"cases": None}),
    r"cases= of doubled is a Hypothesis strategy .*, got a dict": (DOUBLED, {"cases": {}}),
    "doubled has no twin: give twin=": (DOUBLED, {"twin": None}),
    "doubled has no benchmark shapes: give benchmarks=": (DOUBLED, {"benchmarks": None}),
    "there is an operation silu already": (OPS["silu"], {}),
    "double is the name of the Op, doubled that of its forward": (Op("double", doubled), {}),
    "the backward of doubled is called keeping_backward": (Op("doubled", doubled, keeping_backward, ("x",)), {}),
    "doubled has no argument 'y', which its wrt names; it has xp, x": (
        Op("doubled", doubled, doubled_backward, ("y",)),
        {},
    ),
    "doubled has a backward and no wrt": (Op("doubled", doubled, doubled_backward), {}),
    "doubled has wrt and no backward": (Op("doubled", doubled, wrt=("x",)), {}),
    r"keeping keeps x in ctx, which its keeps=\(\) does not declare: add it": (
        Op("keeping", keeping, keeping_backward, ("x",)),
        {},
    ),
    "doubled declares in keeps that ctx holds x, but ctx does not": (
        Op("doubled", doubled, doubled_backward, ("x",), keeps=("x",)),
        {},
    ),
    "doubled does not take its cases: .*unexpected keyword argument 'gamma'": (
        DOUBLED,
        {"cases": CASES["group_norm"]},
    ),
}


@pytest.mark.parametrize("message", LACKING)
def test_what_an_operation_lacks_is_told_in_a_sentence(message: str):
    op, other = LACKING[message]
    before = list(OPS)
    with pytest.raises(ValueError, match=message) as caught:
        register(op, **KNOWN | other)
    assert "KeyError" not in str(caught.value)
    assert list(OPS) == before


def test_a_registered_operation_is_everywhere_and_gone_afterwards():
    be = backends.get("numpy")
    with registered(DOUBLED, **KNOWN):
        assert be.doubled(np.ones(2))[0].tolist() == [2.0, 2.0]
        check_against("doubled", be, {"x": np.ones(3)})
        with pytest.raises(ValueError, match="there is an operation doubled already"):
            register(DOUBLED, **KNOWN)
    assert "doubled" not in OPS
    with pytest.raises(AttributeError, match="no attribute or operation 'doubled'"):
        be.doubled(np.ones(2))


def test_an_operation_goes_where_a_weak_proxy_has_lost_its_object():
    gone = weakref.proxy(Op("gone", group_norm, None))
    with registered(DOUBLED, **KNOWN), pytest.raises(ReferenceError):
        bool(gone)
    assert "doubled" not in OPS


def test_an_operation_without_cases_is_no_key_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(OPS, "doubled", DOUBLED)
    with pytest.raises(
        LookupError, match=r"^doubled has no cases: add a Hypothesis strategy of its arguments"
    ) as caught:
        CASES["doubled"]
    assert not isinstance(caught.value, KeyError)


# --- strategies ---


@settings(max_examples=30, deadline=None)
@given(shape=image_shapes(multiple=2), x=arrays(offset=3.0), grouped=channels_in_groups(), heads=channels_in_heads())
def test_strategies_keep_what_they_promise(
    shape: tuple[int, ...], x: np.ndarray, grouped: tuple[int, int], heads: tuple[int, int]
):
    assert len(shape) == 4
    assert shape[1] % 2 == shape[2] % 2 == 0
    assert isinstance(x, np.ndarray)
    assert x.dtype == np.float64
    assert grouped[0] % grouped[1] == heads[0] % heads[1] == 0


@pytest.mark.parametrize("package", ["backends", "tinyddpm"])
def test_without_hypothesis_the_extra_is_named(package: str):
    code = f"import sys; sys.modules['hypothesis'] = None; import {package}; import {package}.testing"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(backends.__file__).parents[1]
    )
    assert run.stderr.splitlines()[-1] == (
        f"ImportError: {package}.testing needs Hypothesis; run: pip install 'tinyddpm[test]'"
    )
