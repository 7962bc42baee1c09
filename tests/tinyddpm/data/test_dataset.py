"""Dataset: what it accepts, its classes, choosing from it."""

import numpy as np
import pytest

from tinyddpm.data import Dataset
from tinyddpm.errors import InputError


def grey(count):
    return np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1)


def labels(*values):
    return np.array(values, np.int64)


def test_num_classes():
    assert Dataset("x", grey(3)).num_classes is None
    assert Dataset("x", grey(3), labels(0, 4, 1)).num_classes == 5
    assert Dataset("x", grey(3), labels(0, 1, 1), ("a", "b", "c")).num_classes == 3
    assert Dataset("x", grey(0), labels()).num_classes == 0


def test_take():
    dataset = Dataset("x", grey(4), labels(0, 1, 2, 2), ("a", "b", "c"), ("a note",))
    taken = dataset.take([3, 0, 0])
    assert len(taken) == 3
    assert taken.images.ravel().tolist() == [3, 0, 0]
    assert taken.labels.tolist() == [2, 0, 0]
    assert (taken.name, taken.class_names, taken.notes) == ("x", ("a", "b", "c"), ("a note",))
    assert taken.num_classes == 3


def test_take_without_labels_and_take_nothing():
    dataset = Dataset("x", grey(4))
    assert dataset.take(np.arange(2)).labels is None
    assert dataset.take([]).images.shape == (0, 1, 1, 1)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0, 4], r"indices run from 0 to 4; x has images 0 … 3"),
        ([-1], "indices run from -1"),
        ([True, False], "indices are bool"),
        ([0.0], "indices are float64"),
        ([[0, 1]], r"of shape \(1, 2\)"),
    ],
)
def test_take_refuses(indices, message):
    with pytest.raises(InputError, match=message):
        Dataset("x", grey(4)).take(indices)


@pytest.mark.parametrize(
    ("images", "given_labels", "names", "message"),
    [
        (grey(3).astype(np.float32), None, None, "images are float32"),
        (grey(3)[0], None, None, r"of shape \(1, 1, 1\); give uint8 of shape \(N, H, W, C\)"),
        (np.zeros((1, 2, 2, 4), np.uint8), None, None, "C = 1 or 3"),
        (grey(3), labels(0, 1), None, r"labels are int64 of shape \(2,\); give int64 of shape \(3,\)"),
        (grey(1), np.zeros(1, np.int32), None, "labels are int32"),
        (grey(2), labels(0, 2), ("a", "b"), "labels run from 0 to 2; each must be in 0 … 1"),
        (grey(2), labels(-1, 2), None, "labels run from -1 to 2; each must be at least 0"),
    ],
)
def test_refuses(images, given_labels, names, message):
    with pytest.raises(InputError, match=message):
        Dataset("x", images, given_labels, names)
