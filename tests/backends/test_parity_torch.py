"""Every operation and every gradient against PyTorch, on the arguments of the one table of cases."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from backends import OPS
from backends.testing import CASES, SEEDS, Arguments, directions
from backends.testing.registry import REGISTERED_TWINS, Table, outputs
from tests.backends.in_namespaces import DIFFERENTIABLE, arguments

torch = pytest.importorskip("torch", reason="parity needs PyTorch: pip install 'tinyddpm[parity]'")
operations = pytest.importorskip("tests.twins.operations")
# What operations are in PyTorch, or why they are not there
KNOWN = Table(
    operations.TWINS | operations.NO_TWIN | REGISTERED_TWINS,
    "has no twin: add PyTorch's form of it to TWINS in tests/twins/operations.py, or a reason to NO_TWIN there",
)
TWINS = {name: twin for name, twin in KNOWN.items() if callable(twin)}

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
# The float32 tests pass over the smallest shapes, which for some operations are most of the draws
EXAMPLES = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])


def to_torch(x: np.ndarray) -> Any:
    return torch.from_numpy(x.copy())


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(np.ravel(np.asarray(a, np.float64) - np.asarray(b, np.float64))))


def size(x: np.ndarray) -> float:
    return float(np.linalg.norm(np.ravel(np.asarray(x, np.float64))))


def single_precision_can_tell(name: str, case: Arguments) -> bool:
    """Whether 1e-5 is above what rounding alone may do in float32.

    A sum that stands alone may cancel to anything, and two numbers may be as close as they like, which a
    normalisation of these two amplifies: float32 cases have eight outputs and groups of sixteen numbers.
    """
    if name in ("group_norm", "group_norm_silu", "norm_attention"):
        return case["x"].size >= 16 * case["groups"] * case["x"].shape[0]
    if name == "norm_conv2d":
        return case["gamma"].size // case["groups"] * case["x"].size // case["x"].shape[-1] >= 16 * case["x"].shape[0]
    if name.endswith(("_loss", "_entropy")) or name == "global_norm":
        return True
    return outputs(name, OPS[name].forward(np, **case))[0].size >= 8


def well_spread(case: Arguments) -> bool:
    """Whether no group's mean is much larger than its deviation.

    PyTorch takes the variance of channels-last images as the mean of squares less the square of the mean, which then
    cancels: it is off by 1e-9 where ours equals extended precision to 1e-14.
    """
    if "groups" not in case:
        return True
    joined = np.concatenate([case["x"], case["skip"]], axis=-1) if case.get("skip") is not None else case["x"]
    groups = joined.reshape(joined.shape[0], -1, case["groups"], joined.shape[-1] // case["groups"])
    return bool(np.all(groups.var(axis=(1, 3)) >= 1e-2 * groups.mean(axis=(1, 3)) ** 2))


def autograd(name: str, case: Arguments, u: np.ndarray, wrt: list[str]) -> tuple[Any, ...]:
    """PyTorch's gradients of the twin."""
    tensors = arguments(case, torch, to_torch)
    for argument in wrt:
        tensors[argument].requires_grad_()
    return torch.autograd.grad(TWINS[name](**tensors), [tensors[a] for a in wrt], to_torch(u))


def in_precision(case: Arguments, dtype: Any, of: str = "float64") -> Arguments:
    return {
        name: value.astype(dtype) if isinstance(value, np.ndarray) and value.dtype == of else value
        for name, value in case.items()
    }


def test_every_operation_has_a_twin_or_a_reason():
    for name in OPS:
        assert KNOWN[name]
    assert not KNOWN.keys() - OPS.keys(), "a twin of no operation"
    assert not operations.TWINS.keys() & operations.NO_TWIN.keys()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", TWINS)
@EXAMPLES
@given(data=st.data())
def test_forward(name: str, dtype: str, data: st.DataObject):
    case = data.draw(CASES[name])
    assume(well_spread(case))
    assume(dtype == "float64" or name == "sinusoidal_embedding" or single_precision_can_tell(name, case))
    case = in_precision(case, dtype)
    result = outputs(name, OPS[name].forward(np, **arguments(case, np, np.copy)))
    expected = TWINS[name](**arguments(case, torch, to_torch))
    for ours, theirs in zip(result, expected if isinstance(expected, tuple) else (expected,), strict=True):
        assert (ours.shape, str(ours.dtype)) == (tuple(theirs.shape), str(theirs.dtype).removeprefix("torch."))
        assert distance(ours, theirs.numpy()) <= TOLERANCE[str(ours.dtype)] * size(theirs.numpy())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", [name for name in DIFFERENTIABLE if name in TWINS])
@EXAMPLES
@given(data=st.data())
def test_backward(name: str, dtype: str, data: st.DataObject):
    op, case = OPS[name], data.draw(CASES[name])
    assert op.backward is not None
    assume(well_spread(case))
    assume(dtype == "float64" or single_precision_can_tell(name, case))
    case = in_precision(case, dtype)
    y, ctx = op.forward(np, **case)
    u = np.asarray(directions(data.draw(SEEDS)).standard_normal(y.shape), dtype)
    gradients = op.backward(np, u, ctx)

    present = [name for name in op.wrt if case[name] is not None]
    expected, exact = (
        autograd(name, in_precision(case, d, "float32"), u.astype(d), present) for d in (dtype, np.float64)
    )
    # A gradient that vanishes is rounding errors in proportion to the others, hence the floor
    # PyTorch's own float32 loses the bound's gradient, a difference of probabilities
    if name == "vlb_loss":
        expected = exact
    total = math.hypot(*(size(g.numpy()) for g in expected))
    ours = [g for g in gradients if g is not None]
    for argument, gradient, theirs, in_double in zip(present, ours, expected, exact, strict=True):
        assert (gradient.shape, gradient.dtype) == (case[argument].shape, dtype)
        scale = max(size(theirs.numpy()), 0.1 * total)
        # In a normalisation a mean that cancels makes PyTorch's own float32 worse than that; then its float64 decides
        results = (theirs, in_double) if "groups" in case else (theirs,)
        found = min(distance(gradient, result.numpy()) for result in results)
        assert found <= TOLERANCE[dtype] * scale, argument


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_adam_over_many_steps(dtype: str, weight_decay: float):
    rng = np.random.default_rng(0)
    params = rng.standard_normal(50).astype(dtype)
    m, v = np.zeros_like(params), np.zeros_like(params)
    tensor = to_torch(params).requires_grad_()
    chosen = torch.optim.AdamW if weight_decay else torch.optim.Adam
    optimizer = chosen([tensor], lr=1e-2, weight_decay=weight_decay)
    for step in range(1, 21):
        grads = rng.standard_normal(50).astype(dtype)
        params, m, v = OPS["adam"].forward(np, params, grads, m, v, step, lr=1e-2, weight_decay=weight_decay)
        tensor.grad = to_torch(grads)
        optimizer.step()
        theirs = tensor.detach().numpy()
        assert params.dtype == dtype
        assert distance(params, theirs) <= TOLERANCE[dtype] * size(theirs), step
