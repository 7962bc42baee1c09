"""The reference operations on CUDA arrays through CuPy."""

import importlib
from typing import Any, ClassVar

import numpy as np

from backends.backend import Backend, BackendUnavailable


class CupyBackend(Backend):
    """Arrays in GPU memory; every operation is the reference one, run by CuPy.

    Raises BackendUnavailable with the reason where CuPy, its CUDA libraries, a driver or a GPU is missing.
    """

    name: ClassVar[str] = "cupy"

    def __init__(self) -> None:
        try:
            cupy = importlib.import_module("cupy")
        except ImportError as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise BackendUnavailable(f"cupy does not import ({reason}); run: pip install 'tinyddpm[cuda]'") from error
        try:
            count = cupy.cuda.runtime.getDeviceCount()
        except Exception as error:  # CuPy raises types of its own that exist only where CUDA does
            raise BackendUnavailable(f"no CUDA device answers ({error}); a GPU and its driver are needed") from error
        if count == 0:
            raise BackendUnavailable("the CUDA driver reports no device; a GPU is needed")
        super().__init__(cupy)

    def asarray(self, x: Any, dtype: Any = None) -> Any:
        """x in GPU memory. NumPy arrays are copied to the device."""
        return self.xp.asarray(x, dtype=None if dtype is None else np.dtype(dtype))

    def to_numpy(self, x: Any) -> np.ndarray:
        """x copied to host memory; waits for the device."""
        return self.xp.asnumpy(x)

    def synchronize(self) -> None:
        self.xp.cuda.Device().synchronize()

    def memory(self) -> int | None:
        return int(self.xp.get_default_memory_pool().used_bytes())
