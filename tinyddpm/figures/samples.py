"""Samples of one run: Fashion-MNIST under the linear schedule, cars early and late, cars at 128x128."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyddpm.data import to_unit
from tinyddpm.figures import style
from tinyddpm.figures.measures import fidelity, in_words, losses, mean_loss, peak_bytes, step_seconds
from tinyddpm.figures.plate import Plate
from tinyddpm.figures.training_images import moments
from tinyddpm.figures.workshop import Trained, Workshop
from tinyddpm.generation.labels import labels_of
from tinyddpm.samplers import DEFAULT_SAMPLER, DEFAULT_STEPS

COLUMNS = 10
LEVELS_TOLD = "ten noise levels"
HEADER = ("run", "epoch", "sample", "label", "mean", "standard_deviation", "least", "most", "test_loss")


def steps(workshop: Workshop) -> int:
    """How many the sampler takes where a figure shows samples."""
    return workshop.of(DEFAULT_STEPS, 10)


def sample_rows(trained: Trained, images: np.ndarray, loss: float) -> list[Sequence[Any]]:
    """What the table says of each sample; loss: of the network on test images."""
    labels = labels_of(len(images), trained.checkpoint.model.config.num_classes)
    return [
        (trained.name, trained.epoch, i, "" if labels is None else int(labels[i]), *measured, loss)
        for i, measured in enumerate(moments(to_unit(images).reshape(len(images), -1)))
    ]


def fashion_linear(workshop: Workshop) -> list[Plate]:
    """Fashion-MNIST with the linear schedule at epoch 5."""
    trained = workshop.trained("fashion-linear")
    dataset, count = trained.dataset(), workshop.of(4, 2) * COLUMNS
    images, loss = trained.samples(count, steps(workshop)), mean_loss(losses(trained))
    figure = style.new_figure(0.6 + 0.78 * count // COLUMNS)
    axes = figure.add_subplot()
    style.show_images(axes, images, COLUMNS)
    style.label_columns(axes, dataset.class_names or (), images.shape[2], size=8.5)
    caption = (
        f"{dataset.name}, linear schedule, at {trained.at}: {trained.parameters:,} parameters, "
        f"{steps(workshop)} steps of {DEFAULT_SAMPLER}, a column for each class. Look for whole outlines first, then "
        "for sleeves, heels and straps. "
        f"Mean test loss over {LEVELS_TOLD}: {loss:.4f}{in_words(fidelity(trained, steps(workshop)))}."
        f"{workshop.said(dataset)}"
    )
    return [Plate("fashion-linear", style.to_png(figure), HEADER, sample_rows(trained, images, loss), caption)]


def cars_early_late(workshop: Workshop) -> list[Plate]:
    """Cars in colour with the linear schedule, early and late in training."""
    stages = [workshop.trained("cars-64", 1 / 8), workshop.trained("cars-64")]
    count = workshop.of(24, 12)
    figure = style.new_figure(4.1 if count == 24 else 2.3)
    rows: list[Sequence[Any]] = []
    told = []
    for axes, trained in zip(figure.subplots(1, 2), stages, strict=True):
        images, loss = trained.samples(count, steps(workshop)), mean_loss(losses(trained))
        style.show_images(axes, images, 6 if count < 24 else 5, f"{trained.at} (step {trained.step:,})")
        rows += sample_rows(trained, images, loss)
        told.append(f"{loss:.4f} at {trained.at}")
    dataset = stages[0].dataset()
    height, width, _ = dataset.images.shape[1:]
    caption = (
        f"{dataset.name} at {height} × {width} in colour, linear schedule, early and late in one training, from the "
        "same noise. Ground, sky and one dark mass come first, wheels and windows later. Mean test loss over "
        f"{LEVELS_TOLD}: {', '.join(told)}.{workshop.said(dataset)}"
    )
    return [Plate("cars-early-late", style.to_png(figure), HEADER, rows, caption)]


def cars_128(workshop: Workshop) -> list[Plate]:
    """Cars at 128x128: that they train and sample, and what that takes."""
    trained = workshop.trained("cars-128")
    count, dataset = 8, trained.dataset()
    (seconds,) = step_seconds([trained])
    begun = time.perf_counter()
    # One image, drawn at each making: the others may be there already
    trained.draw(1, steps(workshop))
    sampling = time.perf_counter() - begun
    # A device's memory is not the process's
    peak = None if trained.checkpoint.model.backend.capacity() else peak_bytes(trained)
    images = trained.samples(count, steps(workshop))
    height, width, _ = images.shape[1:]
    figure = style.new_figure(4.1)
    style.show_images(figure.add_subplot(), images, 4)
    measured = {
        "parameters": trained.parameters,
        "batch size": trained.training.batch_size,
        "steps taken": trained.step,
        "epochs taken": round(trained.epoch, 3),
        "seconds of a training step": seconds,
        f"seconds to draw one image in {steps(workshop)} steps": sampling,
        "peak memory of training in MB": "" if peak is None else peak / 1e6,
        "mean test loss": mean_loss(losses(trained)),
    }
    memory = "" if peak is None else f" and {peak / 1e6:,.0f} MB of memory at the peak"
    caption = (
        f"{dataset.name} at {height} × {width} at {trained.at}: {trained.parameters:,} parameters. A training step of "
        f"{trained.training.batch_size} images takes {seconds:.2f} s{memory}, one image in {steps(workshop)} steps of "
        f"{DEFAULT_SAMPLER} {sampling:.1f} s. Look whether left and right of a car belong together: at this size only "
        f"the deepest level sees a car whole.{workshop.said(dataset)}"
    )
    return [Plate("cars-128", style.to_png(figure), ("quantity", "value"), list(measured.items()), caption)]
