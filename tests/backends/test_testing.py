"""The checks of `backends.testing` notice what they are for, and say it so that one can act on it."""

import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
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
    Arguments,
    arrays,
    channels_in_groups,
    channels_in_heads,
    check_against,
    check_gradient,
    check_refusals,
    image_shapes,
    register,
    registered,
    surviving_mutants,
)
from backends.testing.comparison import ALLOWANCE, GRADIENT, VALUE, Condition

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


# --- check_against ---


class Spoiled(backends.NumpyBackend):
    """SiLU with one mistake."""

    def __init__(self, forward: Any = None, backward: Any = None) -> None:
        super().__init__()
        reference = backends.get("numpy")
        self.silu = forward or reference.silu
        self.silu_backward = backward or reference.silu_backward


def forward_leaving_out_the_last(x: Any) -> Any:
    y = np.empty_like(x)
    y[:-1] = OPS["silu"].forward(np, x)[0][:-1]
    return y, x


def forward_in_double(x: Any) -> Any:
    return OPS["silu"].forward(np, x.astype(np.float64))[0], x


def forward_in_place(x: Any) -> Any:
    x[...] = OPS["silu"].forward(np, x)[0]
    return x, x


def forward_of_half(x: Any) -> Any:
    return OPS["silu"].forward(np, x)[0] * np.float32(1.001), x


def forward_by_chance(x: Any) -> Any:
    return OPS["silu"].forward(np, x)[0] * np.float32(1 + 1e-6 * next(COUNT)), x


COUNT: Iterator[int] = iter(range(10**6))


def backward_consuming(dy: Any, ctx: Any) -> Any:
    gradients = OPS["silu"].backward(np, dy, ctx)
    dy[...] = 0
    return gradients


def as_if_whole(x: Any) -> Any:
    """What a kernel reads that takes an array's address and not its strides."""
    steps = np.cumprod([x.itemsize, *x.shape[:0:-1]])[::-1]
    return np.lib.stride_tricks.as_strided(x, x.shape, steps)


def forward_without_strides(x: Any) -> Any:
    return OPS["silu"].forward(np, as_if_whole(x))[0], x


def backward_without_strides(dy: Any, ctx: Any) -> Any:
    return OPS["silu"].backward(np, as_if_whole(dy), ctx)


def forward_of_another_ctx(x: Any) -> Any:
    return OPS["silu"].forward(np, x)[0], (x, None)


def backward_of_another_ctx(dy: Any, ctx: Any) -> Any:
    x, nothing = ctx
    assert nothing is None, "of silu's own forward"
    return OPS["silu"].backward(np, dy, x)


OVERRIDES = {
    r"numpy's silu: y of arguments with gaps is NaN at \(1,\) and 2 of 5": (forward_without_strides, None),
    r"numpy's silu: the gradient of x at a cotangent with gaps is NaN at \(1,\)": (None, backward_without_strides),
    r"numpy's silu: backward does not take the reference's ctx \(ValueError.*keeps what the reference keeps": (
        forward_of_another_ctx,
        backward_of_another_ctx,
    ),
    r"silu: backward does not take numpy's silu's ctx \(": (
        forward_of_another_ctx,
        lambda dy, ctx: OPS["silu"].backward(np, dy, ctx[0] if isinstance(ctx, tuple) else ctx),
    ),
    r"numpy's silu: y is NaN at \(4,\) and 1 of 5 places: an element that was never written": (
        forward_leaving_out_the_last,
        None,
    ),
    r"numpy's silu: y has shape \(5,\) and dtype float32, got shape \(5,\), float64": (forward_in_double, None),
    r"numpy's silu: forward overwrote x": (forward_in_place, None),
    r"numpy's silu: y is wrong: relative error 1.0e-03 \(allowed 2e-05; rounding .*\), .* at \(\d,\)": (
        forward_of_half,
        None,
    ),
    r"numpy's silu: a second run gives other bits": (forward_by_chance, None),
    r"numpy's silu: backward overwrote dy": (None, backward_consuming),
    r"numpy's silu: the gradient of x is wrong: relative error 1.0e-03": (
        None,
        lambda dy, ctx: (OPS["silu"].backward(np, dy, ctx)[0] * np.float32(1.001),),
    ),
}


@pytest.mark.parametrize("message", OVERRIDES)
def test_a_wrong_override_is_told_by_what_and_where(message: str):
    case = {"x": np.random.default_rng(0).standard_normal(5)}
    check_against("silu", Spoiled(), case)
    with pytest.raises(AssertionError, match=f"^{message}"):
        check_against("silu", Spoiled(*OVERRIDES[message]), case)


def test_numba_that_a_check_loads_knows_numpy_afterwards():
    """In a process of its own, where nothing has loaded it before."""
    code = """
import sys
import numpy as np
import backends
from backends.testing import check_against
check_against("silu", backends.get("numba"), {"x": np.ones(3)})
from numba import njit
assert njit(lambda n: np.empty(n, np.float32).size)(3) == 3
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- check_refusals ---


class Guarded(backends.NumbaBackend):
    """Adds as its guard lets it: "anything", or what fits but for the shape or the dtype."""

    def __init__(self, forgets: str = "") -> None:
        super().__init__()
        self.forgets = forgets

    def add(self, a: Any, b: Any) -> Any:
        fits = self.forgets == "shape" or a.shape == b.shape
        if fits and (self.forgets == "dtype" or a.dtype == b.dtype == np.float32):
            return np.asarray(a.ravel()[: b.size] + b.ravel()[: a.size], np.float32).reshape(b.shape), None
        return OPS["add"].forward(np, a, b)


@pytest.mark.parametrize(
    ("forgets", "message"),
    [
        ("shape", r"numba's add, a with axis 0 longer by one: the reference refuses it .*its guard must say no"),
        ("dtype", r"numba's add, a in float64: the reference gives shape \(2, 3\), float64, the override .* float32"),
    ],
)
def test_a_guard_that_forgets_something_is_told(forgets: str, message: str):
    case = {"a": np.ones((2, 3)), "b": np.ones((2, 3))}
    check_refusals("add", Guarded(), case)
    with pytest.raises(AssertionError, match=message):
        check_refusals("add", Guarded(forgets), case)


# --- what float32 can tell ---


def pixel_of_close_numbers(difference: float) -> Arguments:
    rng = np.random.default_rng(5)
    x = np.array([[[0.7, 0.7 + difference, -1.2, -1.2 + difference]]])
    weight, bias = 0.3 * rng.standard_normal((4, 12)), 0.3 * rng.standard_normal(12)
    return {"x": x, "gamma": np.ones(4), "beta": np.zeros(4), "weight": weight, "bias": bias, "groups": 2, "eps": 1e-5}


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("seed", range(20))
def test_a_gradient_that_vanishes_is_judged_by_its_summands(backend: str, seed: int):
    """Attention to a single key does not depend on queries and keys; a value's gradient is a sum that may cancel."""
    rng = np.random.default_rng(seed)
    case = {"q": rng.standard_normal((1, 39, 1)), "k": rng.standard_normal((1, 1, 1))}
    check_against("attention", backends.get(backend), case | {"v": rng.standard_normal((1, 1, 1))}, seed=seed)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("difference", [1e-1, 1e-2, 1e-3, 1e-4])
def test_a_normalisation_of_two_close_numbers_is_judged_by_its_condition(backend: str, difference: float):
    for seed in range(20):
        case = pixel_of_close_numbers(difference)
        check_against("norm_attention", backends.get(backend), case, seed=seed)


@pytest.mark.parametrize("name", ["attention", "group_norm", "linear", "conv2d", "silu"])
@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_the_condition_loosens_nothing_where_a_problem_is_well_conditioned(name: str, seed: int):
    """Rounding may explain less than the tolerances, so that these decide."""
    rng = np.random.default_rng(seed)
    case: dict[str, Arguments] = {
        "attention": {n: rng.standard_normal((2, 20, 8)) for n in "qkv"},
        "group_norm": {"x": rng.standard_normal((2, 9, 8)), "gamma": np.ones(8), "beta": np.zeros(8), "groups": 2},
        "linear": {"x": rng.standard_normal((20, 16)), "weight": rng.standard_normal((16, 8))},
        "conv2d": {"x": rng.standard_normal((2, 6, 6, 8)), "weight": rng.standard_normal((3, 3, 8, 8))},
        "silu": {"x": rng.standard_normal(50)},
    }
    op = OPS[name]
    y, ctx = op.forward(np, **case[name])
    moved = Condition(lambda given: op.forward(np, **given)[0], case[name], y).measured()
    assert ALLOWANCE * moved <= VALUE * np.linalg.norm(y)
    u = rng.standard_normal(y.shape)
    for i, gradient in enumerate(op.backward(np, u, ctx)):
        if gradient is not None:
            moved = Condition(lambda given, i=i: op.backward(np, *given)[i], (u, ctx), gradient).measured()
            assert ALLOWANCE * moved <= GRADIENT * np.linalg.norm(gradient)


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
