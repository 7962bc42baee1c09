"""Stanford Cars (Krause, Stark, Deng & Fei-Fei 2013), as square JPEG files with an index of their classes.

The photographs belong to their photographers and the set has no general licence, so it is never downloaded.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tinyddpm.checks import both_sides
from tinyddpm.data.dataset import Dataset
from tinyddpm.data.images import (
    ImageFile,
    broken_note,
    cropped_note,
    in_split,
    names,
    native_shape,
    read_headers,
    read_pixels,
)
from tinyddpm.data.resize import Size
from tinyddpm.data.summary import of_files
from tinyddpm.errors import DamagedFileError, MissingDataError

FOLDER = "cars-128"
INDEX = "cars-128-index.csv"
CLASSES = "cars-128-classes.txt"


def load_cars(root: Path | None, *, split: str, image_size: Size | None, color: bool | None, resize: str) -> Dataset:
    """Load root/cars-128/*.jpg, sorted by name, in colour unless `color` is False.

    Labels come from root/cars-128-index.csv (columns `file` and `class_id`, counted from 1) and names from
    root/cars-128-classes.txt (line n names class n); without the index there are no labels, without the names
    the classes are called by their numbers. There are no official test images here: every tenth file is for
    "test".
    The arguments are those of `tinyddpm.data.load`; `root` is None if no data folder was given.

    Raises MissingDataError if there are no images, DamagedFileError if the index does not go with them.
    """
    paths = [] if root is None else sorted((root / FOLDER).glob("[!.]*.jpg"))
    files, broken = read_headers(paths)
    if root is None or not files:
        where = f"{root / FOLDER} has no readable .jpg file" if root else "no data folder was given"
        place = f"{root / FOLDER}" if root else f"a folder {FOLDER}, and name its parent by data_dir"
        raise MissingDataError(
            f"stanford-cars is not there: {where}; its licence does not allow a download, so get the images "
            f"from its publisher and put them as .jpg files into {place}"
        )
    folder = root / FOLDER
    shape = native_shape(files, str(folder)) if image_size is None else both_sides(image_size)
    how = None if image_size is None else ("fit" if resize == "auto" else resize)
    chosen = in_split(files, split, str(folder))
    pixels = read_pixels(chosen, shape=shape, colour=color is not False, resize=how, what=str(folder))
    notes = (*broken_note(broken + pixels.broken, folder), *cropped_note(pixels.files, shape, how))
    sized = [(file.path, file.size) for file in files]
    index = root / INDEX
    if not index.exists():
        notes = (*notes, f"no class labels: {index} is not there")
        source = of_files(sized, folder, None, None)
        return Dataset("stanford-cars", pixels.images, None, None, notes, source)
    class_of = _read_index(index)
    class_names = _read_class_names(root / CLASSES, max(class_of.values()))
    unlisted = [file.path for file in pixels.files if file.path.name not in class_of]
    if unlisted:
        raise DamagedFileError(
            f"{index} gives no class for {len(unlisted)} images: {names(unlisted, folder)}; "
            "complete it, or remove it to load the images without labels"
        )
    labels = _labels(pixels.files, class_of)
    source = of_files(sized, folder, _labels(files, class_of), class_names)
    return Dataset("stanford-cars", pixels.images, labels, class_names, notes, source)


def _labels(files: Sequence[ImageFile], class_of: dict[str, int]) -> np.ndarray:
    """The labels of the files that have a class, counted from 0."""
    return np.array([class_of[file.path.name] - 1 for file in files if file.path.name in class_of], np.int64)


def _read_index(path: Path) -> dict[str, int]:
    """File name to class number, counted from 1."""
    remedy = "fetch it again, or remove it to load the images without labels"
    class_of: dict[str, int] = {}
    if not path.is_file():
        raise DamagedFileError(f"{path} is no regular file; {remedy}")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            columns = rows.fieldnames or ()
            if "file" not in columns or "class_id" not in columns:
                raise DamagedFileError(f"{path} lacks the column file or class_id, it has {list(columns)}; {remedy}")
            for row in rows:
                text = row["class_id"]
                if text is None or not text.isdecimal() or int(text) < 1:
                    raise DamagedFileError(
                        f"{path}, line {rows.line_num}: class_id is {text!r}; it must be 1 or more; {remedy}"
                    )
                class_of[row["file"]] = int(text)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DamagedFileError(f"{path} cannot be read as CSV ({error}); {remedy}") from error
    if not class_of:
        raise DamagedFileError(f"{path} lists no files; {remedy}")
    return class_of


def _read_class_names(path: Path, highest: int) -> tuple[str, ...]:
    if not path.is_file():
        return tuple(str(n) for n in range(1, highest + 1))
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedFileError(
            f"{path} cannot be read ({error}); fetch it again, or remove it to call classes by number"
        ) from error
    if len(lines) < highest:
        raise DamagedFileError(
            f"{path} names {len(lines)} classes but the index uses class {highest}; fetch both files again"
        )
    return tuple(lines)
