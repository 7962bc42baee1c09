"""The picture of a run's loss."""

import io
import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyddpm.data.images import printable
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
    # Folder names may contain "$", and bytes that are no text
    axes.set_title(" ".join(printable(title).split()), parse_math=False)
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(buffer, format="png", dpi=110)
    write_atomically(path, buffer.getvalue())


def label_decades(axes: Any) -> None:
    """Puts four to about ten plain numbers on the logarithmic axis, where the default is powers of ten alone."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    axes.yaxis.set_major_locator(decades(*axes.get_ylim()))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def decades(low: float, high: float) -> Any:
    """Matplotlib's locator of the numbers between low and high, both positive, that stand on a logarithmic axis."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    wide = np.log10(high / low)
    subs = (1, 1.5, 2, 3, 5, 7) if wide < 1.5 else (1, 2, 5) if wide < 3 else (1,)
    return MaxNLocator(6) if wide < 0.7 else LogLocator(subs=subs, numticks=10)
