"""The classifier: its gradients by the complex step, its files, what it takes, and that the shipped ones are good."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import backends
from tests.tinyddpm.networks.test_layers import check_gradients, simple, simple_backward
from tinyddpm import data
from tinyddpm.errors import DamagedFileError, InputError, MissingDataError
from tinyddpm.evaluation.classifier import (
    BATCH,
    Classifier,
    ClassifierConfig,
    load_classifier,
    look,
    save_classifier,
    shipped,
)
from tinyddpm.evaluation.train_classifier import RECIPES, accuracy, main, rate, shifted, trained

NUMPY = backends.get("numpy")
SMALL = ClassifierConfig((8, 8), 1, (4, 6), 3, groups=2)


def small(seed: int = 0) -> Classifier:
    return Classifier(SMALL, NUMPY, seed)


def pictures(count: int, side: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 1)).astype(np.uint8)


@given(
    size=st.sampled_from([(8, 8), (7, 8), (5, 6), (2, 2)]),
    channels=st.sampled_from([(4,), (2, 4), (4, 2, 6)]),
    colours=st.sampled_from([1, 3]),
    depth=st.integers(1, 2),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=15, deadline=None)
def test_gradients(size: tuple[int, int], channels: tuple[int, ...], colours: int, depth: int, seed: int) -> None:
    """Every parameter's and the images', each once, with nothing left on the tape."""
    try:
        config = ClassifierConfig(size, colours, channels, 3, depth, groups=2)
    except InputError:
        return  # a last size that is no square of a power of two
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, *size, colours))

    def make(scope: Any) -> Classifier:
        made = Classifier(config, NUMPY, dtype="float64")
        # Declared again where the check lays parameters out
        made.parameters = scope.parameters
        made.build(scope)
        return made

    check_gradients(make, [x], simple, simple_backward, rng)


def test_the_gradient_of_what_is_learned() -> None:
    """The cross-entropy's, by the complex step along a random direction of all parameters."""
    rng = np.random.default_rng(0)
    classifier = Classifier(SMALL, NUMPY, dtype="float64")
    classifier.params[...] = 0.5 * rng.standard_normal(classifier.params.shape)
    x, labels, v = rng.standard_normal((5, 8, 8, 1)), rng.integers(0, 3, 5), rng.standard_normal(classifier.params.size)
    loss = classifier.learn(x, labels)
    shifted_params = Classifier(SMALL, NUMPY, params=classifier.params + 1e-30j * v)
    exact, _ = NUMPY.softmax_cross_entropy(shifted_params.forward(x + 0j), labels)
    assert exact.real == pytest.approx(loss, rel=1e-14)
    assert classifier.grads @ v == pytest.approx(exact.imag / 1e-30, rel=1e-10)


def test_features_are_the_mean_over_pixels_of_the_last_convolution() -> None:
    classifier = small()
    x = data.to_unit(pictures(3))
    features = classifier.features(x)
    assert features.shape == (3, SMALL.features) == (3, 6)
    np.testing.assert_allclose(classifier.head.forward(features, None), classifier.forward(x))
    for conv, norm in classifier.stages:
        x = norm.forward(conv.forward(x, None), None)
    assert x.shape == (3, 4, 4, 6)
    np.testing.assert_allclose(features, x.mean(axis=(1, 2)), rtol=1e-5)


def test_each_level_halves_once() -> None:
    classifier, sizes = Classifier(ClassifierConfig((8, 8), 1, (4, 6), 3, depth=3, groups=2), NUMPY), []
    x = data.to_unit(pictures(1))
    for conv, _ in classifier.stages:
        x = conv.forward(x, None)
        sizes.append(x.shape[1:])
    assert sizes == [(8, 8, 4)] * 3 + [(4, 4, 6)] * 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (((28, 28), 1, (8, 8), 10), "28x28 to 14x14; the last must be 1x1"),
        (((8, 4), 1, (8, 8), 10), "8x4 to 4x2"),
        (((8, 8), 1, (8, 12), 10), "groups must divide all channels"),
        (((8, 8), 1, (8,), 1), "num_classes"),
        (((8,), 1, (8,), 10), "a height, a width"),
        (((8, 8), 0, (8,), 10), "in_channels"),
        (((8, 8), 1, (8,), 10, 0), "depth"),
    ],
)
def test_configs_that_are_none(options: tuple[Any, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ClassifierConfig(*options)


# --- looking at images ---


def test_looking_is_batch_by_batch_and_gives_probabilities() -> None:
    classifier, images = small(), pictures(BATCH + 3)
    seen = look(classifier, images)
    logits = np.asarray(classifier.forward(data.to_unit(images)), np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(seen.probabilities, expected, rtol=1e-5)
    np.testing.assert_allclose(seen.features, classifier.features(data.to_unit(images)), rtol=1e-4, atol=1e-5)
    assert seen.features.dtype == seen.probabilities.dtype == np.float64
    assert len(seen.first(2).features) == len(seen.first(2).probabilities) == 2


@pytest.mark.parametrize("images", [data.to_unit(pictures(3)), pictures(3)[..., 0], pictures(3, 6), pictures(0), [[1]]])
def test_only_bytes_of_its_size_are_looked_at(images: Any) -> None:
    """Samples that were never rounded would be told from real images by that alone."""
    with pytest.raises(InputError, match=r"the classifier sees uint8 of shape \(N, 8, 8, 1\)"):
        look(small(), images)


# --- files ---


def test_a_file_holds_the_weights_in_half_precision(tmp_path: Path) -> None:
    path, classifier = tmp_path / "c.safetensors", small()
    save_classifier(path, classifier, {"accuracy": 0.5})
    again, about = load_classifier(path, NUMPY)
    assert about == {"accuracy": 0.5}
    assert again.config == SMALL
    np.testing.assert_array_equal(again.params, np.asarray(classifier.params).astype(np.float16).astype(np.float32))
    save_classifier(tmp_path / "d.safetensors", again, about)
    assert (tmp_path / "d.safetensors").read_bytes() == path.read_bytes()


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="no classifier at"):
        load_classifier(tmp_path / "missing")
    path = tmp_path / "c.safetensors"
    save_classifier(path, small(), {})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="damaged"):
        load_classifier(path)


# --- training ---


def test_shifted_images_are_cut_from_a_black_ground() -> None:
    x = data.to_unit(pictures(200, 5))
    moved = shifted(x, 2, np.random.default_rng(0))
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=-1)
    places = set()
    for image, ground in zip(moved, padded, strict=True):
        found = [(i, j) for i in range(5) for j in range(5) if np.array_equal(image, ground[i : i + 5, j : j + 5])]
        places |= set(found)
        assert len(found) == 1
    assert len(places) == 25


def test_the_rate_rises_and_falls_to_nothing() -> None:
    rates = [rate(step, 100, 0.5) for step in range(100)]
    assert rates[0] == 0.05
    assert max(rates) == rates[9] == rates[10] == 0.5
    assert rates[55] == pytest.approx(0.25)
    assert rates[-1] < 1e-3
    assert rate(0, 1, 0.5) == 0.5


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_training_learns(backend: str) -> None:
    """A hundred steps on digits, and every other class is guessed right far more often than by chance."""
    told: list[tuple[int, int]] = []
    train, test = data.load("digits"), data.load("digits", split="test")
    classifier = trained(train, RECIPES["digits"], backends.get(backend), steps=100, tell=lambda *a: told.append(a[:2]))
    assert accuracy(classifier, test) > 0.7
    assert told == [(25 * i, 100) for i in range(1, 5)]


def test_the_command_in_small(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    result = CliRunner().invoke(main, ["digits", "--steps", "2", "-o", str(path)])
    assert result.exit_code == 0, result.output
    classifier, about = load_classifier(path, NUMPY)
    reached = accuracy(classifier, data.load("digits", split="test"))
    assert about == {
        "data": "digits",
        "digest": data.load("digits").summary.digest,
        "command": "python -m tinyddpm.evaluation.train_classifier digits --seed 0 --steps 2",
        "accuracy": pytest.approx(reached, abs=0.01),
    }
    assert result.output.splitlines()[-1].startswith(f"wrote {path}: {about['accuracy']:.2%} of 256 test images right")


def test_images_kept_aside_are_not_learnt_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last ones, whose accuracy is told; the test images are looked at when all is done."""
    seen: list[data.Dataset] = []

    def spied(train: data.Dataset, *more: Any) -> Classifier:
        seen.append(train)
        return trained(train, *more)

    monkeypatch.setitem(RECIPES, "digits", replace(RECIPES["digits"], aside=100))
    monkeypatch.setattr("tinyddpm.evaluation.train_classifier.trained", spied)
    result = CliRunner().invoke(main, ["digits", "--steps", "1", "-o", str(tmp_path / "c.safetensors")])
    train = data.load("digits")
    np.testing.assert_array_equal(seen[0].images, train.images[:-100])
    first, _ = result.output.splitlines()
    classifier, _ = load_classifier(tmp_path / "c.safetensors", NUMPY)
    right = accuracy(classifier, train.take(range(len(train) - 100, len(train))))
    told = re.fullmatch(r"step 1 of 1, loss [\d.]+, ([\d.]+)% of 100 images kept aside right", first)
    assert told is not None
    assert float(told[1]) == pytest.approx(100 * right, abs=3)


# --- what comes with the package ---


@pytest.mark.parametrize(("name", "least"), [("digits", 0.98), ("mnist", 0.992), ("fashion-mnist", 0.916)])
def test_the_shipped_classifier_is_good(name: str, least: float, request: pytest.FixtureRequest) -> None:
    where = {} if name == "digits" else {"data_dir": request.getfixturevalue("data_dir")}
    path = shipped(name)
    assert path is not None
    classifier, about = load_classifier(path)
    train, test = (data.load(name, split=split, **where) for split in data.SPLITS)
    assert accuracy(classifier, test) == pytest.approx(about["accuracy"], abs=0.0011)
    assert about["accuracy"] >= least
    assert about["digest"] == train.summary.digest
    assert about["command"].endswith(f"train_classifier {name} --seed 0")


def test_shipped_files_are_small_and_for_named_sets_only() -> None:
    assert set(RECIPES) == {name for name in data.NAMES if shipped(name)}
    assert shipped("../classifiers/digits") is shipped("./digits") is shipped("cifar10") is None
    for name, recipe in RECIPES.items():
        path = shipped(name)
        assert path is not None
        assert path.stat().st_size < 500_000
        classifier, _ = load_classifier(path, NUMPY)
        assert (classifier.config.channels, classifier.config.depth) == (recipe.channels, recipe.depth)
        assert json.loads(json.dumps(classifier.config.to_dict())) == classifier.config.to_dict()
        assert classifier.config.features == {"digits": 64, "mnist": 128, "fashion-mnist": 128}[name]
