"""A set of images in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tinyddpm.checks import told
from tinyddpm.data.summary import WHOLE, Summary, of_arrays, quoted
from tinyddpm.errors import InputError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with optional class labels.

    name: what the set was loaded as, for titles and messages.
    images: (N, H, W, C) uint8, C = 1 (grey) or 3 (RGB).
    labels: (N,) int64 in 0 … num_classes-1, or None.
    class_names: the name of each class, or None.
    notes: warnings about what was left out while loading, each with its count, ready to be shown.
    source: a summary of what the images were loaded from, or None; see `summary`.

    Raises InputError if the arrays do not have these shapes, dtypes and ranges.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    source: Summary | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for what in ("images", *(() if self.labels is None else ("labels",))):
            if not isinstance(getattr(self, what), np.ndarray):
                raise InputError(f"{what} must be a NumPy array, got {told(getattr(self, what))}")
        if not isinstance(self.name, str):
            raise InputError(f"a set's name must be a text, got {told(self.name)}")
        if not isinstance(self.class_names, tuple | None):
            raise InputError(f"class_names must be a tuple of texts, or None, got {told(self.class_names)}")
        shape = self.images.shape
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or shape[-1] not in (1, 3):
            seen = f"{self.images.dtype} of shape {shape}"
            raise InputError(f"images are {seen}; give uint8 of shape (N, H, W, C) with C = 1 or 3")
        if self.labels is None:
            return
        if self.labels.dtype != np.int64 or self.labels.shape != shape[:1]:
            seen = f"{self.labels.dtype} of shape {self.labels.shape}"
            raise InputError(f"labels are {seen}; give int64 of shape {shape[:1]}, one for each image")
        if len(self.labels) == 0:
            return
        lowest, highest = self.labels.min(), self.labels.max()
        if lowest < 0 or (self.class_names is not None and highest >= len(self.class_names)):
            accepted = "at least 0" if self.class_names is None else f"in 0 … {len(self.class_names) - 1}"
            raise InputError(f"labels run from {lowest} to {highest}; each must be {accepted}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int | None:
        """The number of classes, with images here or without; None for a set without labels."""
        if self.labels is None:
            return None
        if self.class_names is not None:
            return len(self.class_names)
        return int(self.labels.max(initial=-1)) + 1

    def named_classes(self, most: int = 12) -> str:
        """The labels with the names of their classes, such as "0 cat, 1 dog"; of many, the first and the last.

        Names that are the labels themselves, as of digits, are told once.
        """
        names = tuple(self.class_names or ())
        if len(names) > 2 and names == tuple(map(str, range(len(names)))):
            return f"0 … {len(names) - 1}"
        labelled = [f"{label} {name}" for label, name in enumerate(self.class_names or ())]
        return ", ".join(labelled if len(labelled) <= most else [*labelled[: most - 2], "…", labelled[-1]])

    @property
    def summary(self) -> Summary:
        """Counts, classes and a digest: of what the images were loaded from, otherwise of these arrays."""
        return self.source or of_arrays(self.images, self.labels, self.class_names, WHOLE)

    def with_classes(self, class_names: tuple[str, ...]) -> "Dataset":
        """The same images with labels that count in `class_names`, an order of all the set's classes and maybe more.

        Raises InputError for a set without named classes, or if one of them is not among `class_names`.
        """
        if self.labels is None or self.class_names is None:
            raise InputError(f"{self.name} has no named classes, so they cannot become {quoted(class_names)}")
        if self.class_names == class_names:
            return self
        unknown = [name for name in self.class_names if name not in class_names]
        if unknown:
            raise InputError(
                f"{self.name} has the classes {quoted(unknown)}, which are not among {quoted(class_names)}"
            )
        new_label = np.array([class_names.index(name) for name in self.class_names], np.int64)
        return replace(
            self,
            labels=new_label[self.labels],
            class_names=class_names,
            source=self.source and self.source.with_classes(class_names),
        )

    def take(self, indices: Sequence[int] | np.ndarray) -> "Dataset":
        """The set of the images at `indices`, in that order; repeats are allowed.

        indices: (M,) integers in 0 … N-1. Raises InputError for others.
        """
        chosen = np.asarray(indices)
        if chosen.size == 0:
            chosen = chosen.astype(np.int64)
        if chosen.ndim != 1 or not np.issubdtype(chosen.dtype, np.integer):
            raise InputError(f"indices are {chosen.dtype} of shape {chosen.shape}; give a list of integers")
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= len(self)):
            seen = f"{chosen.min()} to {chosen.max()}"
            raise InputError(f"indices run from {seen}; {self.name} has images 0 … {len(self) - 1}")
        labels = None if self.labels is None else self.labels[chosen]
        return replace(self, images=self.images[chosen], labels=labels, source=None)
