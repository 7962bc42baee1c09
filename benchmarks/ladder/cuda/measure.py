"""Checking and timing the rungs on a GPU, beside PyTorch's convolution."""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

import backends
from backends.cupy_kernels.runtime.compilation import cupy
from benchmarks.ladder.cuda.rungs import ROUNDED, RUNGS
from benchmarks.ladder.rows import SHAPES, SMOKE, Shape, rows

# Relative, by norm: of float32, and of operands rounded to TF32
LARGEST_ERROR, LARGEST_ROUNDED = 2e-5, 2e-3


def torch_calls(x: np.ndarray, w: np.ndarray) -> dict[str, Callable[[], Any]]:
    """PyTorch's convolution, channels last, in TF32 and in float32; none where it has no GPU."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    if not torch.cuda.is_available():
        return {}
    image = torch.from_numpy(x).cuda().permute(0, 3, 1, 2)
    weight = torch.from_numpy(w).cuda().permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)

    def call(tf32: bool) -> Any:
        torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = True, tf32
        with torch.no_grad():
            return torch.nn.functional.conv2d(image, weight, padding=1).permute(0, 2, 3, 1)

    return {"torch tf32": lambda: call(True), "torch fp32": lambda: call(False)}


def to_numpy(y: Any) -> np.ndarray:
    """CuPy's or PyTorch's array on the host."""
    return y.get() if hasattr(y, "get") else y.cpu().numpy()


def seconds(call: Callable[[], Any], repeats: int = 20) -> float:
    """Seconds of one call on the device, many in a row after three uncounted. All peers use the default stream."""
    events, stream = (cupy().cuda.Event(), cupy().cuda.Event()), cupy().cuda.Stream.null
    cupy().cuda.Device().synchronize()
    for _ in range(3):
        call()
    events[0].record(stream)
    for _ in range(repeats):
        call()
    events[1].record(stream)
    events[1].synchronize()
    return cupy().cuda.get_elapsed_time(*events) / 1e3 / repeats


def rows_of(shape: Shape, rounds: int) -> list[dict[str, Any]]:
    """A row for each rung and for PyTorch: see `rows`."""
    x, w = shape.arrays()
    on_device = cupy().asarray(x), cupy().asarray(w)
    calls = {name: lambda conv=conv: conv(*on_device) for name, conv in RUNGS.items()}
    calls |= torch_calls(x, w)

    def limit(name: str) -> float:
        return LARGEST_ROUNDED if name in ROUNDED or "tf32" in name else LARGEST_ERROR

    return rows(shape, calls, to_numpy, limit, lambda name: seconds(calls[name]), rounds)


def measure(smoke: bool, rounds: int, only: str) -> list[dict[str, Any]]:
    """The rows of all shapes whose name holds `only`. Raises BackendUnavailable where there is no GPU."""
    backends.get("cupy")
    shapes = [shape for shape in (SMOKE if smoke else SHAPES) if only in shape.name]
    return [row for shape in shapes for row in rows_of(shape, 2 if smoke else rounds)]
