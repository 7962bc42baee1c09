"""The reference operations keep to the array-API standard, hence run on any namespace and agree with NumPy."""

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import array_api_strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import backends.ops
from backends import OPS
from backends.testing import CASES, SEEDS, Arguments, directions
from backends.testing.registry import outputs
from tests.backends import foreign
from tests.backends.foreign import ForeignArray, ForeignNamespace
from tests.backends.in_namespaces import DIFFERENTIABLE, arguments

# The latest standard that array_api_strict knows, without what waits for the device
STRICT = array_api_strict.ArrayAPIStrictFlags(
    api_version=max(array_api_strict._flags.supported_versions),
    boolean_indexing=False,
    data_dependent_shapes=False,
)
NAMESPACES: dict[str, tuple[Any, Callable[[np.ndarray], Any], Callable[[Any], np.ndarray]]] = {
    "array_api_strict": (array_api_strict, array_api_strict.asarray, np.asarray),
    "foreign": (ForeignNamespace(), foreign.to_foreign, foreign.to_numpy),
}


def assert_same(ours: np.ndarray, numpys: np.ndarray) -> None:
    assert (ours.shape, ours.dtype) == (numpys.shape, numpys.dtype)
    np.testing.assert_allclose(ours, numpys, rtol=1e-13, atol=1e-13)


def forward_and_backward(name: str, case: Arguments, seed: int, namespace: str) -> None:
    op = OPS[name]
    xp, to_xp, to_numpy = NAMESPACES[namespace]
    result = op.forward(xp, **arguments(case, xp, to_xp))
    reference = op.forward(np, **arguments(case, np, np.copy))
    for ours, numpys in zip(outputs(name, result), outputs(name, reference), strict=True):
        assert_same(to_numpy(ours), np.asarray(numpys))
    if op.backward is None:
        return
    u = np.asarray(directions(seed).standard_normal(np.shape(reference[0])))
    gradients = op.backward(xp, to_xp(u), result[1])
    for ours, numpys in zip(gradients, op.backward(np, u, reference[1]), strict=True):
        assert (ours is None) == (numpys is None)
        if ours is not None:
            assert_same(to_numpy(ours), numpys)


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("name", OPS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_operation_gives_numpys_result(name: str, namespace: str, data: st.DataObject):
    case, seed = data.draw(CASES[name]), data.draw(SEEDS)
    with STRICT:
        forward_and_backward(name, case, seed, namespace)


# `add` is an operator of the arrays themselves, which calls nothing of its namespace
@pytest.mark.parametrize("name", [name for name in DIFFERENTIABLE if name != "add"])
def test_the_foreign_namespace_is_not_lenient(name: str):
    op = OPS[name]

    @settings(max_examples=1, database=None, derandomize=True)
    @given(case=CASES[name])
    def check(case: Arguments) -> None:
        with pytest.raises((TypeError, AttributeError)):
            op.forward(ForeignNamespace(), **case)
        with pytest.raises((TypeError, AttributeError)):
            op.forward(np, **arguments(case, np, foreign.to_foreign))

    check()


@pytest.mark.parametrize(
    "convert",
    [
        np.asarray,
        np.sum,
        np.exp,
        bool,
        float,
        list,
        lambda x: x + np.ones(3),
        lambda x: np.ones(3) * x,
        lambda x: x * np.float64(2),
        lambda x: x[x > 0],
        lambda x: ForeignNamespace().where(x > 0, np.ones(3), x),
        lambda x: ForeignNamespace().zeros(3, device="cpu"),
    ],
)
def test_the_foreign_array_refuses_conversion(convert: Callable[[Any], Any]):
    with pytest.raises(TypeError):
        convert(ForeignArray(np.ones(3)))


def used_of_xp() -> Iterator[tuple[str, str, list[str]]]:
    """(module, name, keyword arguments) of every use of `xp.name` in the sources of the operations."""
    for module in pkgutil.iter_modules(backends.ops.__path__, "backends.ops."):
        tree = ast.parse(inspect.getsource(importlib.import_module(module.name)))
        calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "xp":
                call = calls.get(id(node))
                yield module.name, node.attr, [k.arg for k in call.keywords if k.arg] if call else []


def test_cupy_has_every_function_that_the_operations_use():
    cupy = pytest.importorskip("cupy", reason="needs CuPy, though no GPU: pip install 'tinyddpm[cuda]'")
    uses = list(used_of_xp())
    assert len(uses) > 50
    for module, name, keywords in uses:
        assert hasattr(cupy, name), f"{module} uses xp.{name}, which CuPy {cupy.__version__} lacks"
        try:
            parameters = inspect.signature(getattr(cupy, name)).parameters
        except ValueError:  # a ufunc does not tell
            continue
        missing = set(keywords) - set(parameters)
        assert not missing, f"{module} calls xp.{name} with {missing}, which CuPy {cupy.__version__} does not take"


def test_the_operations_import_no_array_library():
    for module in pkgutil.iter_modules(backends.ops.__path__, "backends.ops."):
        tree = ast.parse(inspect.getsource(importlib.import_module(module.name)))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {n.partition(".")[0] for n in names} & {"numpy", "cupy", "torch"}, module.name
