"""The training images as the model sees them: sized, padded or cropped, in [-1, 1]."""

import numpy as np

from tinyddpm import data
from tinyddpm.figures import style
from tinyddpm.figures.plate import Plate
from tinyddpm.figures.workshop import Workshop

ROWS, COLUMNS = 4, 10
# As the recipes of the figures train on them
SETS = {"mnist": 28, "fashion-mnist": 28, "stanford-cars": 64}


def training_samples(workshop: Workshop) -> list[Plate]:
    """A plate of images for MNIST, Fashion-MNIST and the cars."""
    return [samples_of(workshop, name, side) for name, side in SETS.items()]


def samples_of(workshop: Workshop, name: str, side: int) -> Plate:
    """Images of one set: where it has ten classes a column for each, otherwise one in turn from the whole set."""
    dataset = workshop.dataset(name, side, color=name == "stanford-cars")
    by_class = dataset.labels is not None and dataset.num_classes == COLUMNS
    if by_class:
        chosen = [int(np.flatnonzero(dataset.labels == label)[row]) for row in range(ROWS) for label in range(COLUMNS)]
    else:
        chosen = np.linspace(0, len(dataset) - 1, ROWS * COLUMNS).round().astype(int).tolist()
    images = dataset.images[chosen]
    height, width, channels = images.shape[1:]
    figure = style.new_figure(3.6)
    axes = figure.add_subplot()
    style.show_images(axes, images, COLUMNS)
    names = dataset.class_names or ()
    if by_class:
        style.label_columns(axes, names, width, size=8.5)
    values = data.to_unit(images).reshape(len(images), -1)
    labels = [None] * len(chosen) if dataset.labels is None else dataset.labels[chosen].tolist()
    rows = [
        (number, "" if label is None else label, "" if label is None or not names else names[label], *measured)
        for number, label, measured in zip(chosen, labels, moments(values), strict=True)
    ]
    counts = np.sum([np.bincount(part.ravel(), minlength=256) for part in np.array_split(dataset.images, 100)], axis=0)
    levels = data.to_unit(np.arange(256, dtype=np.uint8)).astype(np.float64)
    mean = np.average(levels, weights=counts)
    deviation = np.average((levels - mean) ** 2, weights=counts) ** 0.5
    caption = (
        f"{dataset.name} as the model sees it: {height} × {width} × {channels} in [-1, 1], {len(dataset):,} training "
        f"images, {'a column for each class' if by_class else 'some from the whole set'}. Pixels have mean {mean:.3f} "
        f"and standard deviation {deviation:.3f}; {counts[0] / np.sum(counts):.1%} of them are "
        f"exactly -1, black.{workshop.said(dataset)}"
    )
    header = ("image", "label", "class", "mean", "standard_deviation", "least", "most")
    # By the name that was asked for: a set may stand in for it
    return Plate(f"training-samples-{name}", style.to_png(figure), header, rows, caption)


def moments(values: np.ndarray) -> list[tuple[float, float, float, float]]:
    """Mean, standard deviation, least and most of each row."""
    return [(float(v.mean()), float(v.std()), float(v.min()), float(v.max())) for v in values]
