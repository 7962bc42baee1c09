"""Checking and timing the rungs, beside PyTorch's convolution."""

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from backends import ops, set_threads
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


@dataclass(frozen=True)
class Shape:
    """A convolution of square images."""

    images: int
    channels: int
    outputs: int
    side: int

    @property
    def name(self) -> str:
        """As in the tables."""
        return f"{self.channels}->{self.outputs}, {self.side}x{self.side}"

    @property
    def flops(self) -> int:
        """Multiplications and additions of the definition, whatever an algorithm needs."""
        return 2 * 9 * self.channels * self.outputs * self.images * self.side**2

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Normal images and weights, float32; the result is about normal as well."""
        rng = np.random.default_rng(0)
        x = rng.standard_normal((self.images, self.side, self.side, self.channels), np.float32)
        w = rng.standard_normal((3, 3, self.channels, self.outputs), np.float32)
        return x, w / np.float32(np.sqrt(9 * self.channels))


SHAPES = (Shape(64, 64, 64, 32), Shape(64, 128, 128, 16), Shape(64, 256, 256, 8))
SMOKE = (Shape(3, 32, 64, 9),)


def errors(y: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """(largest difference, norm of the difference over that of the expected)."""
    difference = y - expected
    return float(abs(difference).max()), float(np.linalg.norm(difference) / np.linalg.norm(expected))


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

    By then the threads of the rung before no longer spin, and its own ones, which may at first wake up all on the
    same core, are on cores of their own.
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
    """A row for each rung and for PyTorch. Raises RuntimeError, before anything is timed, if one computes wrongly."""
    x, w = shape.arrays()
    expected, _ = ops.conv2d(np, x.astype(np.float64), w.astype(np.float64), padding=1)
    counts = {name: min(shape.images, IMAGES.get(name, shape.images)) for name in RUNGS}
    calls = {name: lambda conv=conv, few=x[: counts[name]]: conv(few, w) for name, conv in RUNGS.items()}
    torch = torch_calls(x, w)
    calls |= torch
    off = {name: errors(y := call(), expected[: len(y)]) for name, call in calls.items()}
    for name, (largest, relative) in off.items():
        if not relative <= LARGEST_ERROR:
            raise RuntimeError(
                f"{name}, {shape.name}: off by {relative:.1e} by norm, {largest:.1e} at most: no use to time it"
            )
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds(call) * shape.images / counts.get(name, shape.images))
    best = min((median(times[name]) for name in torch), default=None)
    return [
        {
            "work": shape.name,
            "peer": name,
            "ms": median(times[name]) * 1e3,
            "GFLOP/s": shape.flops / median(times[name]) / 1e9,
            "max error": off[name][0],
            "relative error": off[name][1],
            "ratio": best / median(times[name]) if best else None,
        }
        for name in calls
    ]


def measure(smoke: bool, rounds: int, threads: int, only: str) -> list[dict[str, Any]]:
    """The rows of all shapes whose name holds `only`."""
    set_threads(threads)
    if importlib.util.find_spec("torch") is not None:
        import torch

        torch.set_num_threads(threads)
    shapes = [shape for shape in (SMOKE if smoke else SHAPES) if only in shape.name]
    return [row for shape in shapes for row in rows_of(shape, 2 if smoke else rounds)]
