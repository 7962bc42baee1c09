"""How samplers converge: against the exact flow of a mixture of Gaussians, where the network makes no error."""

import numpy as np

from tinyddpm.evaluation.convergence import ORDERS, STEPS, Measurement
from tinyddpm.evaluation.convergence import convergence as measure
from tinyddpm.figures import style
from tinyddpm.figures.plate import Plate
from tinyddpm.figures.workshop import Workshop
from tinyddpm.samplers import SAMPLERS

# Points at the end from which a slope is told
FITTED = 3


def convergence(workshop: Workshop) -> list[Plate]:
    """The error of each solver of the probability flow over its steps: the slope is its order."""
    steps = STEPS[1:5] if workshop.quick else STEPS
    found = list(measure(steps=steps, count=workshop.of(64, 16)))
    figure = style.new_figure(3.8)
    left, right = figure.subplots(1, 2, sharey=True)
    slopes = {}
    for number, name in enumerate(SAMPLERS):
        rows = [row for row in found if row.sampler == name]
        if not rows:
            continue  # one that adds noise has no exact solution to converge to
        errors = [row.error for row in rows]
        slopes[name] = slope(rows)
        label = f"{name}: {slopes[name]:.2f}, in theory {ORDERS[name]}"
        left.plot([row.steps for row in rows], errors, marker=".", label=label, **style.line(number))
        right.plot([row.calls for row in rows], errors, marker=".", **style.line(number))
    for axes, title, xlabel in (
        (left, "error over steps", "steps"),
        (right, "error over work", "calls of the network"),
    ):
        axes.set(title=title, xlabel=xlabel, xscale="log", yscale="log")
    left.set_ylabel("root mean square error of a pixel")
    figure.legend(loc="outside lower center", ncols=2, title="slope of the last points")
    best = min(found, key=lambda row: row.error if row.steps == steps[1] else np.inf)
    caption = (
        "Solvers of the probability flow against its exact solution, for a mixture of Gaussians whose perfect network "
        "is a formula. A solver of order k falls by 2^k where the steps double: measured "
        f"{', '.join(f'{value:.2f} for {name}' for name, value in slopes.items())}. Heun calls the network twice a "
        "step, which the right side counts; ddim and euler are one method, and one line. "
        f"In {steps[1]} steps the least error is that of {best.sampler}, {best.error:.1e}."
    )
    header = Measurement._fields
    return [Plate("convergence", style.to_png(figure), header, found, caption)]


def slope(rows: list[Measurement]) -> float:
    """The order that the last measurements show: minus the slope of log error over log steps."""
    ends = rows[-FITTED:]
    return -float(np.polyfit(np.log([row.steps for row in ends]), np.log([row.error for row in ends]), 1)[0])
