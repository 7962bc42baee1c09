"""Arrays and kernels: every operation once in array-API code, and backends that bind or override them.

This package knows nothing of diffusion.
"""

import sys
import warnings
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from backends.array import Array, DType, Namespace
from backends.backend import Backend, BackendUnavailable, Recorder, namespace, recordable
from backends.cupy_backend import DEFAULT_PRECISION, PRECISIONS, CupyBackend
from backends.finite_check import FiniteCheckBackend, NonFiniteError
from backends.numba_backend import NumbaBackend
from backends.numpy_backend import NumpyBackend
from backends.ops import OPS, Op
from backends.ops.analytic import real_part
from backends.ops.convolution import Padding
from backends.thread_count import ThreadsError, set_threads, threads
from backends.wrapping import WrappedBackend

BACKENDS: dict[str, type[Backend]] = {"numpy": NumpyBackend, "numba": NumbaBackend, "cupy": CupyBackend}


@cache
def _instance(name: str, **options: Any) -> Backend:
    return BACKENDS[name](**options)


@cache
def _warn_once(message: str) -> None:
    """Warns, once in a process: Python's own memory of warnings is lost whenever a library changes their filters."""
    warnings.warn(message, stacklevel=3)


def _is_installed(module: str) -> bool:
    """Whether it is imported already, or can be found."""
    return sys.modules.get(module) is not None or (module not in sys.modules and find_spec(module) is not None)


def get(name: str = "auto", precision: str | None = None, graphs: bool = True) -> Backend:
    """The backend of that name: "numpy", "numba", "cupy", or "auto" (cupy if a GPU answers, else numba, or numpy
    where that does not run).

    precision: how the cupy backend multiplies, "fp32", "tf32" (its default) or "bf16" (`CupyBackend`). The others
    compute in float32 and take "fp32" alone. graphs: whether the cupy backend replays steps as CUDA graphs; False for
    debugging. The others have none. "auto" warns, once, where CuPy is installed and cannot run here, or where Numba
    cannot, and says why.
    Raises ValueError for another name or precision, BackendUnavailable, with the reason, for a backend that cannot run
    here, and ThreadsError if TINYDDPM_THREADS is set to what cannot be had.
    """
    if name == "auto":
        reasons = {}
        for name in ("cupy", "numba", "numpy"):
            reasons[name] = _reason(name)
            if reasons[name] is None:
                break
        for missing, reason in reasons.items():
            if reason is not None and (missing == "numba" or _is_installed(missing)):
                _warn_once(f"going on with the {name} backend, as {reason}")
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}; choose one of {', '.join([*BACKENDS, 'auto'])}")
    if name == "cupy":
        options = {"precision": precision} if precision not in (None, DEFAULT_PRECISION) else {}
        return _instance(name, **options, **({} if graphs else {"graphs": False}))
    if precision not in (None, "fp32"):
        raise ValueError(f"the {name} backend computes in fp32, not in {precision!r}, which the cupy backend can")
    return _instance(name)


def of(x: Any) -> Backend:
    """The backend of plain operations for an array: numpy for a NumPy array or scalar, else cupy."""
    return get("numpy" if isinstance(x, np.ndarray | np.generic) else "cupy")


def available() -> dict[str, str | None]:
    """For each backend None if it works here, else the reason why it does not."""
    return {name: _reason(name) for name in BACKENDS}


def _reason(name: str) -> str | None:
    """Why a backend does not work here; None if it does."""
    try:
        _instance(name)
    except BackendUnavailable as error:
        return str(error)
    return None


__all__ = [
    "BACKENDS",
    "OPS",
    "PRECISIONS",
    "Array",
    "Backend",
    "BackendUnavailable",
    "CupyBackend",
    "DType",
    "FiniteCheckBackend",
    "Namespace",
    "NonFiniteError",
    "NumbaBackend",
    "NumpyBackend",
    "Op",
    "Padding",
    "Recorder",
    "ThreadsError",
    "WrappedBackend",
    "available",
    "get",
    "namespace",
    "of",
    "real_part",
    "recordable",
    "set_threads",
    "threads",
]
