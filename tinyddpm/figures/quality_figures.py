"""What scores of samples show: how good each sampler is in how many steps, and what guidance trades for what."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyddpm.evaluation.quality import Quality
from tinyddpm.figures import style
from tinyddpm.figures.measures import FULL_IMAGES, QUICK_IMAGES, scores
from tinyddpm.figures.plate import Plate
from tinyddpm.figures.samples import COLUMNS, steps
from tinyddpm.figures.workshop import Trained, Workshop
from tinyddpm.reporting.loss_curve import label_decades
from tinyddpm.samplers import DEFAULT_SPACING, SAMPLERS

SCALES = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0)
# Which are drawn in how many steps: euler is ddim, and more than a hundred steps of all would take hours
SOLVERS = tuple(name for name in SAMPLERS if name != "euler")
SAMPLER_STEPS = {
    **dict.fromkeys((5, 10, 20, 50, 100), SOLVERS),
    250: ("ddpm", "ddim"),
    1000: ("ddpm",),
}
LONG = "In more than 100 steps ddpm and ddim are drawn alone, in 1000 ddpm. "
# More than the classifiers have features, and a number whose thousand steps on two networks end within the hour
SAMPLER_IMAGES = 384
# Steps at which the caption names the best
FEW = 20
MEASURED = ("frechet", "real_frechet", "precision", "recall", "recognised", "accuracy", "images")


def samplers(workshop: Workshop) -> list[Plate]:
    """The Fréchet distance of every sampler in 5 to 1000 steps on two networks, beside that of real images."""
    count = workshop.of(SAMPLER_IMAGES, QUICK_IMAGES)
    runs = [workshop.trained(name) for name in ("mnist", "fashion-mnist")]
    figure = style.new_figure(4.4)
    panels = figure.subplots(1, len(runs))
    rows: list[Sequence[Any]] = []
    told = []
    for axes, trained in zip(panels, runs, strict=True):
        found = sampled(trained, count, list(SAMPLER_STEPS)[: workshop.of(len(SAMPLER_STEPS), 3)])
        for number, name in enumerate(SOLVERS):
            own = {each: score.samples.frechet for (sampler, each), score in found.items() if sampler == name}
            axes.plot(list(own), list(own.values()), marker=".", label=name, **style.line(number))
        draws, numbers = next(iter(found.values())).real_draws, sorted({each for _, each in found})
        axes.axhspan(min(draws), max(draws), color=style.GREY, alpha=0.2, linewidth=0)
        axes.axhline(np.mean(draws), color=style.GREY, linewidth=1, label="real images")
        axes.set(title=f"{trained.recipe.data}, {trained.at}", xlabel="steps", xscale="log", yscale="log")
        axes.set_xticks(numbers, [str(each) for each in numbers])
        axes.minorticks_off()
        label_decades(axes)
        rows += [(trained.name, name, each, *measured(score)) for (name, each), score in found.items()]
        told.append(f"{trained.recipe.data}: {bests(found, (min(FEW, numbers[-1]), numbers[-1]))}")
    panels[0].set_ylabel("Fréchet distance, in classifier features")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(SOLVERS) + 1)
    caption = (
        f"Quality against steps for every sampler: the Fréchet distance of {count} samples a point from the test "
        "images, from the same noise. Grey are as many training images, the least to hope for at this number: their "
        "mean, and as a band several draws of them, whose width tells how much of a distance is chance. Timesteps are "
        f"spaced {DEFAULT_SPACING}; heun calls the network twice a step; euler is ddim, and drawn once. "
        f"{workshop.of(1, 0) * LONG}{'; '.join(told)}.{workshop.said(runs[0].dataset())}"
    )
    header = ("run", "sampler", "steps", *MEASURED)
    return [Plate("samplers", style.to_png(figure), header, rows, caption)]


def sampled(trained: Trained, count: int, numbers: Sequence[int]) -> dict[tuple[str, int], Quality]:
    """The scores of each sampler in each of these numbers of steps; what takes longest comes last."""
    return {
        (name, each): scores(trained, trained.samples(count, each, sampler=name))
        for each in numbers
        for name in SAMPLER_STEPS[each]
    }


def bests(found: dict[tuple[str, int], Quality], numbers: Sequence[int]) -> str:
    """The best sampler in each of these numbers of steps, and what real images score, in words."""

    def distance(key: tuple[str, int]) -> float:
        return found[key].samples.frechet or np.inf

    best = [min((key for key in found if key[1] == each), key=distance) for each in dict.fromkeys(numbers)]
    real = next(iter(found.values())).real.frechet
    words = [f"at {each} steps the best is {name} with {distance((name, each)):.3g}" for name, each in best]
    return f"{', '.join(words)}, and real images have {real:.3g}"


def measured(score: Quality) -> tuple[Any, ...]:
    """The numbers of a quality that tables have."""
    own, shares = score.samples, score.sample_shares
    values = (own.frechet, score.real.frechet, own.precision, own.recall, shares.recognised, shares.accuracy)
    return *("" if value is None else value for value in values), own.images


def guidance(workshop: Workshop) -> list[Plate]:
    """Every class at every guidance scale, and what guidance trades: precision against recall."""
    trained = workshop.trained("mnist")
    dataset, count = trained.dataset(), workshop.of(FULL_IMAGES, QUICK_IMAGES)
    images = {scale: trained.samples(count, steps(workshop), guidance=scale) for scale in SCALES}
    found = {scale: scores(trained, drawn) for scale, drawn in images.items()}
    figure = style.new_figure(3.5)
    left, right = figure.subplots(1, 2, width_ratios=(1.45, 1))
    style.show_images(left, np.concatenate([drawn[:COLUMNS] for drawn in images.values()]), COLUMNS)
    height, width = dataset.images.shape[1:3]
    style.label_rows(left, [f"{scale:g}" for scale in SCALES], height)
    style.label_columns(left, dataset.class_names or (), width)
    left.set_title("guidance scale by class", pad=18)
    recalls = [score.samples.recall for score in found.values()]
    precisions = [score.samples.precision for score in found.values()]
    right.plot(recalls, precisions, marker="o", markersize=4, **style.line(0))
    for scale, x, y in zip(SCALES, recalls, precisions, strict=True):
        right.annotate(f"{scale:g}", (x, y), (4, 4), textcoords="offset points")
    real = found[1.0].real
    right.plot(real.recall, real.precision, "*", color=style.GREY, markersize=10)
    right.annotate("real images", (real.recall, real.precision), (6, -12), textcoords="offset points", color=style.GREY)
    right.set(title="fidelity against diversity", xlabel="recall", ylabel="precision")
    told = [
        f"at {scale:g} precision {score.samples.precision:.2f}, recall {score.samples.recall:.2f}, class as asked "
        f"{score.sample_shares.accuracy:.1%}"
        for scale, score in found.items()
        if scale in (1.0, 2.0, 5.0)
    ]
    caption = (
        f"Classifier-free guidance on {dataset.name} at {trained.at}, a column for each class, a row for each scale, "
        "from the same noise: at 0 the label is ignored, at 1 it is obeyed, above it is exaggerated. Guidance "
        f"gives up diversity (recall) and should win fidelity (precision). Measured on {count} samples a scale: "
        f"{'; '.join(told)}.{workshop.said(dataset)}"
    )
    rows = [(scale, *measured(score)) for scale, score in found.items()]
    return [Plate("guidance", style.to_png(figure), ("scale", *MEASURED), rows, caption)]
