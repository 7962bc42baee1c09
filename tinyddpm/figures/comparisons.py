"""Trainings that differ in one thing: the schedule, the network, where the time enters, the loss."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tinyddpm.evaluation.quality import Quality
from tinyddpm.figures import style
from tinyddpm.figures.measures import fidelity, in_words, losses, mean_loss, step_seconds
from tinyddpm.figures.plate import Plate
from tinyddpm.figures.samples import COLUMNS, steps
from tinyddpm.figures.workshop import Trained, Workshop
from tinyddpm.reporting.loss_curve import label_decades

# Epochs 9 and 12 of the runs on MNIST
SHARES = (9 / 12, 1.0)


def linear_against_cosine(workshop: Workshop) -> list[Plate]:
    """MNIST with the linear schedule at epoch 9 and cosine at epoch 12, and each at the other's epoch."""
    runs = {"linear": "mnist-linear", "cosine": "mnist-cosine"}
    looks = [(name, workshop.trained(run, share)) for share in SHARES for name, run in runs.items()]
    images_high = workshop.of(4, 2)
    figure = style.new_figure(2.7 + 2 * (0.3 + 0.39 * images_high))
    heights = (0.3 + 0.39 * images_high, 0.3 + 0.39 * images_high, 2.7)
    panels = figure.subplot_mosaic([["a", "b"], ["c", "d"], ["loss", "loss"]], height_ratios=heights)
    rows: list[Sequence[Any]] = []
    told = []
    for number, (key, (name, trained)) in enumerate(zip("abcd", looks, strict=True)):
        images, found = trained.samples(images_high * COLUMNS, steps(workshop)), losses(trained)
        score = fidelity(trained, steps(workshop))
        distances = ("", "") if score is None else (score.samples.frechet, score.frechet_ratio)
        title = f"{name}, {trained.at}"
        scored = f", Fréchet distance {distances[0]:.3g}" if distances[0] else ""
        style.show_images(panels[key], images, COLUMNS, f"{title}{scored}")
        ratios = [(1 - row.alpha_bar) / row.alpha_bar for row in found]
        look = {**style.line(number % 2), "linestyle": style.DASHES[1 - number // 2]}
        panels["loss"].plot(ratios, [row.loss for row in found], marker=".", label=title, **look)
        rows += [
            (name, trained.epoch, row.t, row.alpha_bar, 1 / ratio, row.loss, *distances)
            for row, ratio in zip(found, ratios, strict=True)
        ]
        told.append(f"{name} at {trained.at}: mean loss {mean_loss(found):.4f}{in_words(score)}")
    # The last step of cosine is noise alone, orders of magnitude away
    panels["loss"].set(title="test loss at equal noise", xscale="log", yscale="log", xlim=(3e-5, 1e5))
    panels["loss"].set(xlabel="noise to signal, (1 - alpha_bar) / alpha_bar", ylabel="mse of the noise")
    panels["loss"].legend()
    dataset = looks[0][1].dataset()
    caption = (
        f"{dataset.name}, linear against cosine: the same network, seed, noise and number of steps, at two epochs. "
        "Schedules put their steps at different noise, so losses compare at equal noise (below), not by their means. "
        f"Measured: {'; '.join(told)}.{workshop.said(dataset)}"
    )
    header = ("schedule", "epoch", "t", "alpha_bar", "snr", "test_loss", "frechet", "frechet_ratio")
    return [Plate("linear-against-cosine", style.to_png(figure), header, rows, caption)]


def simple_against_full(workshop: Workshop) -> list[Plate]:
    """The simple U-Net, time at the first input, against the full one: at equal parameters and at equal time."""
    curves = compared(workshop, {"full U-Net": "full", "simple U-Net": "simple"})
    until = min(curve.seconds[-1] for curve in curves)
    equal = [f"{float(np.interp(until, curve.seconds, curve.losses)):.4f} for the {curve.name}" for curve in curves]
    what = (
        f"The simple U-Net against the full one at about equal parameters: {parameters(curves)}. At equal epochs "
        f"(left) the test loss ends at {ends(curves)}; at equal time (right), after {until:.0f} s, it is "
        f"{', '.join(equal)}."
    )
    return [plate(workshop, "simple-against-full", curves, what)]


def embedding(workshop: Workshop) -> list[Plate]:
    """The time in every block against the time at the first input alone, all else equal."""
    curves = compared(workshop, {"in every block": "full", "first input only": "input"})
    what = (
        "The full U-Net told the time in every block, and once, after its first convolution, all else equal. "
        f"Parameters: {parameters(curves)}. The test loss ends at {ends(curves)}."
    )
    return [plate(workshop, "embedding", curves, what)]


def losses_compared(workshop: Workshop) -> list[Plate]:
    """Trained with huber, mse and l1; all measured in mse."""
    curves = compared(workshop, {"mse": "full", "huber": "huber", "l1": "l1"})
    what = (
        "One network trained with three losses, all measured by the mean squared error on test images. It ends at "
        f"{ends(curves)}. L1 is least at the median of the noise, mse at its mean, and huber is between."
    )
    return [plate(workshop, "losses", curves, what)]


class Curve(NamedTuple):
    """A run over its checkpoints: epochs, seconds of training by then, test loss; and the score of its last samples."""

    name: str
    runs: list[Trained]
    epochs: list[float]
    seconds: list[float]
    losses: list[float]
    score: Quality | None


def compared(workshop: Workshop, names: dict[str, str]) -> list[Curve]:
    """The curves of runs, by what each is called in the figure."""
    histories = {name: workshop.history(run) for name, run in names.items()}
    seconds = step_seconds([history[-1] for history in histories.values()])
    return [
        Curve(
            name,
            history,
            [trained.epoch for trained in history],
            [each * trained.step for trained in history],
            [mean_loss(losses(trained)) for trained in history],
            fidelity(history[-1], steps(workshop)),
        )
        for (name, history), each in zip(histories.items(), seconds, strict=True)
    ]


def plate(workshop: Workshop, name: str, curves: list[Curve], what: str) -> Plate:
    """The loss of each run over epochs and over seconds, and samples of each at its end, from the same noise."""
    across, down = 15, workshop.of(2, 1)
    below = 0.2 + 0.5 * down * len(curves)
    figure = style.new_figure(3.0 + below)
    panels = figure.subplot_mosaic([["left", "right"], ["images", "images"]], height_ratios=(3.0, below))
    for number, curve in enumerate(curves):
        panels["left"].plot(curve.epochs, curve.losses, marker=".", label=curve.name, **style.line(number))
        panels["right"].plot(curve.seconds, curve.losses, marker=".", **style.line(number))
    panels["left"].set(title="at equal epochs", xlabel="epoch", ylabel="test loss (mse of the noise)", yscale="log")
    panels["right"].set(title="at equal time", xlabel="seconds of training steps", yscale="log")
    panels["right"].sharey(panels["left"])
    label_decades(panels["left"])
    panels["left"].legend()
    images = [curve.runs[-1].samples(across * down, steps(workshop)) for curve in curves]
    style.show_images(panels["images"], np.concatenate(images), across)
    height = down * (images[0].shape[1] + 2) - 2
    style.label_rows(panels["images"], [curve.name for curve in curves], height)
    dataset = curves[0].runs[0].dataset()
    header = ("run", "parameters", "step", "epoch", "seconds", "test_loss", "frechet")
    rows = [
        (curve.name, trained.parameters, trained.step, *values, frechet_of(curve) if trained is curve.runs[-1] else "")
        for curve in curves
        for trained, *values in zip(curve.runs, curve.epochs, curve.seconds, curve.losses, strict=True)
    ]
    return Plate(name, style.to_png(figure), header, rows, f"{what}{workshop.said(dataset)}")


def frechet_of(curve: Curve) -> Any:
    """The Fréchet distance of its last samples, or nothing."""
    return "" if curve.score is None or curve.score.samples.frechet is None else curve.score.samples.frechet


def parameters(curves: list[Curve]) -> str:
    """How many each has, in words."""
    return ", ".join(f"{curve.runs[-1].parameters:,} ({curve.name})" for curve in curves)


def ends(curves: list[Curve]) -> str:
    """The last loss of each and the score of its samples, in words."""
    return "; ".join(f"{curve.losses[-1]:.4f} for {curve.name}{in_words(curve.score)}" for curve in curves)
