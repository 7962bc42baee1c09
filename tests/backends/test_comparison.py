"""The checks of kernels in `backends.testing`, `check_against` and `check_refusals`, notice what they are for."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import backends
from backends import OPS
from backends.testing import SEEDS, Arguments, check_against, check_refusals
from backends.testing.comparison import ALLOWANCE, GRADIENT, VALUE, Condition

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
