"""The picture of a run's loss."""

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyddpm.files import write_atomically

VALIDATION = {"validation_loss": "held-out images", "validation_loss_ema": "held-out images, averaged weights"}


def save_loss_curve(path: str | os.PathLike[str], metrics: Sequence[dict[str, Any]], title: str) -> None:
    """Draws the loss of every logged step, its running mean, and the loss on held-out images against the step.

    metrics: rows with "step" and "loss", some of them with the keys of VALIDATION.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = np.array([row["step"] for row in metrics])
    losses = np.array([row["loss"] for row in metrics])
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.semilogy(steps, losses, color="0.8", linewidth=0.8, label="each step")
    width = max(1, len(losses) // 25)
    if len(losses) > width:
        mean = np.convolve(losses, np.full(width, 1 / width), "valid")
        axes.semilogy(steps[width - 1 :], mean, color="C0", label=f"mean of {width} steps")
    for color, (key, label) in zip(("C1", "C2"), VALIDATION.items(), strict=True):
        looks = [(row["step"], row[key]) for row in metrics if key in row]
        if looks:
            axes.semilogy(*zip(*looks, strict=True), color=color, marker=".", label=label)
    label_decades(axes)
    axes.set(xlabel="step", ylabel="loss")
    # Folder names may contain "$"
    axes.set_title(title, parse_math=False)
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomically(path, buffer.getvalue())


def label_decades(axes: Any) -> None:
    """Puts four to about ten plain numbers on the logarithmic axis, where the default is powers of ten alone."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = axes.get_ylim()
    decades = np.log10(high / low)
    subs = (1, 1.5, 2, 3, 5, 7) if decades < 1.5 else (1, 2, 5) if decades < 3 else (1,)
    axes.yaxis.set_major_locator(MaxNLocator(6) if decades < 0.7 else LogLocator(subs=subs, numticks=10))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axes.yaxis.set_minor_locator(NullLocator())
