"""Every backward against the complex step: <f'(x) v, u> = <v, backward(u)> for random x, v and u.

`Im f(x + ih v) / h` has no subtraction, hence no truncation error at h = 1e-30 and rounding error only
(Martins, Sturdza & Alonso 2003, "The complex-step derivative approximation").
"""

import functools
import importlib
import inspect
from types import ModuleType

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from backends import OPS
from backends.ops.activation import silu_backward
from backends.ops.attention import attention_backward
from backends.ops.convolution import col2im, conv2d_backward
from backends.ops.linear import linear_backward
from backends.ops.losses import huber_loss_backward, softmax_cross_entropy_backward
from backends.ops.normalization import group_norm_backward
from backends.testing import CASES, SEEDS, Arguments, check_gradient, directions, surviving_mutants
from backends.testing.mutation import quickly
from tests.backends.in_namespaces import DIFFERENTIABLE


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_backward_is_the_adjoint_of_the_derivative(name: str, data: st.DataObject):
    op = OPS[name]
    assert op.backward is not None
    case, seed = data.draw(CASES[name]), data.draw(SEEDS)
    check_gradient(op.forward, op.backward, case, wrt=op.wrt, seed=seed)


@pytest.mark.parametrize("name", ["linear", "conv2d"])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_an_absent_bias_changes_no_other_gradient(name: str, data: st.DataObject):
    op, case = OPS[name], data.draw(CASES[name])
    assert op.backward is not None
    outputs = case["weight"].shape[-1]
    y, ctx = op.forward(np, **{**case, "bias": np.zeros(outputs)})
    u = directions(data.draw(SEEDS)).standard_normal(y.shape)
    with_bias = op.backward(np, u, ctx)
    without = op.backward(np, u, op.forward(np, **{**case, "bias": None})[1])
    assert without[2] is None
    np.testing.assert_array_equal(without[0], with_bias[0])
    np.testing.assert_array_equal(without[1], with_bias[1])


# Mistakes seen in other projects: the op, what its source says, and what the mistake says in that place
MUTANTS = {
    "group_norm forgets the mean": ("group_norm", "- group_mean(xp, dnormal)", ""),
    "group_norm forgets the variance": ("group_norm", "- normal * group_mean(xp, dnormal * normal)", ""),
    "group_norm forgets gamma": ("group_norm", "xp.reshape(dy * gamma, shape)", "xp.reshape(dy, shape)"),
    "attention forgets the row sum": (
        "attention",
        "- xp.sum(dweights * weights, axis=-1, keepdims=True)",
        "",
    ),
    "attention forgets the scale": ("attention", "keepdims=True)) * scale", "keepdims=True))"),
    "concat_channels cuts at the wrong channel": ("concat_channels", "a.shape[-1]\n", "b.shape[-1]\n"),
    "conv2d cuts the padding off at the wrong side": (
        "conv2d",
        "return padded[:, top : top + h, left : left + w, :]",
        "return padded[:, bottom : bottom + h, right : right + w, :]",
    ),
    "conv2d overwrites where patches overlap": ("conv2d", "j, :] += patches", "j, :] = patches"),
    "silu forgets the product rule": ("silu", "(1.0 + x * (1.0 - s))", "1.0"),
    "dropout forgets the mask": ("dropout", "(dy * mask,)", "(dy,)"),
    "huber_loss forgets the limit": ("huber_loss", "weighted(xp, limited, weights)", "weighted(xp, r, weights)"),
    "mse_loss forgets the two": ("mse_loss", "2.0 / elements(slope)", "1.0 / elements(slope)"),
    "vlb_loss lets the mean learn from the bound": ("vlb_loss", "real_part(xp, r) if hybrid else r", "r"),
    "vlb_loss forgets the far end of a cell": ("vlb_loss", "(cell.at_near - cell.at_far)", "cell.at_near"),
    "softmax_cross_entropy forgets the label": (
        "softmax_cross_entropy",
        "exponentials / total - xp.astype(asked, logits.dtype)",
        "exponentials / total",
    ),
    "embedding averages repeated uses": (
        "embedding",
        "one_hot @ dy",
        "one_hot @ dy / xp.maximum(xp.sum(one_hot, axis=1, keepdims=True), 1.0)",
    ),
}


def mutated(name: str, old: str, new: str) -> ModuleType:
    """The module that defines op `name`, with one piece of its source exchanged."""
    original = importlib.import_module(OPS[name].forward.__module__)
    source = inspect.getsource(original)
    assert source.count(old) == 1, f"the source of {name} no longer holds {old!r}: adapt the mutant"
    module = ModuleType(original.__name__)
    exec(compile(source.replace(old, new), str(original.__file__), "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_check_notices(mutant: str):
    name, old, new = MUTANTS[mutant]
    module = mutated(name, old, new)
    forward, backward = getattr(module, name), getattr(module, f"{name}_backward")

    # Any counterexample will do, the smallest is not needed
    @settings(
        max_examples=100,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    @given(case=CASES[name], seed=SEEDS)
    def check(case: Arguments, seed: int) -> None:
        check_gradient(forward, backward, case, wrt=OPS[name].wrt, seed=seed)

    with pytest.raises(AssertionError, match=rf"{name}: the gradient of \w+ (is wrong|has)"):
        check()


# --- every small mistake, made by the source's tree ---

BACKWARDS = {
    "group_norm": (group_norm_backward, {}),
    "attention": (attention_backward, {}),
    "conv2d": (conv2d_backward, {}),
    "linear": (linear_backward, {}),
    "silu": (silu_backward, {}),
    "huber_loss": (huber_loss_backward, {}),
    "softmax_cross_entropy": (softmax_cross_entropy_backward, {}),
}


@pytest.mark.parametrize("name", BACKWARDS)
def test_no_small_mistake_in_a_backward_passes(name: str):
    backward, equivalent = BACKWARDS[name]
    check = functools.partial(quickly, test_backward_is_the_adjoint_of_the_derivative, name=name)
    survivors = surviving_mutants(backward, check)
    assert {mutant.text for mutant in survivors} == set(equivalent)


EQUIVALENT_IN_COL2IM: dict[str, str] = {}


def test_no_small_mistake_in_a_helper_passes():
    check = functools.partial(quickly, test_backward_is_the_adjoint_of_the_derivative, name="conv2d")
    survivors = surviving_mutants(col2im, check)
    assert {mutant.text for mutant in survivors} == set(EQUIVALENT_IN_COL2IM)
