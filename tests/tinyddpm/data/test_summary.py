"""Summaries of data sets: what they see of a change, and what they call it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyddpm.data import Dataset, load
from tinyddpm.data.summary import Summary, natural, of_arrays, of_files, quoted
from tinyddpm.errors import InputError

PETS = Summary(80, ("b", "c"), (50, 30), "x")
PLAIN = Summary(80, None, None, "x")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (PETS, PETS, ""),
        (PLAIN, PLAIN, ""),
        (PETS, Summary(120, ("a", "b", "c"), (40, 50, 30), "y"), "class 'a' is new, 120 images instead of 80"),
        (
            PETS,
            Summary(80, ("a", "aa", "b", "c"), (1, 1, 48, 30), "y"),
            "classes 'a', 'aa' are new",
        ),
        (PETS, Summary(50, ("b",), (50,), "y"), "class 'c' is gone, 50 images instead of 80"),
        (PETS, Summary(50, ("b", "c"), (50, 0), "y"), "class 'c' is gone, 50 images instead of 80"),
        (PETS, Summary(80, ("b", "d"), (50, 30), "y"), "class 'd' is new, class 'c' is gone"),
        (PETS, Summary(80, ("c", "b"), (30, 50), "x"), "the classes are 'c', 'b' instead of 'b', 'c'"),
        (PETS, Summary(81, ("b", "c"), (50, 31), "y"), "81 images instead of 80"),
        (
            PETS,
            Summary(80, ("b", "c"), (49, 31), "y"),
            "class 'b' has 49 images instead of 50, class 'c' has 31 images instead of 30",
        ),
        (PETS, replace(PETS, digest="y"), "80 images as before, but not the same ones"),
        (PLAIN, replace(PLAIN, digest="y"), "80 images as before, but not the same ones"),
        (PETS, PLAIN, "there are no classes any more"),
        (PLAIN, PETS, "there are classes now"),
        (
            Summary(8, None, (3, 5), "x"),
            Summary(8, None, (4, 4), "x"),
            "class '0' has 4 images instead of 3, class '1'",
        ),
        (Summary(8, None, (3, 5), "x"), Summary(8, None, (3, 4, 1), "x"), "there are other labels"),
        (Summary(12_345, None, None, "x"), Summary(60_000, None, None, "x"), "60,000 images instead of 12,345"),
        # An official split for testing is no change of the one for training, but its classes are the same
        (replace(PETS, split="train"), Summary(9, ("b", "c"), (9, 0), "y", "test"), ""),
        (replace(PETS, split="train"), Summary(9, ("b", "d"), (5, 4), "y", "test"), "class 'd' is new, class 'c' is"),
        (replace(PETS, split="train"), replace(PLAIN, split="whole", images=9), "no classes any more, 9 images inst"),
    ],
)
def test_what_a_change_is_called(old: Summary, new: Summary, words: str) -> None:
    change = old.change(new)
    assert change.startswith(words) or words in change
    assert bool(change) == bool(words)


def test_it_goes_to_json_and_back() -> None:
    for summary in (PETS, PLAIN, replace(PETS, split="test")):
        assert Summary.from_dict(summary.to_dict()) == summary


@pytest.mark.parametrize(
    "values", [{"images": -1}, {"classes": "bc"}, {"classes": [1]}, {"counts": ["1"]}, {"digest": 5}, {"split": None}]
)
def test_wrong_values(values: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Summary.from_dict(PETS.to_dict() | values)


def test_natural_order() -> None:
    names = ["10", "2", "a10b", "a2b", "a", "1", "02", "b", "a2", "B", "²"]
    assert sorted(names, key=natural) == ["1", "02", "2", "10", "B", "a", "a2", "a2b", "a10b", "b", "²"]


def test_many_names_are_cut_short() -> None:
    assert quoted("abcdefgh") == "'a', 'b', 'c', 'd', 'e', 'f' and 2 more"


class TestFiles:
    def test_names_and_sizes_count_and_the_place_does_not(self) -> None:
        def digest(*files: tuple[str, int], root: str = "x") -> str:
            return of_files([(Path(root, name), size) for name, size in files], Path(root), None, None).digest

        assert digest(("a/1", 5), ("b", 7)) == digest(("a/1", 5), ("b", 7), root="/elsewhere/y")
        different = {digest(("a/1", 5)), digest(("a/1", 6)), digest(("a/2", 5)), digest(("b/1", 5)), digest()}
        assert len(different) == 5

    def test_names_that_are_not_utf8(self) -> None:
        assert of_files([(Path("x/\udcff"), 1)], Path("x"), None, None).images == 1


class TestArrays:
    def test_pixels_labels_and_shape_count(self) -> None:
        images, labels = np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1), np.array([0, 1])

        def digest(images: np.ndarray, labels: np.ndarray | None) -> str:
            return of_arrays(images, labels, None, "train").digest

        other = images.copy()
        other[1, 1, 1] = 9
        seen = [(images, labels), (images, None), (images, labels[::-1]), (other, labels)]
        seen.append((images.reshape(2, 4, 1, 1), labels))
        assert len({digest(*each) for each in seen}) == 5
        assert digest(images.copy(), labels.copy()) == digest(images, labels)

    def test_of_a_named_set_before_it_is_resized(self) -> None:
        plain, large = load("digits"), load("digits", image_size=16, color=True)
        assert plain.summary == large.summary
        assert plain.summary.split == "train"
        assert (plain.summary.images, sum(plain.summary.counts or ())) == (1541, 1541)
        assert load("digits", split="test").summary.digest != plain.summary.digest

    def test_of_a_set_made_by_hand(self) -> None:
        dataset = Dataset("mine", np.zeros((3, 2, 2, 1), np.uint8), np.array([0, 2, 2]), ("a", "b", "c"))
        summary = dataset.summary
        assert (summary.images, summary.classes, summary.counts) == (3, ("a", "b", "c"), (1, 0, 2))
        assert dataset.take([0, 2]).summary.counts == (1, 0, 1)


class TestClasses:
    def dataset(self) -> Dataset:
        return Dataset("mine", np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1), np.array([0, 1, 1]), ("b", "c"))

    def test_labels_follow_names(self) -> None:
        for dataset in (self.dataset(), replace(self.dataset(), source=self.dataset().summary)):
            moved = dataset.with_classes(("c", "a", "b"))
            assert moved.labels is not None
            assert moved.labels.tolist() == [2, 0, 0]
            assert moved.summary.classes == moved.class_names == ("c", "a", "b")
            assert moved.summary.counts == (2, 0, 1)
            assert moved.with_classes(("c", "a", "b")) is moved

    def test_a_class_without_a_label(self) -> None:
        with pytest.raises(InputError, match=r"mine has the classes 'c', which are not among 'a', 'b'"):
            self.dataset().with_classes(("a", "b"))
        with pytest.raises(InputError, match="no named classes"):
            Dataset("plain", np.zeros((1, 1, 1, 1), np.uint8)).with_classes(("a",))

    def test_how_they_are_shown(self) -> None:
        assert self.dataset().named_classes() == "0 b, 1 c"
        many = replace(self.dataset(), class_names=tuple(f"n{i}" for i in range(196)))
        assert many.named_classes().endswith("8 n8, 9 n9, …, 195 n195")
        assert replace(many, class_names=tuple(map(str, range(196)))).named_classes() == "0 … 195"
