"""Choosing a backend, overriding operations, and finding the operation that broke."""

import ast
import copy
import importlib
import importlib.util
import inspect
import os
import pickle
import pkgutil
import pydoc
import re
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import array_api_strict
import numpy as np
import pytest

import backends
from backends import (
    OPS,
    Backend,
    BackendUnavailable,
    FiniteCheckBackend,
    NumpyBackend,
)
from backends.backend import operation
from tests.backends.foreign import ForeignArray

ROOT = Path(backends.__file__).parents[1]


def fake_cupy(devices: Any, capability: str = "90") -> Any:
    """A stand-in for the cupy module whose driver reports that many devices, or raises what is given."""

    def count() -> int:
        if isinstance(devices, Exception):
            raise devices
        return devices

    namespace = SimpleNamespace(**{name: getattr(np, name) for name in np.__all__})
    namespace.cuda = SimpleNamespace(
        runtime=SimpleNamespace(getDeviceCount=count),
        Device=lambda: SimpleNamespace(
            synchronize=lambda: namespace.events.append("synchronize"), compute_capability=capability
        ),
    )
    namespace.events = []
    namespace.asnumpy = lambda x: np.array(x)
    namespace.get_default_memory_pool = lambda: SimpleNamespace(used_bytes=lambda: 1024)
    return namespace


@pytest.fixture
def fresh_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory of its own for `get`: clearing the real one would part other tests from the backends they hold."""
    monkeypatch.setattr(backends, "_warn_once", cache(backends._warn_once.__wrapped__))
    monkeypatch.setattr(backends, "_instance", cache(backends._instance.__wrapped__))


@pytest.fixture
def cupy_answering(monkeypatch: pytest.MonkeyPatch, fresh_choice: None) -> Any:
    cupy = fake_cupy(devices=1)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return cupy


# --- choosing ---


def test_get_by_name():
    assert backends.get("numpy").name == "numpy"
    assert backends.get("numpy").xp is np
    assert backends.get("numba").name == "numba"
    assert backends.get("numpy") is backends.get("numpy")


@pytest.mark.parametrize("name", ["", "NumPy", "torch", "cuda"])
def test_unknown_names_are_answered_with_the_known_ones(name: str):
    with pytest.raises(ValueError, match=f"unknown backend '{name}'; choose one of numpy, numba, cupy, auto"):
        backends.get(name)


def test_auto_takes_cupy_where_a_device_answers(cupy_answering: Any):
    assert backends.available() == {"numpy": None, "numba": None, "cupy": None}
    assert backends.get().name == backends.get("auto").name == "cupy"
    assert backends.get("cupy").xp is cupy_answering


@pytest.mark.parametrize(
    ("cupy", "reason"),
    [
        (None, r"cupy does not import \(.+\); run: pip install 'tinyddpm\[cuda\]'"),
        (fake_cupy(RuntimeError("driver too old")), r"no CUDA device answers \(driver too old\); a GPU"),
        (fake_cupy(0), "reports no device; a GPU is needed"),
        (fake_cupy(1, "75"), r"compute capability 7\.5; the kernels need 8\.0"),
    ],
    ids=["missing", "driver", "no device", "too old"],
)
def test_without_a_device_auto_takes_numba_and_cupy_tells_why(
    cupy: Any, reason: str, monkeypatch: pytest.MonkeyPatch, fresh_choice: None
):
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(3):
            assert backends.get("auto").name == "numba"
    # Nobody who has not installed it wants to hear of it
    assert len(told) == (cupy is not None)
    assert all(re.search(f"^going on with the numba backend, as .*{reason}", str(w.message)) for w in told)
    with pytest.raises(BackendUnavailable, match=reason) as caught:
        backends.get("cupy")
    assert backends.available() == {"numpy": None, "numba": None, "cupy": str(caught.value)}
    assert "\n" not in str(caught.value)


def test_without_numba_auto_takes_numpy(monkeypatch: pytest.MonkeyPatch, fresh_choice: None):
    monkeypatch.setitem(sys.modules, "cupy", None)
    find_spec = importlib.util.find_spec

    def without_numba(name: str, package: str | None = None) -> Any:
        return None if name == "numba" else find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_numba)
    with pytest.warns(UserWarning, match=r"^going on with the numpy backend, as numba is not installed"):
        assert backends.get("auto").name == "numpy"
    with pytest.raises(BackendUnavailable, match="numba is not installed; run: pip install numba"):
        backends.get("numba")


TRY = """
import numpy as np
import backends
be = backends.get("auto")
assert backends.get("auto") is be
y, _ = be.conv2d(np.ones((1, 8, 8, 1), np.float32), np.ones((3, 3, 1, 1), np.float32), padding=1)
print(be.name, round(float(y.sum())))
try:
    backends.get("numba")
except backends.BackendUnavailable as error:
    print(error)
"""


def tried_with(**variables: str) -> tuple[list[str], list[str]]:
    """Lines of stdout and stderr of `TRY`, in a fresh interpreter that has these environment variables."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    done = subprocess.run(
        [sys.executable, "-c", TRY], cwd=ROOT, capture_output=True, text=True, env=environment | variables
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr.splitlines()


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("NUMBA_DISABLE_JIT", "1", "numba does not compile while NUMBA_DISABLE_JIT is set; unset it"),
        ("NUMBA_NUM_THREADS", "0", "numba does not load (Number of threads specified must be > 0.); "),
    ],
)
def test_where_numba_is_told_not_to_work_auto_says_so_once_and_takes_numpy(variable: str, value: str, reason: str):
    (chosen, told), warned = tried_with(**{variable: value})
    assert chosen == "numpy 484"
    assert told.startswith(reason)
    assert variable in told
    assert [line.partition("UserWarning: ")[2] for line in warned if "UserWarning" in line] == [
        f"going on with the numpy backend, as {told}"
    ]
    assert "Traceback" not in "".join(warned)


@pytest.mark.parametrize("layer", ["nonsense", "tbb"])
def test_numbas_threading_layer_does_not_matter(layer: str):
    """The kernels have threads of their own."""
    assert tried_with(NUMBA_THREADING_LAYER=layer) == (["numba 484"], [])


def test_of_a_variable_that_numba_ignores_one_line_tells():
    (chosen,), warned = tried_with(NUMBA_OPT="nonsense")
    assert chosen == "numba 484"
    (line,) = [line for line in warned if "NUMBA_OPT" in line]
    assert "RuntimeWarning: Environment variable 'NUMBA_OPT'" in line
    assert "Traceback" not in "".join(warned)


def test_a_numba_that_does_not_load_is_unavailable(monkeypatch: pytest.MonkeyPatch, fresh_choice: None):
    def load(name: str) -> Any:
        raise ImportError("Numba needs NumPy 2.2\nor less")

    monkeypatch.setattr(importlib, "import_module", load)
    monkeypatch.setattr(os, "environ", {})
    reason = "numba does not load (Numba needs NumPy 2.2 or less); install other versions of numba or numpy"
    assert backends.available()["numba"] == reason
    with pytest.warns(UserWarning, match=re.escape(f"going on with the numpy backend, as {reason}")):
        assert backends.get("auto").name == "numpy"


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_a_backend_can_be_copied_and_pickled(name: str):
    be = type(backends.get(name))()
    x = np.ones((1, 4, 4, 1), np.float32)
    before = be.silu(x)[0], be.average_pool(x)[0]
    for again in (copy.deepcopy(be), pickle.loads(pickle.dumps(be))):
        assert (type(again), again.xp) == (type(be), np)
        for seen, wanted in zip((again.silu(x)[0], again.average_pool(x)[0]), before, strict=True):
            np.testing.assert_array_equal(seen, wanted)
    checked = pickle.loads(pickle.dumps(FiniteCheckBackend(be)))
    assert type(checked.inner) is type(be)
    np.testing.assert_array_equal(checked.silu(x)[0], before[0])


def test_a_pickled_backend_whose_library_is_missing_says_so(monkeypatch: pytest.MonkeyPatch):
    be = NumpyBackend()
    be.xp = ModuleType("no_such_library")
    with pytest.raises(BackendUnavailable, match=r"^no_such_library, of a pickled backend, does not import"):
        pickle.loads(pickle.dumps(be))


def test_a_backend_that_comes_up_later_is_found(monkeypatch: pytest.MonkeyPatch, fresh_choice: None):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(0))
    assert backends.available()["cupy"]
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(1))
    assert backends.available()["cupy"] is None


def test_the_backend_and_the_namespace_of_an_array(cupy_answering: Any):
    assert backends.of(np.ones(3)).name == backends.of(np.float32(3)).name == "numpy"
    assert backends.of(ForeignArray(np.ones(3))).name == "cupy"
    assert backends.namespace(np.ones(3)) is np
    assert backends.namespace(array_api_strict.ones(3)) is array_api_strict
    # CuPy's arrays name no namespace: it is the package that defines their type
    assert backends.namespace(ForeignArray(np.ones(3))) is sys.modules["tests"]


# --- binding and overriding ---


def test_operations_run_on_the_backends_namespace():
    strict = Backend(array_api_strict)
    y, ctx = strict.silu(strict.asarray([1.0, 2.0], "float32"))
    assert isinstance(y, type(array_api_strict.ones(1)))
    (dx,) = strict.silu_backward(y, ctx)
    assert dx.dtype == array_api_strict.float32


class Doubling(Backend):
    """Overrides one operation forward and backward, and only the backward of another."""

    name: ClassVar[str] = "doubling"

    def __init__(self) -> None:
        super().__init__(np)

    def silu(self, x: Any) -> tuple[Any, Any]:
        return 2 * x, "doubling"

    def silu_backward(self, dy: Any, ctx: Any) -> tuple[Any]:
        assert ctx == "doubling"
        return (2 * dy,)

    def linear_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        return dy, dy, dy


def test_a_subclass_overrides_operations_and_the_rest_is_the_reference():
    be, reference = Doubling(), Backend(np)
    x = np.array([1.0, -2.0])
    y, ctx = be.silu(x)
    np.testing.assert_array_equal(y, 2 * x)
    np.testing.assert_array_equal(be.silu_backward(x, ctx)[0], 2 * x)
    assert be.overrides() == ("linear", "silu")
    assert reference.overrides() == ()
    for name, op in backends.OPS.items():
        if name not in be.overrides():
            assert getattr(be, name).__func__ is op.forward
    np.testing.assert_array_equal(be.mse_loss(x, 0 * x)[0], reference.mse_loss(x, 0 * x)[0])


@pytest.mark.parametrize(
    "name", ["conv3d", "adam_backward", "random_normal_backward", "_backward", "__array__", "conv2d_backward_backward"]
)
@pytest.mark.parametrize("be", [NumpyBackend(), FiniteCheckBackend(NumpyBackend())], ids=["plain", "finite"])
def test_unknown_attributes_are_attribute_errors(be: Backend, name: str):
    assert not hasattr(be, name)
    with pytest.raises(AttributeError, match=name):
        getattr(be, name)


@pytest.mark.parametrize("be", [NumpyBackend(), FiniteCheckBackend(NumpyBackend())], ids=["plain", "finite"])
def test_a_copy_works_and_an_unfinished_instance_does_not_recurse(be: Backend):
    x = np.array([1.0])
    be.silu(x)
    np.testing.assert_array_equal(copy.copy(be).silu(x)[0], be.silu(x)[0])
    unfinished = object.__new__(type(be))
    for name in ("xp", "inner", "silu", "__setstate__", "__deepcopy__", "__array__"):
        assert not hasattr(unfinished, name)


# --- moving arrays ---


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("float32")])
def test_arrays_go_in_and_out_with_the_wanted_type(dtype: Any):
    be = backends.get("numpy")
    x = be.asarray([[1, 2]], dtype)
    assert (x.dtype, x.shape) == (np.float32, (1, 2))
    assert be.asarray(x) is x
    assert be.to_numpy(x) is x
    assert be.asarray([True, False]).dtype == bool
    assert be.memory() is None
    be.synchronize()


def test_asarray_names_the_type_in_the_backends_own_namespace():
    assert Backend(array_api_strict).asarray([1], np.dtype("float64")).dtype == array_api_strict.float64


def test_cupy_moves_arrays_waits_and_counts(cupy_answering: Any):
    be = backends.get("cupy")
    x = be.asarray([1, 2], "float32")
    assert x.dtype == np.float32
    assert be.to_numpy(x) is not x
    be.synchronize()
    assert cupy_answering.events == ["synchronize"]
    assert be.memory() == 1024


def test_precision_is_the_cupy_backends(cupy_answering: Any) -> None:
    assert backends.get("cupy").precision == "tf32"
    assert backends.get("cupy", precision="tf32") is backends.get("cupy")
    assert backends.get("auto", precision="bf16").precision == "bf16"
    assert backends.get("cupy", precision="bf16") is backends.get("auto", precision="bf16")
    with pytest.raises(ValueError, match="unknown precision 'half'; choose one of fp32, tf32, bf16"):
        backends.get("cupy", precision="half")


def test_other_backends_compute_in_fp32() -> None:
    for name in ("numpy", "numba"):
        assert backends.get(name, precision="fp32") is backends.get(name)
        with pytest.raises(ValueError, match=f"the {name} backend computes in fp32, not in 'tf32'"):
            backends.get(name, precision="tf32")


# --- imports ---


def test_backends_never_imports_tinyddpm_nor_anything_heavy():
    """What `import backends` loads, in a fresh interpreter."""
    heavy = ["tinyddpm", "numba", "cupy", "torch", "scipy"]
    code = f"import sys, backends; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_source_of_backends_names_tinyddpm_in_an_import():
    modules = list(pkgutil.walk_packages(backends.__path__, "backends."))
    assert len(modules) > 10
    for module in modules:
        path = Path(importlib.util.find_spec(module.name).origin)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert "tinyddpm" not in {n.partition(".")[0] for n in names}, module.name


# Docstrings

OPERATIONS = [n for op in OPS.values() for n in (op.name, *([f"{op.name}_backward"] if op.backward else []))]


@pytest.mark.parametrize(
    "be", [Backend(np), backends.get("numpy"), backends.get("numba")], ids=lambda be: type(be).__name__
)
@pytest.mark.parametrize("name", OPERATIONS)
def test_help_tells_what_the_operation_says(be: Backend, name: str):
    method, function = getattr(be, name), operation(name)
    assert function is not None
    assert function.__doc__
    assert inspect.getdoc(method) == inspect.getdoc(function)
    assert list(inspect.signature(method).parameters) == list(inspect.signature(function).parameters)[1:]
    first = (inspect.getdoc(function) or "").splitlines()[0]
    text = pydoc.plain(pydoc.render_doc(method))
    assert text.startswith(f"Python Library Documentation: method {name}")
    assert first in text


def test_a_method_keeps_a_docstring_of_its_own():
    class Own(Backend):
        def silu(self, x: Any) -> Any:
            """Ours."""

        def add(self, a: Any, b: Any) -> Any: ...

        def _private(self) -> None: ...

    assert Own.silu.__doc__ == "Ours."
    assert Own.add.__doc__ == OPS["add"].forward.__doc__
    assert Own._private.__doc__ is None
