"""A folder of images, with sub-folders as classes."""

import os
from pathlib import Path

import numpy as np

from tinyddpm.checks import both_sides
from tinyddpm.data.dataset import Dataset
from tinyddpm.data.images import (
    SUFFIXES,
    ImageFile,
    Skipped,
    broken_note,
    cropped_note,
    in_split,
    names,
    native_shape,
    printable,
    read_headers,
    read_pixels,
)
from tinyddpm.data.resize import Size
from tinyddpm.data.summary import natural, of_files
from tinyddpm.errors import InputError, MissingDataError

# What a run's folder holds, beside pictures that must not become training data.
_OF_A_RUN = {"config.json", "metrics.jsonl", "checkpoints"}


def load_folder(
    root: Path, *, split: str, image_size: Size | None, color: bool | None, resize: str, name: str
) -> Dataset:
    """Load the images of a folder and of all folders below it, in the order of their paths.

    Files and folders whose names begin with a dot are left alone. Files that are not readable images, folders that
    cannot be read, those of a training run and links to a folder already read are skipped, and `notes` counts them.
    Classes: if every image is directly in a sub-folder of `root`, and there are at least two such sub-folders, their
    names are the classes, sorted with numbers as numbers (2 before 10). color=None: colour if any image of the
    folder has colour. Splits, colour and classes are decided on the whole folder, so the two splits always go
    together.
    The other arguments are those of `tinyddpm.data.load`.

    Raises MissingDataError if there is no readable image; InputError if the sizes differ without an
    image_size, an image is too large to be padded, the folder is too small for a test split, or it is that of a run.
    """
    found, notes = _find(root)
    files, broken = read_headers([path for path in found if path.suffix.lower() in SUFFIXES])
    broken += [Skipped(path) for path in found if path.suffix.lower() not in SUFFIXES]
    if not files:
        raise _nothing_readable(root, (*broken_note(broken, root), *notes))
    colour = any(file.colour for file in files) if color is None else color
    shape = native_shape(files, str(root)) if image_size is None else both_sides(image_size)
    how = None if image_size is None else ("fit" if resize == "auto" else resize)
    pixels = read_pixels(in_split(files, split, str(root)), shape=shape, colour=colour, resize=how, what=str(root))
    notes = (*broken_note(broken + pixels.broken, root), *notes)
    if not pixels.files:
        raise _nothing_readable(root, notes)
    folders, class_note = _classes(files, root)
    notes = (*notes, *class_note, *cropped_note(pixels.files, shape, how))
    class_names = None if folders is None else tuple(printable(folder) for folder in folders)
    source = of_files([(file.path, file.size) for file in files], root, _labels(files, folders), class_names)
    return Dataset(name, pixels.images, _labels(pixels.files, folders), class_names, notes, source)


def _labels(files: list[ImageFile], folders: list[str] | None) -> np.ndarray | None:
    if folders is None:
        return None
    label_of = {folder: label for label, folder in enumerate(folders)}
    return np.array([label_of[file.path.parent.name] for file in files], np.int64)


def _nothing_readable(root: Path, notes: tuple[str, ...]) -> MissingDataError:
    detail = f" ({'; '.join(notes)})" if notes else ""
    kinds = ", ".join(suffix[1:] for suffix in SUFFIXES)
    return MissingDataError(f"{root} has no readable image{detail}; put images into it: {kinds}")


def _find(root: Path) -> tuple[list[Path], tuple[str, ...]]:
    """All files below `root`, sorted by path, and notes on the folders that were skipped."""
    found: list[Path] = []
    runs: list[Path] = []
    unreadable: list[Path] = []
    repeated: list[Path] = []
    visited: set[str] = set()
    for folder, subfolders, files in os.walk(
        root, followlinks=True, onerror=lambda error: unreadable.append(Path(error.filename))
    ):
        visited.add(os.path.realpath(folder))
        if _is_run([*subfolders, *files]):
            if Path(folder) == root:
                raise InputError(
                    f"{root} is the folder of a training run, whose own pictures are no training data; "
                    "give a folder of images, and move those that are here into it"
                )
            runs.append(Path(folder))
            subfolders.clear()
            continue
        found += [Path(folder, file) for file in files if not file.startswith(".")]
        visible = sorted(Path(folder, each) for each in subfolders if not each.startswith("."))
        # Prefer a folder to a link to it.
        visible.sort(key=os.path.islink)
        # os.walk descends into what is left in this very list.
        subfolders.clear()
        for path in visible:
            real = os.path.realpath(path)
            if real in visited:
                repeated.append(path)
            else:
                visited.add(real)
                subfolders.append(path.name)
    notes = []
    if runs:
        notes.append(f"skipped {_folders(len(runs))} of training runs: {names(runs, root)}")
    if unreadable:
        notes.append(f"skipped {_folders(len(unreadable))} that cannot be read: {names(unreadable, root)}")
    if repeated:
        notes.append(f"skipped {_folders(len(repeated))} already read by another path: {names(repeated, root)}")
    return sorted(found), tuple(notes)


def _is_run(content: list[str]) -> bool:
    """Whether a folder of this content is that of a training run, or of what is left of one."""
    return len(_OF_A_RUN.intersection(content)) >= 2


def _folders(count: int) -> str:
    return "1 folder" if count == 1 else f"{count} folders"


def _classes(files: list[ImageFile], root: Path) -> tuple[list[str] | None, tuple[str, ...]]:
    """The sub-folders that are classes; or None, with a note if only some images are in sub-folders."""
    inside = [file for file in files if len(file.path.relative_to(root).parts) == 2]
    if inside and len(inside) < len(files):
        outside = len(files) - len(inside)
        note = f"no class labels: {outside} of {len(files)} images do not lie directly in a sub-folder"
        return None, (note,)
    folders = sorted({file.path.parent.name for file in inside}, key=natural)
    return (folders if len(folders) > 1 else None), ()
