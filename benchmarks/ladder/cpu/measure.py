"""Checking and timing the rungs, beside PyTorch's convolution."""

import importlib.util
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import click
import numpy as np

from backends import set_threads
from benchmarks.ladder.cpu import (
    v0_loops,
    v1_vectors,
    v2_im2col,
    v3_registers,
    v4_winograd,
    v5_blocked,
    v6_products,
    v7_transforms,
    v8_library,
)
from benchmarks.ladder.rows import SHAPES, SMOKE, Shape, rows

RUNGS = {
    module.__name__.rpartition(".")[2]: module.conv
    for module in (
        v0_loops,
        v1_vectors,
        v2_im2col,
        v3_registers,
        v4_winograd,
        v5_blocked,
        v6_products,
        v7_transforms,
        v8_library,
    )
}
# So slow that it gets fewer images; its time is scaled up
IMAGES = {"v0_loops": 2}
# Relative, by norm
LARGEST_ERROR = 2e-5


def torch_calls(x: np.ndarray, w: np.ndarray) -> dict[str, Callable[[], np.ndarray]]:
    """PyTorch's convolution in both orders of memory, results as NHWC views; none where it is not installed."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    calls = {}
    for name, layout in (("torch", torch.contiguous_format), ("torch channels_last", torch.channels_last)):
        image = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=layout)
        weight = torch.from_numpy(w).permute(3, 2, 0, 1).contiguous(memory_format=layout)

        def call(image: Any = image, weight: Any = weight) -> np.ndarray:
            with torch.no_grad():
                return torch.nn.functional.conv2d(image, weight, padding=1).permute(0, 2, 3, 1).numpy()

        calls[name] = call
    return calls


def seconds(call: Callable[[], np.ndarray]) -> float:
    """Median of three calls, after a tenth of a second of others.

    By then the threads of an earlier measurement no longer spin, and its own ones, which may at first wake up all on
    the same core, are on cores of their own.
    """
    start = time.perf_counter()
    while time.perf_counter() - start < 0.1:
        call()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times)


def rows_of(shape: Shape, rounds: int) -> list[dict[str, Any]]:
    """A row for each rung and for PyTorch: see `rows`."""
    x, w = shape.arrays()
    counts = {name: min(shape.images, IMAGES.get(name, shape.images)) for name in RUNGS}
    calls = {name: lambda conv=conv, few=x[: counts[name]]: conv(few, w) for name, conv in RUNGS.items()}
    calls |= torch_calls(x, w)

    def for_all(name: str) -> float:
        return seconds(calls[name]) * shape.images / counts.get(name, shape.images)

    return rows(shape, calls, np.asarray, lambda name: LARGEST_ERROR, for_all, rounds)


def measure(smoke: bool, rounds: int, threads: int, only: str) -> list[dict[str, Any]]:
    """The rows of all shapes whose name holds `only`."""
    set_threads(threads)
    if importlib.util.find_spec("torch") is not None:
        import torch

        torch.set_num_threads(threads)
    known = SMOKE if smoke else SHAPES
    shapes = [shape for shape in known if only in shape.name]
    if not shapes:
        raise click.UsageError(f"no shape's name holds {only!r}; there are {'; '.join(shape.name for shape in known)}")
    return [row for shape in shapes for row in rows_of(shape, 2 if smoke else rounds)]
