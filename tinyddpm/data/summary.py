"""What a data set was, in few words, so that a change of it can be noticed and named."""

import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from tinyddpm.checks import JsonConfig, check_whole, settle
from tinyddpm.errors import InputError

WHOLE = "whole"


@dataclass(frozen=True)
class Summary(JsonConfig):
    """How many images there are of which classes, and a digest of them.

    images: how many. classes: their names in the order of the labels, or None. counts: images of each class, or
    None. digest: of the names and sizes of files, or of arrays. split: what images, counts and digest are of,
    "train" or "test"; "whole" for a folder, whose splits are drawn from all of its files and change with any of them.
    Raises InputError for values of other types.
    """

    images: int
    classes: tuple[str, ...] | None
    counts: tuple[int, ...] | None
    digest: str
    split: str = WHOLE

    def __post_init__(self) -> None:
        settle(self, "images", check_whole, 0)
        for name, kind in (("classes", str), ("counts", int)):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, tuple) and all(isinstance(each, kind) for each in value)):
                raise InputError(f"{name} of a data set must be a list of {kind.__name__}, got {value!r}")
        for name in ("digest", "split"):
            if not isinstance(getattr(self, name), str):
                raise InputError(f"{name} of a data set must be a text, got {getattr(self, name)!r}")

    def with_classes(self, classes: tuple[str, ...]) -> "Summary":
        """The same images with their classes in this order, which may hold more of them."""
        count_of = dict(zip(self.classes or (), self.counts or (), strict=False))
        return replace(self, classes=classes, counts=tuple(count_of.get(name, 0) for name in classes))

    def change(self, now: "Summary") -> str:
        """What differs in `now`, in words, such as "class 'a' is new, 120 images instead of 80"; "" if nothing does."""
        parts = self._change_of_classes(now)
        if self._comparable(now):
            if self.images != now.images:
                parts.append(f"{now.images:,} images instead of {self.images:,}")
            elif not parts and self.counts != now.counts:
                parts += self._change_of_counts(now)
            elif not parts and self.digest != now.digest:
                parts.append(f"{now.images:,} images as before, but not the same ones")
        return ", ".join(parts)

    def _change_of_classes(self, now: "Summary") -> list[str]:
        if self.classes is None or now.classes is None:
            if self.classes is None and now.classes is None:
                return []
            return ["there are no classes any more" if now.classes is None else "there are classes now"]
        old, new = self._present(), now._present()
        if not self._comparable(now):
            # A class may happen to have no image in one of the splits.
            old, new = list(self.classes), list(now.classes)
        parts = []
        for names, is_so in (
            ([name for name in new if name not in self.classes], "new"),
            ([name for name in old if name not in new], "gone"),
        ):
            if names:
                parts.append(f"{'class' if len(names) == 1 else 'classes'} {quoted(names)} {_is(names)} {is_so}")
        if not parts and self.classes != now.classes:
            parts.append(f"the classes are {quoted(now.classes)} instead of {quoted(self.classes)}")
        return parts

    def _comparable(self, now: "Summary") -> bool:
        """Whether both are of the same images, unless these changed: those for training are not those for testing."""
        return self.split == now.split or WHOLE in (self.split, now.split)

    def _present(self) -> list[str]:
        classes = self.classes or ()
        return [name for name, count in zip(classes, self.counts or (1,) * len(classes), strict=False) if count]

    def _change_of_counts(self, now: "Summary") -> list[str]:
        if self.counts is None or now.counts is None or len(self.counts) != len(now.counts):
            return ["there are other labels"]
        names = self.classes or tuple(str(number) for number in range(len(self.counts)))
        changed = [
            f"class {name!r} has {after:,} images instead of {before:,}"
            for name, before, after in zip(names, self.counts, now.counts, strict=True)
            if before != after
        ]
        return changed[:3]


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def quoted(names: Sequence[str], most: int = 6) -> str:
    """The first few names in quotation marks, and how many more there are."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most:,} more" if len(names) > most else "")


def natural(name: str) -> tuple[Any, ...]:
    """A key to sort names by, in which numbers count as numbers: a2 before a10."""
    # Text and digits alternate, so that two keys compare text with text and number with number.
    parts = re.split(r"(\d+)", name)
    return ([int(part) if i % 2 else part for i, part in enumerate(parts)], name)


def of_arrays(
    images: np.ndarray, labels: np.ndarray | None, class_names: tuple[str, ...] | None, split: str
) -> Summary:
    """The summary of uint8 images (N, H, W, C) and int64 labels (N,); CRC-32 runs at gigabytes a second."""
    check = zlib.crc32(np.ascontiguousarray(images).data)
    if labels is not None:
        check = zlib.crc32(labels.astype("<i8").data, check)
    digest = f"crc32 {check:08x} of {'x'.join(map(str, images.shape))}"
    return Summary(len(images), class_names, _counts(labels, class_names), digest, split)


def of_files(
    files: Sequence[tuple[Path, int]], root: Path, labels: np.ndarray | None, class_names: tuple[str, ...] | None
) -> Summary:
    """The summary of a folder's image files, given with their sizes in bytes, by their paths below `root`."""
    sha = sha256()
    for path, size in files:
        sha.update(os.fsencode(path.relative_to(root).as_posix()) + f"\0{size}\0".encode())
    return Summary(len(files), class_names, _counts(labels, class_names), f"sha256 {sha.hexdigest()[:32]}")


def _counts(labels: np.ndarray | None, class_names: tuple[str, ...] | None) -> tuple[int, ...] | None:
    if labels is None:
        return None
    return tuple(np.bincount(labels, minlength=len(class_names or ())).tolist())
