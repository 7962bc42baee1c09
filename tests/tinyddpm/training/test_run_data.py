"""A run's data from Python: labels that a model must have, places, and what a run keeps of its data."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends
from tests.tinyddpm.tiny_runs import SIMPLE, UNET, arrays, assert_same, images, run_config, tree
from tinyddpm import data
from tinyddpm.data.summary import Summary
from tinyddpm.errors import InputError
from tinyddpm.training.run_config import DataConfig
from tinyddpm.training.run_data import known_data, load_again
from tinyddpm.training.run_folder import Run, open_checkpoint

NUMPY = backends.get("numpy")


@pytest.mark.parametrize(
    ("classes", "dataset", "words"),
    [
        (2, images(), "random has 10 classes, the model labels for 2"),
        (10, replace(images(), labels=None), "the model was made for 10 classes, and random has no class labels"),
    ],
)
def test_a_label_that_the_model_has_not(tmp_path: Path, classes: int, dataset: data.Dataset, words: str) -> None:
    """It would be trained as "no label", or none at all, without a word."""
    with pytest.raises(InputError, match=words):
        Run.create(tmp_path / "run", run_config(replace(UNET, num_classes=classes)), NUMPY, dataset)
    assert tree(tmp_path) == {}


def test_fewer_classes_than_labels_are_fine(tmp_path: Path) -> None:
    Run.create(tmp_path / "run", run_config(replace(UNET, num_classes=12)), NUMPY, images())


def test_every_checkpoint_keeps_the_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = images()
    monkeypatch.setattr(data, "load", lambda *_, **__: dataset)
    run = Run.create(tmp_path, run_config(), NUMPY)
    run.trainer.take_step()
    run.checkpoint()
    assert known_data(open_checkpoint(tmp_path, NUMPY)) == dataset.summary
    resumed = Run.resume(tmp_path, NUMPY)
    assert_same(arrays(resumed.trainer), arrays(run.trainer))
    monkeypatch.setattr(data, "load", lambda *_, **__: images(24))
    before = tree(tmp_path)
    with pytest.raises(InputError, match="the data changed: 24 images instead of 23"):
        Run.resume(tmp_path, NUMPY)
    assert tree(tmp_path) == before
    resumed = Run.resume(tmp_path, NUMPY, accept_data=True)
    assert len(resumed.trainer.batches.dataset) == 24


def test_a_set_that_was_handed_over_is_not_taken_for_the_configs(tmp_path: Path) -> None:
    Run.create(tmp_path, run_config(), NUMPY, images())
    with pytest.raises(InputError, match=r"the data changed: .*1,541 images instead of 23"):
        Run.resume(tmp_path, NUMPY)


@pytest.mark.parametrize(
    ("size", "model", "asked"),
    [
        (None, SIMPLE, {"image_size": 8, "color": False}),
        (None, replace(SIMPLE, image_size=(8, 16), in_channels=3), {"image_size": (8, 16), "color": True}),
        (4, replace(SIMPLE, in_channels=2), {"image_size": 4, "color": None}),
    ],
)
def test_images_are_asked_for_as_the_model_takes_them(
    monkeypatch: pytest.MonkeyPatch, size: Any, model: Any, asked: dict[str, Any]
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(data, "load", lambda *_, **options: seen.update(options) or images())
    config = run_config(model)
    load_again(replace(config, data=replace(config.data, image_size=size)), None)
    assert {name: seen[name] for name in asked} == asked


def test_asking_for_the_models_size_and_colour_changes_no_pixel(tmp_path: Path) -> None:
    """A run goes on bit for bit on the images that it was created with, also where their size was their own."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for number, suffix in enumerate(["png", "jpg", "webp", "gif", "bmp"]):
        for mode, shape in (("L", (8, 8)), ("RGB", (8, 8, 3))):
            (tmp_path / mode).mkdir(exist_ok=True)
            pixels = rng.integers(0, 256, shape).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / mode / f"{number}.{suffix}")
    for folder, channels in (("L", 1), ("RGB", 3), (".", 3)):
        first = data.load(tmp_path / folder)
        if first.images.shape[-1] != channels:
            continue  # a grey GIF has a palette
        config = run_config(replace(SIMPLE, in_channels=channels))
        again = load_again(replace(config, data=DataConfig(str(tmp_path / folder))), first.summary)
        np.testing.assert_array_equal(again.images, first.images)


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = str(tmp_path)
    assert DataConfig("mnist", data_dir="sets").at() == DataConfig("mnist", data_dir=f"{here}/sets")
    assert DataConfig("./mnist").at() == DataConfig(f"{here}/mnist")
    assert DataConfig("photos", flip=True).at("new") == DataConfig(f"{here}/new", flip=True)
    assert DataConfig("mnist").at(data_dir="new") == DataConfig("mnist", data_dir=f"{here}/new")
    assert [DataConfig(name).title for name in ("mnist", "/a/photos", "/a/photos/", "/", ".")] == [
        "mnist", "photos", "photos", "/", "."
    ]  # fmt: skip


@pytest.mark.parametrize(
    "known",
    [None, Summary(4, ("b", "c"), (2, 2), "x"), Summary(4, ("c", "b"), (2, 2), "x")],
    ids=["old", "same", "turned"],
)
def test_a_model_learns_what_labels_meant(monkeypatch: pytest.MonkeyPatch, known: Summary | None) -> None:
    dataset = replace(images(4), labels=np.array([0, 0, 1, 1]), class_names=("b", "c"))
    monkeypatch.setattr(data, "load", lambda *_, **__: dataset)
    config = run_config(replace(UNET, num_classes=2))
    again = load_again(replace(config, data=DataConfig("folder")), known, accept=True)
    assert again.labels is not None
    assert again.labels.tolist() == ([1, 1, 0, 0] if known and known.classes == ("c", "b") else [0, 0, 1, 1])
