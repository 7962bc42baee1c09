"""A run's data, loaded again: noticing that they changed, and keeping the meaning of its labels."""

from dataclasses import replace
from pathlib import Path

from tinyddpm import data
from tinyddpm.data.summary import Summary, quoted
from tinyddpm.errors import InputError, MissingDataError
from tinyddpm.training.checkpoint import Checkpoint
from tinyddpm.training.run_config import DataConfig, RunConfig

# The entry of a checkpoint's extra values that holds the summary of its training data
ENTRY = "data"


def known_data(checkpoint: Checkpoint) -> Summary | None:
    """What the training data were; None for a checkpoint of an earlier version, or not of a run."""
    values = checkpoint.extra.get(ENTRY)
    try:
        return None if values is None else Summary.from_dict(values)
    except (InputError, TypeError):
        return None  # someone's own entry of that name


def load_again(config: RunConfig, known: Summary | None, split: str = "train", accept: bool = False) -> data.Dataset:
    """The images of a run, of the model's size and colour; a label means the class that it meant in training.

    known: what the data were then. accept: take other images of the same classes, or of fewer; a model without
    classes takes any. Raises InputError that names what changed, MissingDataError where the data are not found.
    """
    dataset = load(config, split)
    classes = config.model.num_classes
    names = None if known is None else known.classes
    if known is None and config.data.name not in data.NAMES and dataset.class_names is not None:
        # Earlier versions ordered the classes of a folder as texts, and kept no names
        names = tuple(sorted(dataset.class_names))
    if names and dataset.class_names and set(dataset.class_names) <= set(names):
        dataset = dataset.with_classes(names)
    change = "" if known is None else known.change(dataset.summary)
    if change and not accept:
        raise InputError(
            f"the data changed: {change}; put them back, give their new place by --data or --data-dir, "
            "or go on with --accept-data"
        )
    check_labels(dataset, classes, names)
    return dataset


def load(config: RunConfig, split: str) -> data.Dataset:
    """The images, of the model's size and colour. Raises MissingDataError that says how to give another place."""
    try:
        return as_model(config).load(split)
    except MissingDataError as error:
        raise MissingDataError(f"{error}; if the data have moved, give their place by --data or --data-dir") from error


def as_model(config: RunConfig) -> DataConfig:
    """The config of the data with the size and colour of the model, which they keep whatever images join them."""
    height, width = config.model.size
    size, colour = config.data.image_size, config.data.color
    if size is None:
        size = height if height == width else (height, width)
    if colour is None:
        colour = {1: False, 3: True}.get(config.model.in_channels)
    return replace(config.data, image_size=size, color=colour)


def check_apart(config: DataConfig, output: Path, run: Path | None = None) -> None:
    """Raises InputError where pictures written to `output` would be training images of the next run on these data.

    run: the folder of a run, which is left out of the data wherever it is.
    """
    if config.name in data.NAMES:
        return
    place, images = output.resolve(), Path(config.name).resolve()
    if place.is_relative_to(images) and not (run is not None and place.is_relative_to(run.resolve())):
        raise InputError(f"{output} would be among the training images in {images}; choose a place outside")


def check_labels(dataset: data.Dataset, classes: int | None, names: tuple[str, ...] | None = None) -> None:
    """Raises InputError unless a model of that many classes, with these names if known, has a label for every image."""
    if classes is None:
        return
    if dataset.num_classes is None:
        raise InputError(f"the model was made for {classes} classes, and {dataset.name} has no class labels")
    if names is not None and dataset.class_names is not None:
        unknown = [name for name in dataset.class_names if name not in names]
        if unknown:
            raise InputError(
                f"the model has no label for {'class' if len(unknown) == 1 else 'classes'} {quoted(unknown)}, only for "
                f"{quoted(names)}; take these images out, or start a new run"
            )
    if dataset.num_classes > classes:
        raise InputError(
            f"{dataset.name} has {dataset.num_classes} classes, the model labels for {classes}; "
            "take images out, or start a new run"
        )
