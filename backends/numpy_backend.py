"""The reference operations on NumPy arrays, as they are."""

from typing import ClassVar

import numpy as np

from backends.backend import Backend


class NumpyBackend(Backend):
    """Every operation in plain NumPy: float32, float64 and complex128."""

    name: ClassVar[str] = "numpy"

    def __init__(self) -> None:
        super().__init__(np)
