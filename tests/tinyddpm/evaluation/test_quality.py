"""The scores of samples: what they are of, beside which real images, and with what bias."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import backends
from tinyddpm import data
from tinyddpm.data.resize import pad
from tinyddpm.errors import InputError
from tinyddpm.evaluation import quality as module
from tinyddpm.evaluation.classifier import Classifier, Seen, look
from tinyddpm.evaluation.frechet import frechet_distance
from tinyddpm.evaluation.kernel_distance import kernel_distance
from tinyddpm.evaluation.precision_recall import precision_and_recall
from tinyddpm.evaluation.quality import (
    DRAWS,
    classifier_for,
    distances,
    frechet_bias,
    frechet_draws,
    quality,
    real_images,
    shares,
)
from tinyddpm.reporting.score_table import table

NUMPY = backends.get("numpy")
Sets = tuple[data.Dataset, data.Dataset]


@cache
def digits() -> Sets:
    return data.load("digits"), data.load("digits", split="test")


@cache
def classifier() -> Classifier:
    return classifier_for(digits()[1], NUMPY)


def test_every_score_by_hand() -> None:
    train, test = digits()
    samples, asked = train.images[-300:], (train.labels[-300:] + (np.arange(300) % 4 == 0)) % 10
    score = quality(classifier(), samples, train, test, asked)
    drawn, seen = look(classifier(), samples), look(classifier(), test.images)
    order = np.random.default_rng(0).permutation(len(train))
    draws = [look(classifier(), train.images[order[300 * i : 300 * (i + 1)]]) for i in range(5)]
    each = [frechet_distance(images.features, seen.features) for images in draws]
    assert score.real_draws == pytest.approx(each, rel=1e-4)
    assert score.samples.frechet == pytest.approx(frechet_distance(drawn.features, seen.features), rel=1e-4)
    assert score.real.frechet == pytest.approx(np.mean(each), rel=1e-4)
    for found, images in ((score.samples, drawn), (score.real, draws[0])):
        assert found.images == 300
        kernel = kernel_distance(images.features, seen.features)
        assert (found.kernel, found.kernel_error) == pytest.approx(kernel, rel=1e-3, abs=1e-6)
        expected = precision_and_recall(seen.features, images.features)
        assert (found.precision, found.recall) == pytest.approx(expected, abs=0.01)
    assert score.frechet_ratio == score.samples.frechet / score.real.frechet
    guess = drawn.probabilities.argmax(axis=1)
    assert score.sample_shares.images == 300
    assert score.sample_shares.accuracy == np.mean(guess == asked)
    assert 0.7 < score.sample_shares.accuracy < 0.8
    assert score.sample_shares.recognised == np.mean(drawn.probabilities.max(axis=1) >= 0.9)
    assert score.sample_shares.balance == tuple(np.bincount(guess, minlength=10) / 300)
    assert score.real_shares == shares(seen, test.labels)
    assert score.real_shares.accuracy > 0.98


def test_real_images_can_be_looked_at_once_for_many_samples() -> None:
    train, test = digits()
    known = real_images(classifier(), 80, train, test)
    for first in (0, 500):
        samples = train.images[first : first + 80]
        assert quality(classifier(), samples, train, test, real=known) == quality(classifier(), samples, train, test)
    with pytest.raises(InputError, match=r"^real is for 80 samples, got 81; make it for as many, or leave it out$"):
        quality(classifier(), train.images[:81], train, test, real=known)


def test_the_classes_asked_for_are_those_of_the_labels() -> None:
    """Real images at their own labels are nearly all right; labels off by one make nearly all wrong."""
    train, test = digits()
    for shift, low, high in ((0, 0.95, 1), (1, 0, 0.05)):
        score = quality(classifier(), test.images, train, test, (test.labels + shift) % 10)
        assert low <= score.sample_shares.accuracy <= high
        assert score.real_shares.accuracy > 0.95
    few = quality(classifier(), test.images[:30], train, test)
    assert few.sample_shares.accuracy is None
    assert few.real_draws == ()


def test_the_yardstick_is_the_mean_of_draws_that_share_no_image() -> None:
    train, test = digits()
    for count, draws in ((100, DRAWS), (300, 5), (800, 1)):
        score = quality(classifier(), train.images[:count], train, test)
        assert len(set(score.real_draws)) == len(score.real_draws) == draws
        assert score.real.frechet == pytest.approx(np.mean(score.real_draws), rel=1e-12)
    features = Seen(np.random.default_rng(0).standard_normal((10, 2)), np.zeros((10, 2)))
    each = [frechet_distance(features.features[first : first + 4], features.features) for first in (0, 4)]
    assert frechet_draws(features, 4, features) == tuple(each)


def test_noise_is_far_from_real_images() -> None:
    train, test = digits()
    noise = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 1)).astype(np.uint8)
    bad, good = quality(classifier(), noise, train, test), quality(classifier(), train.images[-200:], train, test)
    assert bad.frechet_ratio > 10 > 2 > good.frechet_ratio > 0.5
    assert bad.samples.kernel > 10 * bad.samples.kernel_error
    assert abs(good.samples.kernel) < 5 * good.samples.kernel_error
    assert bad.samples.precision < 0.1
    assert good.samples.precision > 0.7
    assert bad.sample_shares.recognised < good.sample_shares.recognised


def test_one_image_again_and_again_is_precise_and_no_more() -> None:
    train, test = digits()
    score = quality(classifier(), test.images[:1].repeat(100, axis=0), train, test)
    assert score.samples.precision == 1
    assert score.samples.recall < 0.1
    assert sorted(score.sample_shares.balance) == [0] * 9 + [1]


def test_what_too_few_images_cannot_tell_is_left_out() -> None:
    train, test = digits()
    for count, there in ((3, 0), (4, 2), (20, 4), (64, 4), (65, 5)):
        score = quality(classifier(), train.images[:count], train, test)
        found = score.samples
        values = (found.precision, found.recall, found.kernel, found.kernel_error, found.frechet)
        assert [value is not None for value in values] == [True] * there + [False] * (5 - there)
        assert (score.frechet_ratio is None) == (there < 5)
        assert "Fréchet" in table(score, "few")


def test_the_bias_is_told_and_falls_with_the_number() -> None:
    """Features from one distribution: all of their distance is bias, told right from twice as many and from half."""
    rng = np.random.default_rng(0)

    def seen(count: int) -> Seen:
        return Seen(rng.standard_normal((count, 16)), np.zeros((count, 2)))

    test = seen(200_000)
    for n in (400, 1600):
        found = [frechet_bias(seen(4 * n), n, most, test) for most in (4 * n, n) for _ in range(20)]
        measured = np.mean([frechet_distance(seen(n).features, test.features) for _ in range(20)])
        for half in (found[:20], found[20:]):
            assert np.mean(half) == pytest.approx(measured, rel=0.12)
    assert frechet_bias(seen(30), 15, 30, test) is None
    assert frechet_bias(seen(30), 30, 30, test) is None
    assert frechet_bias(seen(60), 30, 60, seen(9)) is None


def test_samples_on_a_wider_ground_are_cut_as_the_real_images_are() -> None:
    train, test = digits()
    wide = [replace(each, images=pad(each.images, 13)) for each in digits()]
    assert classifier_for(wide[1], NUMPY).config == classifier().config
    assert quality(classifier(), wide[0].images[:80], *wide) == quality(classifier(), train.images[:80], train, test)


def test_samples_and_real_images_are_looked_at_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """All through `look`, which takes bytes only: none by a way of its own."""
    seen = []
    monkeypatch.setattr(module, "look", lambda c, images: seen.append(images) or look(c, images))
    quality(classifier(), digits()[0].images[:50], *digits())
    assert [(len(images), images.dtype) for images in seen] == [(50, np.uint8), (256, np.uint8), (300, np.uint8)]
    with pytest.raises(InputError, match="uint8"):
        quality(classifier(), data.to_unit(digits()[0].images[:50]), *digits())


def test_what_has_no_scores() -> None:
    train, test = digits()
    samples = test.images[:20]
    for given, words in (
        ((samples, replace(train, labels=None, class_names=None), test), "train must have images with labels"),
        ((samples, train, test.take([])), "test must have images with labels, got 0"),
        ((samples, train.take(range(19)), test), "20 samples are more than the 19 real images"),
        ((samples, train, test, np.full(20, 10)), "asked must be labels in 0 … 9"),
        ((samples, train, test, np.zeros(19, np.int64)), "labels must be 20 integers"),
        ((samples[:, :7], train, test), "7x8 are none of 8x8"),
    ):
        with pytest.raises(InputError, match=words):
            quality(classifier(), *given)


def test_images_without_a_classifier() -> None:
    _, test = digits()
    for images, words in (
        (replace(test, name="cifar10"), "cifar10 has no classifier; there are some for digits, mnist, fashion-mnist"),
        (replace(test, name="a/folder"), "a/folder has no classifier"),
        (replace(test, images=test.images[:, 1:]), "the classifier of digits sees 8x8: images of 7x8 are none of"),
        (replace(test, images=pad(test.images, 17)), "17x17"),
        (replace(test, images=test.images.repeat(3, axis=-1)), "in grey, and these are in colour"),
    ):
        with pytest.raises(InputError, match=words):
            classifier_for(images, NUMPY)


def test_distances_are_the_same_whatever_the_order() -> None:
    train, test = digits()
    seen = look(classifier(), test.images)
    a = distances(look(classifier(), train.images[:100]), seen)
    b = distances(look(classifier(), train.images[:100][::-1]), seen)
    assert a.frechet == pytest.approx(b.frechet, rel=1e-5)
    assert (a.precision, a.recall) == (b.precision, b.recall)
