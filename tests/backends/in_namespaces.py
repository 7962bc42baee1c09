"""Operations with a gradient, and their cases in other array namespaces."""

from collections.abc import Callable
from typing import Any

import numpy as np

from backends import OPS
from backends.testing import Arguments

DIFFERENTIABLE = [name for name, op in OPS.items() if op.backward is not None]


def arguments(case: Arguments, xp: Any, array: Callable[[np.ndarray], Any]) -> Arguments:
    """The case for another namespace: arrays through `array`, a dtype by its name in `xp`."""
    return {
        name: array(value)
        if isinstance(value, np.ndarray)
        else getattr(xp, value)
        if name == "dtype" and value is not None
        else value
        for name, value in case.items()
    }
