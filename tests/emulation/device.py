"""The CuPy backend on the stand-in, and its operations as the checks of `backends.testing` take them."""

import importlib
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import backends
from backends import OPS, Backend, CupyBackend
from backends.cupy_kernels.runtime import graphs, launch
from backends.cupy_kernels.runtime.arena import Arena
from backends.testing import check_against

# Relative errors by norm of operations with products
TOLERANCE = {"fp32": 1e-5, "tf32": 2e-3, "bf16": 2e-2}
# The names under which the stand-in is imported
NAMES = {"cupy": "tests.emulation.cupy", "cupy.cuda": "tests.emulation.cupy.cuda"}


@contextmanager
def standing_in() -> Iterator[ModuleType]:
    """`import cupy` gives the stand-in, even where CuPy itself is installed; graphs have an arena of their own."""
    arena, graphs.ARENA = graphs.ARENA, Arena()
    # `backends.of` makes a backend for its arrays, which must not outlive it
    instances, backends._instance = backends._instance, cache(backends._instance.__wrapped__)
    before = {name: sys.modules.get(name) for name in NAMES}
    sys.modules.update({name: importlib.import_module(module) for name, module in NAMES.items()})
    try:
        yield sys.modules["cupy"]
    finally:
        graphs.ARENA, backends._instance = arena, instances
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


@contextmanager
def cupy_backend(**options: Any) -> Iterator[CupyBackend]:
    """The CuPy backend, unchanged, on the stand-in."""
    with standing_in():
        yield CupyBackend(**options)


@contextmanager
def device_with(multiprocessors: int = 132, capability: str = "80") -> Iterator[None]:
    """Few multiprocessors make threads walk over an array, many leave some without work; Hopper, "90", has kernels of
    its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "multiprocessors", lambda module: multiprocessors)
        patch.setattr(launch, "capability", lambda module: capability)
        yield


def moved(value: Any, move: Callable[[Any], Any]) -> Any:
    """The value with every array in it moved, in tuples, lists and dictionaries too; an array met twice once."""
    done: dict[int, tuple[Any, Any]] = {}

    def one(x: Any) -> Any:
        if hasattr(x, "_fields"):
            return type(x)(*(one(member) for member in x))
        if isinstance(x, tuple | list):
            return type(x)(one(member) for member in x)
        if isinstance(x, dict):
            return {key: one(member) for key, member in x.items()}
        if hasattr(x, "ndim") and hasattr(x, "dtype"):
            if id(x) not in done:
                done[id(x)] = x, move(x)
            return done[id(x)][1]
        return x

    return one(value)


def displaced(backend: CupyBackend, x: Any, first: int) -> Any:
    """The array on the device, as a view that begins `first` elements behind the beginning of its memory."""
    if not isinstance(x, np.ndarray) or x.ndim == 0:
        return backend.asarray(x)
    whole = backend.xp.empty(first + x.size, x.dtype)
    whole[first:] = backend.asarray(x).reshape(-1)
    return whole[first:].reshape(x.shape)


def beginning_anywhere(backend: CupyBackend, seed: int) -> Callable[[Any], Any]:
    """Uploads arrays, about half of them displaced: which, the seed says and what is in them, so that a second call
    finds the same."""

    def upload(x: Any) -> Any:
        rng = np.random.default_rng([seed, zlib.crc32(np.asarray(x).tobytes())])
        return displaced(backend, x, int(rng.choice([0, 0, 0, 1, 2, 3])))

    return upload


def operation(
    backend: Backend, name: str, upload: Callable[[Any], Any] | None = None
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(forward, backward) of a device's operation on host arrays, for `check_against`.

    What the device changes in its arguments is changed in the host's, so that the checks see it. upload: how an array
    gets there, `backend.asarray` by default.
    """

    def on_device(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **named: Any) -> Any:
            pairs: list[tuple[np.ndarray, Any]] = []

            def up(x: Any) -> Any:
                device = (upload or backend.asarray)(x)
                if isinstance(x, np.ndarray):
                    pairs.append((x, device))
                return device

            uploaded = moved((args, named), up)
            result = function(*uploaded[0], **uploaded[1])
            backend.synchronize()
            for host, device in pairs:
                np.copyto(host, backend.to_numpy(device))
            return moved(result, backend.to_numpy)

        run.__name__ = getattr(function, "__name__", name)
        return run

    backward = f"{name}_backward"
    return on_device(getattr(backend, name)), on_device(getattr(backend, backward)) if has(backend, backward) else None


def check(backend: CupyBackend, name: str, case: dict[str, Any], upload: Callable[[Any], Any] | None = None) -> None:
    """The operation and its gradients against the reference, to the precision's tolerance."""
    limit = TOLERANCE[backend.precision]
    check_against(name, operation(backend, name, upload), case, value=limit, gradient=limit, wrt=OPS[name].wrt)


def has(backend: Backend, name: str) -> bool:
    try:
        getattr(backend, name)
    except AttributeError:
        return False
    return True
