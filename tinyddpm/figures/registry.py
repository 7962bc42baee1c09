"""All figures by name: what makes each, and the runs that it needs."""

from collections.abc import Callable
from typing import NamedTuple

from tinyddpm.checks import check_choice
from tinyddpm.figures import style
from tinyddpm.figures.comparisons import embedding, linear_against_cosine, losses_compared, simple_against_full
from tinyddpm.figures.forward_process import destruction, schedules
from tinyddpm.figures.likelihood import likelihood
from tinyddpm.figures.network_drawing import unet
from tinyddpm.figures.plate import Plate
from tinyddpm.figures.quality_figures import guidance, samplers
from tinyddpm.figures.samples import cars_128, cars_early_late, fashion_linear
from tinyddpm.figures.solvers import convergence
from tinyddpm.figures.training_images import training_samples
from tinyddpm.figures.workshop import Workshop


class Figure(NamedTuple):
    """draw: makes its plates. runs: by name of their recipes. The first line of draw's docstring says what it shows."""

    draw: Callable[[Workshop], list[Plate]]
    runs: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What it shows, in a line."""
        return (self.draw.__doc__ or "").partition("\n")[0].rstrip(".")


# In reading order
FIGURES: dict[str, Figure] = {
    "schedules": Figure(schedules),
    "destruction": Figure(destruction),
    "training-samples": Figure(training_samples),
    "unet": Figure(unet),
    "fashion-linear": Figure(fashion_linear, ("fashion-linear",)),
    "linear-against-cosine": Figure(linear_against_cosine, ("mnist-linear", "mnist-cosine")),
    "cars-early-late": Figure(cars_early_late, ("cars-64",)),
    "cars-128": Figure(cars_128, ("cars-128",)),
    "simple-against-full": Figure(simple_against_full, ("full", "simple")),
    "embedding": Figure(embedding, ("full", "input")),
    "losses": Figure(losses_compared, ("full", "huber", "l1")),
    "guidance": Figure(guidance, ("mnist",)),
    "samplers": Figure(samplers, ("mnist", "fashion-mnist")),
    "likelihood": Figure(likelihood, ("mnist",)),
    "convergence": Figure(convergence),
}


def figure(name: str) -> Figure:
    """The figure of that name. Raises InputError for another."""
    return FIGURES[check_choice("figure", name, tuple(FIGURES))]


def make(name: str, workshop: Workshop) -> list[Plate]:
    """Trains what the figure of that name needs and is not there, then draws it. Raises InputError for another name."""
    made = figure(name)
    for run in made.runs:
        workshop.ensure(run)
    with style.applied():
        return made.draw(workshop)
