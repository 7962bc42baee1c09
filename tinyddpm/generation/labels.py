"""Labels of samples, and what their classes are called."""

import numpy as np

from tinyddpm.errors import InputError
from tinyddpm.training.checkpoint import Checkpoint
from tinyddpm.training.run_data import known_data


def class_names(checkpoint: Checkpoint) -> tuple[str, ...] | None:
    """The names of the model's classes in the order of its labels; None where it has no classes, or no names."""
    known, classes = known_data(checkpoint), checkpoint.model.config.num_classes
    names = None if known is None else known.classes
    return names if names is not None and len(names) == classes else None


def label_of(text: str, checkpoint: Checkpoint) -> int:
    """The label that a text means: the name of a class, otherwise its number, which may be out of range.

    Raises InputError for what is neither.
    """
    names = class_names(checkpoint)
    if names is not None and text in names:
        return names.index(text)
    try:
        return int(text)
    except ValueError:
        classes = checkpoint.model.config.num_classes
        if classes is None:
            accepted = "none (the model was trained without classes)"
        else:
            accepted = f"0 … {classes - 1}" + ("" if names is None else f", or a name of {', '.join(names)}")
        raise InputError(f"{text!r} is not a label of this model; accepted: {accepted}") from None


def labels_of(count: int, classes: int | None, label: int | None = None) -> np.ndarray | None:
    """The labels of that many samples, (count,) int64: every one in turn, or `label` alone; None without classes."""
    if classes is None:
        return None
    return np.arange(count) % classes if label is None else np.full(count, label)


def captions(labels: np.ndarray | None, names: tuple[str, ...] | None) -> list[str] | None:
    """What to write under samples of these labels: the names of their classes, or the labels that have none."""
    if labels is None:
        return None
    return [names[label] if names is not None and label < len(names) else str(label) for label in labels]
