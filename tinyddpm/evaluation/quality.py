"""Scores of samples in the features of a classifier, beside the same scores of real images."""

from dataclasses import dataclass, replace

import numpy as np

import backends
from tinyddpm import data
from tinyddpm.checks import check_kind, check_labels, told
from tinyddpm.data.resize import unpad
from tinyddpm.errors import InputError
from tinyddpm.evaluation.classifier import Classifier, Seen, load_classifier, look, shipped
from tinyddpm.evaluation.frechet import frechet_distance
from tinyddpm.evaluation.kernel_distance import SUBSETS, kernel_distance
from tinyddpm.evaluation.precision_recall import NEIGHBOURS, precision_and_recall

CONFIDENT = 0.9
# Disjoint draws of real images whose Fréchet distances are averaged, at most: a single one's is off by a tenth or more
DRAWS = 6


@dataclass(frozen=True)
class Distances:
    """How far `images` images are from test images, all of it dependent on their number but the kernel distance.

    frechet: see `frechet_distance`; None for no more images than features. kernel, kernel_error: the kernel distance
    and its standard error; None for fewer than two images in each subset. precision, recall: see
    `precision_and_recall`; None for no more images than neighbours.
    """

    images: int
    frechet: float | None
    kernel: float | None
    kernel_error: float | None
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class Shares:
    """What the classifier says of each of `images` images by itself, so that the number brings no bias.

    recognised: the share that it gives to one class with a probability of at least 0.9 (CONFIDENT). accuracy: the
    share of images given to the class that was asked for, None where none was. balance: the share of each class, (K,).
    """

    images: int
    recognised: float
    accuracy: float | None
    balance: tuple[float, ...]


@dataclass(frozen=True)
class Quality:
    """Scores of samples beside those of real images.

    samples, real: distances from the test images, of the samples and of as many training images; its Fréchet distance
    is the mean of real_draws, those of up to 6 (DRAWS) draws that share no image. frechet_bias: by how much it would
    fall with endless training images; None where that cannot be told. sample_shares, real_shares: of the samples and of
    the test images, which the classifier has not learnt from.
    """

    samples: Distances
    real: Distances
    real_draws: tuple[float, ...]
    frechet_bias: float | None
    sample_shares: Shares
    real_shares: Shares

    @property
    def frechet_ratio(self) -> float | None:
        """The headline: the samples' Fréchet distance over that of as many real images."""
        if self.samples.frechet is None or not self.real.frechet:
            return None
        return self.samples.frechet / self.real.frechet


@dataclass(frozen=True)
class RealImages:
    """What `count` samples are compared with.

    test: the test images as the classifier sees them; shares: theirs. distances, draws, bias: of training images, as
    `Quality` has them.
    """

    count: int
    test: Seen
    shares: Shares
    distances: Distances
    draws: tuple[float, ...]
    bias: float | None


def real_images(classifier: Classifier, n: int, train: data.Dataset, test: data.Dataset) -> RealImages:
    """What n samples are compared with. Raises InputError for images that the classifier does not see."""
    chosen = np.random.default_rng(0).permutation(len(train))[: DRAWS * n]
    seen, known = (look(classifier, unpad(a, classifier.config.size)) for a in (test.images, train.images[chosen]))
    real = distances(known.first(n), seen)
    draws = () if real.frechet is None else frechet_draws(known, n, seen)
    real = replace(real, frechet=float(np.mean(draws)) if draws else None)
    return RealImages(n, seen, shares(seen, test.labels), real, draws, frechet_bias(known, n, len(train), seen))


def quality(
    classifier: Classifier,
    samples: np.ndarray,
    train: data.Dataset,
    test: data.Dataset,
    asked: np.ndarray | None = None,
    real: RealImages | None = None,
) -> Quality:
    """Scores samples (N, H, W, C) uint8. asked: (N,) the labels that they were drawn for, or None.

    train, test: the real images, at the size of the samples; where that is the classifier's on a wider black ground,
    both are cut alike. real: what `real_images` makes of them for N samples, where it was made already. Raises
    InputError for other sizes, for sets without labels, and for more samples than training images, which are the
    yardstick at the same count.
    """
    for name, dataset in (("train", train), ("test", test)):
        if check_kind(name, dataset, data.Dataset, "data.load('mnist')").labels is None or not len(dataset):
            raise InputError(f"{name} must have images with labels, got {len(dataset)} of {dataset.name}")
    size = check_kind("classifier", classifier, Classifier, "classifier_for(test)").config.size
    if not isinstance(samples, np.ndarray) or samples.ndim != 4:
        raise InputError(f"samples must be uint8 of shape (N, H, W, C), got {told(samples)}")
    n = len(samples)
    if n > len(train):
        raise InputError(f"{n} samples are more than the {len(train)} real images they are compared with; use fewer")
    if asked is not None:
        asked, classes = check_labels(asked, n, classifier.config.num_classes), classifier.config.num_classes
        if n and asked.max() == classes:
            raise InputError(f"asked must be labels in 0 … {classes - 1}, or None where none was, got {classes}")
    drawn = look(classifier, unpad(samples, size))
    real = real_images(classifier, n, train, test) if real is None else real
    if real.count != n:
        raise InputError(f"real is for {real.count} samples, got {n}; make it for as many, or leave it out")
    own = distances(drawn, real.test)
    return Quality(own, real.distances, real.draws, real.bias, shares(drawn, asked), real.shares)


def classifier_for(images: data.Dataset, be: backends.Backend | None = None) -> Classifier:
    """The shipped classifier of a set of images. Raises InputError that says why there is none for this set or size."""
    path = shipped(images.name)
    if path is None:
        known = ", ".join(name for name in data.NAMES if shipped(name))
        raise InputError(f"{images.name} has no classifier; there are some for {known}")
    classifier, _ = load_classifier(path, be)
    size = classifier.config.size
    try:
        cut = unpad(images.images[:1], size)
    except InputError as error:
        raise InputError(f"the classifier of {images.name} sees {size[0]}x{size[1]}: {error}") from error
    if cut.shape[3] != classifier.config.in_channels:
        raise InputError(f"the classifier of {images.name} sees images in grey, and these are in colour")
    return classifier


def distances(images: Seen, test: Seen) -> Distances:
    """How far images are from test images, by every measure for which there are enough of either."""
    a, b = images.features, test.features
    count = min(len(a), len(b))
    kernel, error = kernel_distance(a, b) if count >= 2 * SUBSETS else (None, None)
    precision, recall = precision_and_recall(b, a) if count > NEIGHBOURS else (None, None)
    return Distances(len(a), frechet_distance(a, b) if count > a.shape[1] else None, kernel, error, precision, recall)


def shares(images: Seen, asked: np.ndarray | None) -> Shares:
    """What the classifier says of each image. asked: (N,) its label, or None."""
    found, (n, classes) = images.probabilities.argmax(axis=1), images.probabilities.shape
    return Shares(
        n,
        float(np.mean(images.probabilities.max(axis=1) >= CONFIDENT)),
        None if asked is None else float(np.mean(found == asked)),
        tuple(float(share) for share in np.bincount(found, minlength=classes) / n),
    )


def frechet_draws(real: Seen, n: int, test: Seen) -> tuple[float, ...]:
    """The Fréchet distances from the test images of as many disjoint draws of n real images as there are."""
    starts = range(0, len(real.features) - n + 1, n)
    return tuple(frechet_distance(real.features[first : first + n], test.features) for first in starts)


def other_count(n: int, most: int) -> int:
    """The second number of real images from which the bias at n is told: twice as many, or half where there are not."""
    return 2 * n if 2 * n <= most else n // 2


def frechet_bias(real: Seen, n: int, most: int, test: Seen) -> float | None:
    """How much of the Fréchet distance of n real images is b in F(n) = F + b / n (Chong & Forsyth 2020, section 3).

    Told from n and the `other_count` m of them: b / n = (F(n) - F(m)) / (1 - n / m).
    """
    m = other_count(n, most)
    if min(n, m, len(test.features)) <= real.features.shape[1]:
        return None
    here, there = (float(np.mean(frechet_draws(real, count, test))) for count in (n, m))
    return (here - there) / (1 - n / m)
