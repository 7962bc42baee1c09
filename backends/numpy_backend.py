"""The reference operations on NumPy arrays, as they are."""

from typing import ClassVar

import numpy as np

from backends.backend import Backend


class NumpyBackend(Backend):
    """Every operation in plain NumPy: float32, float64 and complex128."""

    name: ClassVar[str] = "numpy"
    # Measured, of the peak of training steps: what malloc does not get to use again
    unused_share: ClassVar[float] = 0.28

    def __init__(self) -> None:
        super().__init__(np)
