"""The backend that names the first operation whose numbers are not finite, and wrapped backends."""

import inspect

import numpy as np
import pytest

import backends
from backends import (
    Backend,
    FiniteCheckBackend,
    NonFiniteError,
    NumpyBackend,
    WrappedBackend,
)
from backends.backend import Recorder
from tests.backends.test_backends import Doubling

# --- finding what broke ---


@pytest.fixture
def checked() -> FiniteCheckBackend:
    return FiniteCheckBackend(NumpyBackend())


def test_finite_results_pass_through_unchanged(checked: FiniteCheckBackend):
    be, x = backends.get("numpy"), np.linspace(-1, 1, 12).reshape(3, 4)
    y, ctx = checked.silu(x)
    np.testing.assert_array_equal(y, be.silu(x)[0])
    np.testing.assert_array_equal(checked.silu_backward(y, ctx)[0], be.silu_backward(y, be.silu(x)[1])[0])
    indices = np.array([0, 2])
    np.testing.assert_array_equal(checked.embedding(x, indices)[0], x[indices])
    dx, dweight, dbias = checked.linear_backward(np.ones((3, 2)), checked.linear(x, np.ones((4, 2)))[1])
    assert (dx.shape, dweight.shape, dbias) == ((3, 4), (4, 2), None)
    assert len(checked.adam(x, x, x, x * x, 1, 0.1)) == 3


def test_the_first_operation_that_breaks_is_named(checked: FiniteCheckBackend):
    x = np.array([[1e200, 1.0]])
    checked.silu(x)
    with np.errstate(all="ignore"), pytest.raises(NonFiniteError, match=r"operation mse_loss \(number 2\)") as caught:
        checked.mse_loss(x, 0 * x)
    assert "from finite arguments" in str(caught.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_arguments_that_were_broken_before_are_told_apart(checked: FiniteCheckBackend, bad: float):
    x, weight = np.ones((2, 3)), np.ones((3, 4))
    weight[1, 2] = bad
    with pytest.raises(NonFiniteError, match=r"linear \(number 1\).+arguments that were already not finite"):
        checked.linear(x, weight)
    with pytest.raises(NonFiniteError, match=r"linear \(number 2\).+already not finite"):
        checked.linear(x, weight=weight)


def test_a_backward_that_breaks_is_named(checked: FiniteCheckBackend):
    _, ctx = checked.linear(np.full((1, 2), 1e200), np.full((2, 3), 1e-200))
    with np.errstate(all="ignore"), pytest.raises(NonFiniteError, match=r"linear_backward .+ from finite arguments"):
        checked.linear_backward(np.full((1, 3), 1e200), ctx)
    with pytest.raises(NonFiniteError, match=r"linear_backward .+ already not finite"):
        checked.linear_backward(np.full((1, 3), np.nan), ctx)


def test_a_broken_array_inside_the_ctx_counts_as_an_argument(checked: FiniteCheckBackend):
    _, ctx = backends.get("numpy").linear(np.full((1, 2), np.nan), np.ones((2, 3)))
    with pytest.raises(NonFiniteError, match="already not finite"):
        checked.linear_backward(np.ones((1, 3)), ctx)


def test_the_check_runs_the_overrides_of_the_backend_within():
    inner = Doubling()
    checked = FiniteCheckBackend(inner)
    np.testing.assert_array_equal(checked.silu(np.ones(2))[0], [2, 2])
    assert checked.xp is inner.xp
    assert checked.memory() is None
    assert checked.asarray([1], "float32").dtype == np.float32
    assert type(checked.to_numpy(np.ones(1))) is np.ndarray
    checked.synchronize()


def test_a_wrapped_backend_hands_on_everything_but_its_recorder():
    methods = {name for name, method in vars(Backend).items() if inspect.isfunction(method) and name[0] != "_"}
    assert methods == {"recorder"} | {name for name in vars(WrappedBackend) if name in methods}
    inner = NumpyBackend()
    wrapped = WrappedBackend(inner)
    assert wrapped.overrides() == inner.overrides() != ()
    assert type(wrapped.recorder(np.ones(1), np.ones(1))) is Recorder
    target = np.zeros(2)
    wrapped.store(np.ones(2), target)
    assert list(target) == [1, 1]
    with wrapped.plain_arrays():
        np.testing.assert_array_equal(wrapped.silu(np.ones(2))[0], inner.silu(np.ones(2))[0])
    with pytest.raises(AttributeError, match="WrappedBackend has no attribute or operation 'nothing'"):
        wrapped.nothing  # noqa: B018
