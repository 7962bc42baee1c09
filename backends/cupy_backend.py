"""CUDA arrays through CuPy, with kernels of our own for the operations that have them."""

import importlib
from typing import Any, ClassVar

import numpy as np

from backends.backend import Backend, BackendUnavailable, Recorder
from backends.cupy_kernels.attention import Attention
from backends.cupy_kernels.bound import Bound
from backends.cupy_kernels.convolution import Convolution
from backends.cupy_kernels.elementwise import Elementwise
from backends.cupy_kernels.embedding import Embedding
from backends.cupy_kernels.losses import Losses
from backends.cupy_kernels.matmul import Matmul
from backends.cupy_kernels.noise import Noise
from backends.cupy_kernels.norm_conv import NormConvolution
from backends.cupy_kernels.normalization import Normalization
from backends.cupy_kernels.optimizer import Optimizer
from backends.cupy_kernels.resampling import Resampling
from backends.cupy_kernels.runtime.graphs import Recorder as GraphRecorder
from backends.cupy_kernels.runtime.graphs import not_capturable
from backends.cupy_kernels.storing import Storing

# How products are computed, and their relative error
PRECISIONS = {
    "fp32": "operands split in two TF32 numbers each, error 1e-6 as in float32",
    "tf32": "operands rounded to TF32, error 1e-3, as PyTorch's convolutions by default",
    "bf16": "operands rounded to bfloat16, error 1e-2; arrays, statistics, sums and the optimiser in float32",
}
DEFAULT_PRECISION = "tf32"
# Compute capability of Ampere, whose instructions the kernels use
OLDEST = 80


class CupyBackend(
    Attention,
    Bound,
    Convolution,
    Elementwise,
    Embedding,
    Losses,
    Matmul,
    Noise,
    NormConvolution,
    Normalization,
    Optimizer,
    Resampling,
    Storing,
    Backend,
):
    """Arrays in GPU memory. Each family of kernels above overrides operations; all others are the reference, by CuPy.

    precision: a key of PRECISIONS. graphs: whether `recorder` replays functions as CUDA graphs. Raises ValueError for
    another precision, and BackendUnavailable with the reason where CuPy, its CUDA libraries, a driver or a GPU is
    missing, or the GPU is older than Ampere.
    """

    name: ClassVar[str] = "cupy"
    # A share of the peak: places in the arena of graphs that are too short for what is asked; most, in steps of small
    # networks
    unused_share: ClassVar[float] = 0.5
    asynchronous: ClassVar[bool] = True

    def __init__(self, precision: str = DEFAULT_PRECISION, graphs: bool = True) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"unknown precision {precision!r}; choose one of {', '.join(PRECISIONS)}")
        self.precision, self.graphs = precision, graphs
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
        capability = cupy.cuda.Device().compute_capability
        if int(capability) < OLDEST:
            raise BackendUnavailable(
                f"the GPU has compute capability {capability[:-1]}.{capability[-1]}; the kernels need 8.0 (Ampere) or "
                "later, and the numba backend does without"
            )
        super().__init__(cupy)

    def asarray(self, x: Any, dtype: Any = None) -> Any:
        """x in GPU memory. NumPy arrays are copied to the device."""
        return self.xp.asarray(x, dtype=None if dtype is None else np.dtype(dtype))

    def to_numpy(self, x: Any) -> np.ndarray:
        """x copied to host memory; waits for the device."""
        return self.xp.asnumpy(x)

    def number(self, x: Any) -> Any:
        """x itself, a scalar array, which kernels read when they run."""
        return x

    def synchronize(self) -> None:
        self.xp.cuda.Device().synchronize()

    def recorder(self, params: Any, grads: Any, *state: Any) -> Recorder:
        return GraphRecorder(self, params, grads, *state) if self.graphs else super().recorder(params, grads, *state)

    def not_recordable(self) -> None:
        not_capturable("it calls an operation that is not marked as recordable")

    def capacity(self) -> int:
        free, _ = self.xp.cuda.Device().mem_info
        return int(free + self.xp.get_default_memory_pool().total_bytes())

    def memory(self) -> int | None:
        return int(self.xp.get_default_memory_pool().used_bytes())
