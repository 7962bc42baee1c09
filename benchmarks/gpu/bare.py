"""Modules that tinyddpm imports but that nothing here needs: where they are missing, empty ones take their place.

A machine with a GPU may be lent for minutes, and have NumPy, Numba, CuPy, Matplotlib and PyTorch alone.
"""

import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

SPARED = ("safetensors", "safetensors.numpy", "threadpoolctl")


class Nothing(Exception):
    """Whatever is asked of it, it is that, and empty."""

    def __call__(self, *args: Any, **named: Any) -> "Nothing":
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __enter__(self) -> "Nothing":
        return self

    def __exit__(self, *_: Any) -> None:
        pass


def spare() -> list[str]:
    """Puts empty modules in the places of those missing; returns their names."""
    gone = [name for name in SPARED if importlib.util.find_spec(name.partition(".")[0]) is None]
    for name in gone:
        module = ModuleType(name)
        module.__getattr__ = lambda attribute: (
            type(attribute, (Nothing,), {}) if attribute.endswith("Error") else Nothing()
        )  # type: ignore[method-assign]
        module.__path__ = []
        sys.modules[name] = module
    return gone
