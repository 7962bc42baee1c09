"""NumPy arrays with Numba kernels for the hot operations."""

import importlib.util
from typing import ClassVar

import numpy as np

from backends.backend import Backend, BackendUnavailable


class NumbaBackend(Backend):
    """NumPy arrays; overrides nothing yet, so every operation is the reference one."""

    name: ClassVar[str] = "numba"

    def __init__(self) -> None:
        if importlib.util.find_spec("numba") is None:
            raise BackendUnavailable("numba is not installed; run: pip install numba")
        super().__init__(np)
