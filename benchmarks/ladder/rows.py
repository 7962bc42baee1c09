"""What both ladders share: shapes, and a check of every rung before any is timed."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from backends import ops


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


def definition(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The convolution in float64, by the reference operation."""
    return ops.conv2d(np, x.astype(np.float64), w.astype(np.float64), padding=1)[0]


def rows(
    shape: Shape,
    calls: dict[str, Callable[[], Any]],
    to_numpy: Callable[[Any], np.ndarray],
    limit: Callable[[str], float],
    seconds: Callable[[str], float],
    rounds: int,
) -> list[dict[str, Any]]:
    """A row for each call; ratio: of the best of PyTorch's times over this one.

    calls: convolutions of the shape's images, or of the first of them; those of PyTorch begin with "torch". to_numpy:
    of their results. limit: the largest relative error by norm of the call of a name; seconds: one measurement of it,
    for all images. Raises RuntimeError, before anything is timed, if one computes wrongly.
    """
    expected, off = definition(*shape.arrays()), {}
    for name, call in calls.items():
        y = to_numpy(call())
        off[name] = largest, relative = errors(y, expected[: len(y)])
        if not relative <= limit(name):
            raise RuntimeError(
                f"{name}, {shape.name}: off by {relative:.1e} by norm, {largest:.1e} at most: no use to time it"
            )
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name in calls:
            taken[name].append(seconds(name))
    times = {name: median(values) for name, values in taken.items()}
    best = min((time for name, time in times.items() if name.startswith("torch")), default=None)
    return [
        {
            "work": shape.name,
            "peer": name,
            "ms": times[name] * 1e3,
            "GFLOP/s": shape.flops / times[name] / 1e9,
            "max error": off[name][0],
            "relative error": off[name][1],
            "ratio": best / times[name] if best else None,
        }
        for name in calls
    ]
