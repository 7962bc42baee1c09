"""What scores of samples show: how good each sampler is in how many steps, and what guidance trades for what."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyddpm.evaluation.quality import Quality
from tinyddpm.figures import style
from tinyddpm.figures.measures import FULL_IMAGES, QUICK_IMAGES, scores
from tinyddpm.figures.plate import Plate
from tinyddpm.figures.samples import COLUMNS, steps
from tinyddpm.figures.workshop import Workshop
from tinyddpm.reporting.loss_curve import label_decades
from tinyddpm.samplers import DEFAULT_SPACING, SAMPLERS

SCALES = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0)
SAMPLER_STEPS = (5, 10, 20, 50, 100, 250, 1000)
# More than the classifier has features, and a number whose thousand steps end within a quarter of an hour
SAMPLER_IMAGES = 640
MEASURED = ("frechet", "real_frechet", "precision", "recall", "recognised", "accuracy", "images")


def samplers(workshop: Workshop) -> list[Plate]:
    """The Fréchet distance of every sampler in 5 to 1000 steps, beside that of real images."""
    trained = workshop.trained("mnist-cosine")
    count = workshop.of(SAMPLER_IMAGES, QUICK_IMAGES)
    numbers = SAMPLER_STEPS[:3] if workshop.quick else SAMPLER_STEPS
    figure = style.new_figure(4.2)
    axes = figure.add_subplot()
    rows: list[Sequence[Any]] = []
    for number, name in enumerate(SAMPLERS):
        found = [scores(trained, trained.samples(count, each, sampler=name)) for each in numbers]
        axes.plot(numbers, [score.samples.frechet for score in found], marker=".", label=name, **style.line(number))
        rows += [(name, each, *measured(score)) for each, score in zip(numbers, found, strict=True)]
    real = rows[-1][3]
    axes.axhline(real, color=style.GREY, linewidth=1)
    axes.text(numbers[0], real, "real images", va="bottom", color=style.GREY)
    axes.set(xlabel="steps", ylabel="Fréchet distance, in classifier features", xscale="log", yscale="log")
    axes.set_xticks(numbers, [str(each) for each in numbers])
    axes.minorticks_off()
    label_decades(axes)
    axes.legend(ncols=2)
    few = numbers[len(numbers) // 2 - 1]
    best = min((row for row in rows if row[1] == few), key=lambda row: row[2])
    longest = min((row for row in rows if row[1] == numbers[-1]), key=lambda row: row[2])
    dataset = trained.dataset()
    caption = (
        f"Quality against steps for every sampler, on one network ({dataset.name}, {trained.at}): the Fréchet distance "
        f"of {count} samples from the test images, and of as many training images (grey), which is the least to hope "
        f"for at this number. Timesteps are spaced {DEFAULT_SPACING}; heun calls the network twice a step. At {few} "
        f"steps the best is {best[0]} with {best[2]:.3g}; at {numbers[-1]} steps {longest[0]} with {longest[2]:.3g}; "
        f"real images have {real:.3g}."
        f"{workshop.said(dataset)}"
    )
    header = ("sampler", "steps", *MEASURED)
    return [Plate("samplers", style.to_png(figure), header, rows, caption)]


def measured(score: Quality) -> tuple[Any, ...]:
    """The numbers of a quality that tables have."""
    own, shares = score.samples, score.sample_shares
    values = (own.frechet, score.real.frechet, own.precision, own.recall, shares.recognised, shares.accuracy)
    return *("" if value is None else value for value in values), own.images


def guidance(workshop: Workshop) -> list[Plate]:
    """Every class at every guidance scale, and what guidance trades: precision against recall."""
    trained = workshop.trained("mnist-cosine")
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
