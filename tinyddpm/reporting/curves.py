"""Curves of a page: SVG that stretches to any width, axes as text that does not, and the values under a pointer."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyddpm.reporting.loss_curve import VALIDATION, decades

# In the picture's own units, which are stretched over whatever place it has
SIDE = 1000
# A curve shows at most this many groups of steps
GROUPS = 300
# Share of the steps in the running mean
MEAN_OF = 25


@dataclass(frozen=True)
class Line:
    """A curve through (x, y). low, high: the range of the values that each point stands for, or none; marks: whether
    points are shown."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    marks: bool = False


@dataclass(frozen=True)
class Plot:
    """Curves over one x axis; log: a logarithmic y axis. `svg`, `x_ticks`, `y_ticks` and `values` are for the page."""

    title: str
    x_name: str
    y_name: str
    lines: Sequence[Line]
    log: bool = False
    spans: tuple[tuple[float, float], tuple[float, float]] = field(init=False)

    def __post_init__(self) -> None:
        x = np.concatenate([np.asarray(line.x, np.float64) for line in self.lines])
        y = np.concatenate([np.asarray([*line.y, *line.low, *line.high], np.float64) for line in self.lines])
        if self.log:
            y = np.log10(y[y > 0]) if np.any(y > 0) else np.zeros(1)
        object.__setattr__(self, "spans", (span(x, 0.0), span(y, 0.05)))

    @property
    def x_ticks(self) -> list[tuple[float, str]]:
        """Places in per cent from the left, and their numbers."""
        return self.ticks(linear_ticks(*self.spans[0], 5), 0)

    @property
    def y_ticks(self) -> list[tuple[float, str]]:
        """Places in per cent from the top, and their numbers."""
        low, high = self.spans[1]
        if not self.log:
            return self.ticks(linear_ticks(low, high, 5), 1)
        return self.ticks(decades(10**low, 10**high).tick_values(10**low, 10**high), 1)

    def ticks(self, values: Sequence[float], axis: int) -> list[tuple[float, str]]:
        """Those of the values within the axis."""
        low, high = self.spans[axis]
        if axis == 1 and self.log:
            low, high = 10**low, 10**high
        inside = [float(value) for value in values if low <= value <= high]
        places = self.places(np.array(inside), axis) / SIDE * 100
        return [(round(place, 2), f"{value:,.6g}") for place, value in zip(places.tolist(), inside, strict=True)]

    def places(self, values: np.ndarray, axis: int) -> np.ndarray:
        """Values in the picture's units, y from the top; what a logarithm does not know is at the bottom."""
        low, high = self.spans[axis]
        if axis == 1 and self.log:
            values = np.log10(np.maximum(values, 10**low))
        share = (values - low) / (high - low)
        return np.clip(share if axis == 0 else 1 - share, -1, 2) * SIDE

    @property
    def svg(self) -> str:
        """What is inside the element: grid, ranges, curves and marks, each of class c0, c1, … by its line."""
        parts = [f'<path class="grid" d="M0 {top * 10:.1f}H{SIDE}"/>' for top, _ in self.y_ticks]
        parts += [f'<path class="grid" d="M{left * 10:.1f} 0V{SIDE}"/>' for left, _ in self.x_ticks]
        for number, line in enumerate(self.lines):
            x = self.places(np.asarray(line.x, np.float64), 0)
            if len(line.low):
                ends = (self.places(np.asarray(end, np.float64), 1) for end in (line.high, line.low))
                top, bottom = ends
                around = np.concatenate([x, x[::-1]]), np.concatenate([top, bottom[::-1]])
                parts.append(f'<path class="range c{number}" d="{path(*around)}Z"/>')
            y = self.places(np.asarray(line.y, np.float64), 1)
            parts.append(f'<path class="line c{number}" d="{path(x, y)}"/>')
            if line.marks or len(x) == 1:
                dots = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(x, y, strict=True))
                parts.append(f'<path class="marks c{number}" d="{dots}"/>')
        return "".join(parts)

    @property
    def values(self) -> dict[str, Any]:
        """All numbers, for the page's script: x span, and of each line name, x, y, and low and high if it has them."""
        lines = [
            {"name": line.name, "x": list(line.x), "y": list(line.y), "low": list(line.low), "high": list(line.high)}
            for line in self.lines
        ]
        return {"x": self.x_name, "span": list(self.spans[0]), "lines": lines}

    @property
    def description(self) -> str:
        """The curves in words, for who cannot see them."""
        ends = [
            f"{line.name} {line.y[0]:.4g} at {self.x_name} {line.x[0]:,.6g}"
            + (f", {line.y[-1]:.4g} at {line.x[-1]:,.6g}" if len(line.x) > 1 else "")
            for line in self.lines
        ]
        return f"{self.title}. {'; '.join(ends)}."

    @property
    def table(self) -> tuple[list[str], list[list[str]]]:
        """Heads and rows of the values: some twenty of each line with ranges, all of a short one."""
        rows: dict[float, dict[str, str]] = {}
        for line in self.lines:
            chosen = np.unique(np.linspace(0, len(line.x) - 1, 20).round().astype(int))
            for i in chosen:
                rows.setdefault(line.x[i], {})[line.name] = f"{line.y[i]:.5g}"
        names = [line.name for line in self.lines]
        return [self.x_name, *names], [[f"{x:,.6g}", *(rows[x].get(name, "") for name in names)] for x in sorted(rows)]


def span(values: np.ndarray, margin: float) -> tuple[float, float]:
    """The range of the finite values, widened by that share; never empty."""
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        low, high = low - 0.5, high + 0.5
    return low - margin * (high - low), high + margin * (high - low)


def linear_ticks(low: float, high: float, most: int) -> list[float]:
    """At most that many steps of round numbers around the range."""
    from matplotlib.ticker import MaxNLocator

    return [float(value) for value in MaxNLocator(most).tick_values(low, high)]


def path(x: np.ndarray, y: np.ndarray) -> str:
    """The SVG path through these points."""
    points = " ".join(f"{a:.1f} {b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))
    return f"M{points}"


def grouped(steps: np.ndarray, values: np.ndarray, name: str) -> Line:
    """A curve of at most GROUPS points, each the mean of as many neighbouring steps, with their range."""
    size = -(-len(steps) // GROUPS)
    firsts = np.arange(0, len(steps), size)
    counts = np.diff(np.append(firsts, len(steps)))
    means = values if size == 1 else np.add.reduceat(values, firsts) / counts
    ends = firsts + counts - 1
    low, high = np.minimum.reduceat(values, firsts), np.maximum.reduceat(values, firsts)
    label = name if size == 1 else f"{name}, mean of {size} steps"
    return Line(label, steps[ends].tolist(), means.tolist(), low.tolist(), high.tolist())


def training_plots(metrics: Sequence[dict[str, Any]]) -> list[Plot]:
    """Loss, gradient norm and learning rate over the steps, of `read_metrics`; none of a run without steps."""
    if not metrics:
        return []
    steps = np.array([row["step"] for row in metrics])
    columns = {key: np.array([row[key] for row in metrics], np.float64) for key in ("loss", "grad_norm", "lr")}
    losses = [grouped(steps, columns["loss"], "loss of a step")]
    width = max(1, len(steps) // MEAN_OF)
    if width > 1:
        means = np.convolve(columns["loss"], np.full(width, 1 / width), "valid")
        chosen = np.unique(np.linspace(0, len(means) - 1, GROUPS).round().astype(int))
        losses.append(Line(f"mean of {width} steps", steps[width - 1 :][chosen].tolist(), means[chosen].tolist()))
    for key, name in VALIDATION.items():
        looks = [(row["step"], row[key]) for row in metrics if key in row]
        if looks:
            x, y = zip(*looks, strict=True)
            losses.append(Line(name, x, y, marks=True))
    rate = grouped(steps, columns["lr"], "learning rate")
    return [
        Plot("Loss", "step", "loss", losses, log=True),
        Plot("Norm of the gradient", "step", "norm", [grouped(steps, columns["grad_norm"], "norm")], log=True),
        Plot("Learning rate", "step", "rate", [Line(rate.name, rate.x, rate.y)]),
    ]


def level_plot(levels: Sequence[dict[str, Any]]) -> Plot | None:
    """The loss at each noise level, as `evaluate` measured it; None where no loss is finite."""
    found = [(row["t"], row["loss"]) for row in levels if row["loss"] is not None]
    if not found:
        return None
    x, y = zip(*found, strict=True)
    return Plot("Loss at each noise level", "timestep", "loss", [Line("test loss", x, y, marks=True)], log=True)


def bits_plot(ledger: Sequence[dict[str, Any]]) -> Plot | None:
    """The mean bits of one term of the bound, over the timesteps of each stratum; None where there are none."""
    if not ledger:
        return None
    x, y = [(row["first"] + row["last"]) / 2 for row in ledger], [row["bits"] for row in ledger]
    return Plot("Bits of one step", "timestep", "bits per dimension", [Line("one term of the bound", x, y)], log=True)


def script_values(plots: Sequence[Plot]) -> str:
    """The values of the plots, as JSON that may stand in a page."""
    return json.dumps([plot.values for plot in plots], allow_nan=False).replace("<", "\\u003c")
