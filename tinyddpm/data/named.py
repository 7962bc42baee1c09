"""The data sets that go by a name, where their files are looked for, and `load`, the one entrance."""

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinyddpm.checks import both_sides, check_sides
from tinyddpm.data import cifar
from tinyddpm.data.cars import load_cars
from tinyddpm.data.dataset import Dataset
from tinyddpm.data.download import fetch
from tinyddpm.data.folder import load_folder
from tinyddpm.data.idx import read_idx
from tinyddpm.data.pixels import to_colour, to_grey
from tinyddpm.data.resize import MOST_PADDING, Size, resize_images
from tinyddpm.data.summary import of_arrays
from tinyddpm.errors import DamagedFileError, InputError, MissingDataError

NAMES = ("digits", "mnist", "fashion-mnist", "cifar10", "stanford-cars")
SPLITS = ("train", "test")
ENVIRONMENT = "TINYDDPM_DATA"
# What the publishers of each set say of its use
LICENCES = {
    "digits": "CC BY 4.0 (UCI Machine Learning Repository, Optical Recognition of Handwritten Digits)",
    "mnist": "CC BY-SA 3.0 (Yann LeCun, Corinna Cortes, Christopher Burges)",
    "fashion-mnist": "MIT (Zalando SE)",
    "cifar10": "none stated",
    "stanford-cars": "for research; the photographs belong to their photographers",
}

_NUMERALS = tuple(str(digit) for digit in range(10))


@dataclass(frozen=True)
class _IdxSet:
    counts: dict[str, int]
    side: int
    class_names: tuple[str, ...]
    # Where torchvision puts the files, below its own data folder
    torchvision: str


_IDX_SETS = {
    "mnist": _IdxSet({"train": 60_000, "test": 10_000}, 28, _NUMERALS, "MNIST/raw"),
    "fashion-mnist": _IdxSet(
        {"train": 60_000, "test": 10_000},
        28,
        (
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        "FashionMNIST/raw",
    ),
}


def load(
    name: str | os.PathLike[str],
    *,
    split: str = "train",
    image_size: Size | None = None,
    color: bool | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    resize: str = "auto",
) -> Dataset:
    """Load a data set into memory.

    name: one of `NAMES`, or the path of a folder of images (see `tinyddpm.data.folder.load_folder`). A name
    wins over a folder of that name in the current directory, which is reached as "./name".

        digits         1,797 handwritten digits, 8x8 grey, 10 classes (Alpaydin & Kaynak 1998), embedded
        mnist          70,000 handwritten digits, 28x28 grey, 10 classes (LeCun, Cortes & Burges)
        fashion-mnist  70,000 articles of clothing, 28x28 grey, 10 classes (Xiao, Rasul & Vollgraf 2017)
        cifar10        60,000 photographs, 32x32 colour, 10 classes (Krizhevsky 2009)
        stanford-cars  photographs of cars, 128x128 colour, 196 classes (Krause et al. 2013)

    split: "train" or "test". mnist, fashion-mnist and cifar10 have official splits. Every seventh image
    of digits is for "test" (1,541 train, 256 test); of cars and folders every tenth, in the order of the file
    names, if there are at least 20 images.
    image_size: bring all images to this height and width, one number or two; None keeps their own.
    resize: how. "fit" scales until the size is covered and crops the centre, "pad" puts the image on a black ground,
    "auto" pads the grey named sets where they lack at most 8 pixels (28 -> 32) and fits everything else.
    color: True for RGB, False for grey, None for what the set is; a folder is RGB if any image has colour.
    data_dir: the folder that holds `mnist/*.gz`, `fashion-mnist/*.gz`, cifar10/cifar-10-binary.tar.gz and
    cars-128/*.jpg; None takes the environment variable TINYDDPM_DATA. The first three sets may also be there
    unpacked, or as torchvision lays them out (`MNIST/raw`, `FashionMNIST/raw`), and are downloaded into the user's
    cache if they are not there at all.

    Returns a `Dataset`; its notes count what was left out.
    Raises MissingDataError if the data is not found and cannot be downloaded, DamagedFileError if a file is
    not what it should be, InputError for other arguments than these.
    """
    size = _check(split, image_size, color, resize)
    key = os.fsdecode(name)
    if key not in NAMES:
        return load_folder(_folder(key), split=split, image_size=size, color=color, resize=resize, name=key)
    if key == "digits":
        dataset = _digits(split)
    elif key == "stanford-cars":
        return load_cars(_data_folder(data_dir), split=split, image_size=size, color=color, resize=resize)
    elif key == "cifar10":
        dataset = _cifar10(split, _data_folder(data_dir))
    else:
        dataset = _idx_set(key, split, _data_folder(data_dir))
    images = dataset.images
    # Before resizing, which libraries may change in the last digit
    source = of_arrays(images, dataset.labels, dataset.class_names, split)
    how = resize
    if resize == "auto" and size is not None:
        # By the set's own colour: a photograph turned grey still has no black ground to extend.
        lacking = [wanted - seen for wanted, seen in zip(both_sides(size), images.shape[1:3], strict=True)]
        how = "pad" if images.shape[-1] == 1 and min(lacking) >= 0 and max(lacking) <= MOST_PADDING else "fit"
    if color is False and images.shape[-1] == 3:
        images = to_grey(images)
    if size is not None:
        images = resize_images(images, size, how)
    if color is True and images.shape[-1] == 1:
        images = to_colour(images)
    return Dataset(key, images, dataset.labels, dataset.class_names, dataset.notes, source)


def absolute(place: str) -> str:
    """The path of a folder as it is called from any directory.

    Symbolic links are kept, since they may be made to follow a folder that moves; but ".." after one means its target.
    """
    path = _expand(place)
    return str(path.resolve() if ".." in path.parts else path.absolute())


def _check(split: str, image_size: Size | None, color: bool | None, resize: str) -> Size | None:
    if split not in SPLITS:
        raise InputError(f'split is {split!r}; give "train" or "test"')
    if resize not in ("auto", "pad", "fit"):
        raise InputError(f'resize is {resize!r}; give "auto", "pad" or "fit"')
    if not any(color is accepted for accepted in (None, True, False)):
        raise InputError(f"color is {color!r}; give True, False, or None for what the set is")
    return None if image_size is None else check_sides("image_size", image_size, note="None keeps the images' own")


def _folder(name: str) -> Path:
    path = _expand(name)
    # Path("") would be the current directory.
    if name and path.is_dir():
        return path
    if name and path.exists():
        raise InputError(f"{path} is a file; give a folder of images, or one of {', '.join(NAMES)}")
    close = difflib.get_close_matches(name.lower(), NAMES, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise MissingDataError(
        f"there is no data set and no folder {name!r}{hint}; "
        f"give one of {', '.join(NAMES)}, or the path of a folder of images"
    )


def _data_folder(data_dir: str | os.PathLike[str] | None) -> Path | None:
    given, source = data_dir, "data_dir"
    if given is None:
        given, source = os.environ.get(ENVIRONMENT) or None, ENVIRONMENT
    if given is None:
        return None
    path = _expand(given)
    if not path.is_dir():
        raise MissingDataError(f"{source} is {str(path)!r}, which is not a folder; give the folder of the data sets")
    return path


def _expand(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # "~someone" whom this machine does not know: no such folder, then
        return Path(path)


def _place(name: str, root: Path | None) -> str:
    if root is not None:
        return str(root / name)
    return f"a folder {name} whose parent is given as data_dir or {ENVIRONMENT}"


def _digits(split: str) -> Dataset:
    # Imported on use: scikit-learn takes longer to import than the other sets take to load.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # Every seventh: the set runs 0 … 9, 0 … 9 in places, and 7 shares no factor with 10.
    chosen = (np.arange(len(bunch.images)) % 7 == 6) == (split == "test")
    # Values are 0 … 16, the count of ink pixels in a 4x4 block.
    images = np.rint(bunch.images[chosen] * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    return Dataset("digits", images, bunch.target[chosen].astype(np.int64), _NUMERALS)


def _idx_set(name: str, split: str, root: Path | None) -> Dataset:
    spec = _IDX_SETS[name]
    stem = {"train": "train", "test": "t10k"}[split]
    files = (f"{stem}-images-idx3-ubyte.gz", f"{stem}-labels-idx1-ubyte.gz")
    paths = None
    for folder in (root / name, root / spec.torchvision) if root is not None else ():
        paths = paths or _local(folder, files)
    if paths is None:
        paths = fetch(name, split, _place(name, root))
    count = spec.counts[split]
    images = read_idx(paths[0], (count, spec.side, spec.side))[..., np.newaxis]
    labels = read_idx(paths[1], (count,)).astype(np.int64)
    if labels.max() >= len(spec.class_names):
        raise DamagedFileError(
            f"{paths[1]} has a label {labels.max()}; {name} has labels 0 … {len(spec.class_names) - 1}; fetch it again"
        )
    return Dataset(name, images, labels, spec.class_names)


def _local(folder: Path, files: tuple[str, ...]) -> list[Path] | None:
    """The files in `folder`, packed (.gz) or not; None if there is none, MissingDataError if only some."""
    paths = []
    for file in files:
        packed, unpacked = folder / file, folder / file.removesuffix(".gz")
        paths += [path for path in (packed, unpacked) if path.is_file()][:1]
    if not paths:
        return None
    if len(paths) < len(files):
        present = {path.name.removesuffix(".gz") for path in paths}
        missing = [file for file in files if file.removesuffix(".gz") not in present]
        raise MissingDataError(
            f"{folder} has {paths[0].name} but lacks {' and '.join(missing)}; "
            "add it, or remove the folder to have the set downloaded"
        )
    return paths


def _cifar10(split: str, root: Path | None) -> Dataset:
    files = cifar.FILES[split]
    # In the folder itself too, where torchvision and `tar` put things; the names are CIFAR-10's alone.
    for folder in (root / "cifar10", root) if root is not None else ():
        if (folder / cifar.ARCHIVE).is_file():
            images, labels = cifar.read_archive(folder / cifar.ARCHIVE, files)
            break
        if paths := _unpacked_cifar10(folder, files):
            images, labels = cifar.read_files(paths)
            break
    else:
        images, labels = cifar.read_archive(fetch("cifar10", split, _place("cifar10", root))[0], files)
    return Dataset("cifar10", images, labels, cifar.CLASS_NAMES)


def _unpacked_cifar10(folder: Path, files: tuple[str, ...]) -> list[Path] | None:
    # The archive unpacks into a folder of its own.
    for place in (folder, folder / "cifar-10-batches-bin"):
        paths = _local(place, files)
        if paths is not None:
            return paths
    return None
