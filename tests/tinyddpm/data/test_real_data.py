"""The real sets, where they are at hand: complete, in order, right side up."""

import csv
import hashlib
import time

import numpy as np
import pytest

from tinyddpm.data import load


def present(folder, *parts):
    path = folder.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return folder


def idx_md5(values):
    """The checksum of the unpacked IDX file that holds the values."""
    header = bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes()
    return hashlib.md5(header + values.tobytes(), usedforsecurity=False).hexdigest()


@pytest.mark.parametrize(
    ("split", "images", "labels"),
    [
        ("train", "6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
        ("test", "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
    ],
)
def test_mnist_is_the_official_one(data_dir, split, images, labels):
    started = time.process_time()
    dataset = load("mnist", split=split, data_dir=present(data_dir, "mnist"))
    assert time.process_time() - started < 2
    assert idx_md5(dataset.images[..., 0]) == images
    assert idx_md5(dataset.labels.astype(np.uint8)) == labels


def test_mnist_counts_and_moments(data_dir):
    dataset = load("mnist", data_dir=present(data_dir, "mnist"))
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(dataset.labels).tolist() == counts
    histogram = np.bincount(dataset.images.ravel(), minlength=256)
    values = np.arange(256) / 255
    mean = np.average(values, weights=histogram)
    assert mean == pytest.approx(0.1307, abs=5e-5)
    assert np.average((values - mean) ** 2, weights=histogram) ** 0.5 == pytest.approx(0.3081, abs=5e-5)


@pytest.mark.parametrize(("split", "count"), [("train", 6000), ("test", 1000)])
def test_fashion_mnist(data_dir, split, count):
    dataset = load("fashion-mnist", split=split, image_size=32, data_dir=present(data_dir, "fashion-mnist"))
    assert np.bincount(dataset.labels).tolist() == [count] * 10
    assert dataset.images.shape == (10 * count, 32, 32, 1)
    assert not dataset.images[:, :2].any()
    # Right side up: trousers (class 1) part at the bottom, so less of the bottom's middle is cloth.
    trousers = dataset.images[dataset.labels == 1, :, 15:17, 0].mean(axis=(0, 2))
    assert trousers[24:28].mean() < 0.5 * trousers[4:8].mean()


def test_cars(data_dir):
    folder = present(data_dir, "cars-128")
    dataset = load("stanford-cars", split="test", image_size=32, data_dir=folder)
    assert dataset.images.shape == (596, 32, 32, 3)
    assert dataset.num_classes == 196
    assert dataset.class_names[0] == "AM General Hummer SUV 2000"
    assert dataset.notes == ()
    with open(folder / "cars-128-index.csv", newline="") as file:
        class_of = {row["file"]: int(row["class_id"]) for row in csv.DictReader(file)}
    tenths = sorted(class_of)[9::10]
    assert dataset.labels.tolist() == [class_of[name] - 1 for name in tenths]
    # Sky above, ground below: daylight is bluer in the upper rows than in the lower ones.
    blueness = (dataset.images[..., 2].astype(int) - dataset.images[..., 0]).mean(axis=(0, 2))
    assert blueness[:4].mean() > blueness[-4:].mean()
    whole = load("stanford-cars", split="test", data_dir=folder)
    assert whole.images.shape == (596, 128, 128, 3)
    box = whole.images.reshape(596, 32, 4, 32, 4, 3).mean(axis=(2, 4))
    assert np.abs(box - dataset.images).mean() < 6
