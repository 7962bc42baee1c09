"""Labels by name and by number."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.tinyddpm.tiny_runs import UNET, build
from tinyddpm.data.summary import Summary
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import InputError
from tinyddpm.generation.labels import captions, class_names, label_of, labels_of
from tinyddpm.training.checkpoint import Checkpoint


def checkpoint(names: tuple[str, ...] | None, classes: int | None = 3, entry: Any = None) -> Checkpoint:
    """One whose run had classes of these names; entry: what it holds instead of a summary."""
    model = build(replace(UNET, num_classes=classes))
    kept = Summary(3, names, None if names is None else (1,) * len(names), "x").to_dict() if entry is None else entry
    return Checkpoint(model, Diffusion(Schedule.cosine(10)), extra={"data": kept})


def test_a_name_goes_before_a_number() -> None:
    of = checkpoint(("2", "cat", "0"))
    assert [label_of(text, of) for text in ("2", "cat", "0", "1", "3", "-1")] == [0, 1, 2, 1, 3, -1]
    assert [label_of(text, checkpoint(None)) for text in ("2", "0")] == [2, 0]


@pytest.mark.parametrize(
    ("names", "classes", "words"),
    [
        (("a", "b", "c"), 3, "'x' is not a label of this model; accepted: 0 … 2, or a name of a, b, c"),
        (None, 3, "accepted: 0 … 2$"),
        (None, None, r"accepted: none \(the model was trained without classes\)"),
        (("a", "b", "c"), None, "accepted: none"),
    ],
)
def test_neither_name_nor_number(names: Any, classes: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        label_of("x", checkpoint(names, classes))


@pytest.mark.parametrize("entry", [5, "mnist", [], {}, {"images": 3}, {"images": "many", "digest": 1}])
def test_an_entry_that_someone_else_made(entry: Any) -> None:
    assert class_names(checkpoint(None, entry=entry)) is None


def test_names_that_do_not_go_with_the_model_are_none() -> None:
    assert class_names(checkpoint(("a", "b"))) is None
    assert class_names(checkpoint(("a", "b", "c"), None)) is None


def test_labels_in_turn_and_alone() -> None:
    assert labels_of(5, None) is None
    np.testing.assert_array_equal(labels_of(5, 3), [0, 1, 2, 0, 1])
    np.testing.assert_array_equal(labels_of(2, 3, 0), [0, 0])


def test_what_is_written_under_samples() -> None:
    labels = np.array([1, 0, 2])
    assert captions(None, ("a",)) is None
    assert captions(labels, ("a", "b", "c")) == ["b", "a", "c"]
    assert captions(labels, None) == ["1", "0", "2"]
    assert captions(labels, ("a", "b")) == ["b", "a", "2"]
