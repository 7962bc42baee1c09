"""The CuPy backend on the stand-in, and its operations as the checks of `backends.testing` take them."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from backends import Backend, CupyBackend

# The names under which the stand-in is imported
NAMES = {"cupy": "tests.emulation.cupy", "cupy.cuda": "tests.emulation.cupy.cuda"}


@contextmanager
def standing_in() -> Iterator[ModuleType]:
    """`import cupy` gives the stand-in, even where CuPy itself is installed."""
    before = {name: sys.modules.get(name) for name in NAMES}
    sys.modules.update({name: importlib.import_module(module) for name, module in NAMES.items()})
    try:
        yield sys.modules["cupy"]
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


@contextmanager
def cupy_backend(**options: Any) -> Iterator[CupyBackend]:
    """The CuPy backend, unchanged, on the stand-in."""
    with standing_in():
        yield CupyBackend(**options)


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


def operation(backend: Backend, name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(forward, backward) of a device's operation on host arrays, for `check_against`.

    What the device changes in its arguments is changed in the host's, so that the checks see it.
    """

    def on_device(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **named: Any) -> Any:
            pairs: list[tuple[np.ndarray, Any]] = []

            def up(x: Any) -> Any:
                device = backend.asarray(x)
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


def has(backend: Backend, name: str) -> bool:
    try:
        getattr(backend, name)
    except AttributeError:
        return False
    return True
