"""What the bound on the likelihood is made of: its terms over the timesteps, above the floors of the schedules."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyddpm import data
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.evaluation.likelihood import bound, floor_of
from tinyddpm.figures import style
from tinyddpm.figures.plate import Plate
from tinyddpm.figures.workshop import Workshop

FLOORS = ("linear", "cosine")
IMAGES, TERMS = 256, 40


def likelihood(workshop: Workshop) -> list[Plate]:
    """The bound in bits per dimension, term by term, above the floors that the schedules set."""
    trained = workshop.trained("mnist")
    test, diffusion = trained.dataset("test"), trained.checkpoint.diffusion
    count = min(len(test), workshop.of(IMAGES, 16))
    images = test.take(np.arange(count) * len(test) // count)
    found = bound(trained.checkpoint.sampling_model(), diffusion, images, count, workshop.of(TERMS, 12))
    T, x0 = diffusion.schedule.T, data.to_unit(images.images)
    floors = {name: floor_of(Diffusion(Schedule.by_name(name, T)), x0) for name in FLOORS}
    first, last, each = (np.array(column) for column in zip(*found.ledger, strict=True))
    sums = found.parts["prior"] + np.cumsum(each * found.sizes)
    figure = style.new_figure(3.6)
    left, right = figure.subplots(1, 2)
    left.stairs(each, np.append(first, T) + 1, baseline=None, linewidth=1.8, **style.line(0))
    left.set(title="one step's term", ylabel="bits per dimension", xscale="log", yscale="log")
    right.plot(last + 1, sums, marker=".", label=f"the bound: {found.total:.2f}", **style.line(0))
    for number, (name, floor) in enumerate(floors.items(), 1):
        right.axhline(floor, label=f"floor of {name}: {floor:.2f}", **style.line(number))
    right.set(title="prior and all terms so far", ylabel="bits per dimension", xscale="log", ylim=(0, 1.25 * sums[-1]))
    right.legend(loc="upper left")
    for axes in (left, right):
        axes.set_xlabel("step, 1 is the decoder's")
    parts, half = found.parts, last[np.argmax(sums - sums[0] >= 0.5 * (sums[-1] - sums[0]))] + 1
    caption = (
        f"What images of {test.name} cost by a network with learned variances ({trained.at}, {count} test images): at "
        f"most {found.total:.3f} ± {found.error:.3f} bits per dimension. {parts['decoder']:.3f} of them are the "
        f"decoder's, step 1, {parts['prior']:.2g} the prior's, and {parts['between']:.3f} those of the steps between, "
        f"half of it within the first {half} of {T}. A network that knew each image would still pay the floor, for "
        "grey levels that the last noise mixes with their neighbours: "
        f"{floors['linear']:.3f} under linear, {floors['cosine']:.3f} under cosine.{workshop.said(test)}"
    )
    rows: list[Sequence[Any]] = [
        ("decoder" if begin == 0 else "between", begin + 1, end + 1, term, total)
        for begin, end, term, total in zip(first, last, each, sums, strict=True)
    ]
    rows += [
        ("prior", "", "", "", parts["prior"]),
        *((f"floor of {name}", "", "", "", b) for name, b in floors.items()),
    ]
    header = ("part", "first_step", "last_step", "bits_each", "bits_so_far")
    return [Plate("likelihood", style.to_png(figure), header, rows, caption)]
