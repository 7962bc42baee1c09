"""The picture of the bound's terms over the timesteps."""

import io
import os

import numpy as np

from tinyddpm.data.images import printable
from tinyddpm.evaluation.likelihood import Bound
from tinyddpm.files import write_atomically


def save_ledger(path: str | os.PathLike[str], bound: Bound, title: str) -> None:
    """Draws each term L_t against t + 1, and what all up to there add up to, above the floor. A PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first, last, means = (np.array(column) for column in zip(*bound.ledger, strict=True))
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    above.stairs(means, np.append(first, last[-1] + 1) + 1, color="C0", baseline=None)
    above.set(yscale="log", ylabel="bits per dimension of one step")
    # The prior belongs to the end of the chain; drawn first, so that the curve ends at the total
    sums = bound.parts["prior"] + np.cumsum(means * bound.sizes)
    below.plot(last + 1, sums, color="C0", marker=".", label=f"the bound: {bound.total:.3f}")
    below.axhline(bound.floor, color="C1", linestyle="--", label=f"floor of a perfect network: {bound.floor:.3f}")
    below.set(xscale="log", xlabel="step, 1 is the decoder's", ylabel="sum up to the step", ylim=(0, None))
    below.legend(loc="lower right")
    above.set_title(" ".join(printable(title).split()), parse_math=False)
    for axes in (above, below):
        axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomically(path, buffer.getvalue())
