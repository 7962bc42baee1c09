"""What a nearest-neighbour classifier of real images says of samples."""

from dataclasses import dataclass

import numpy as np

from tinyddpm import data
from tinyddpm.checks import check_kind, told
from tinyddpm.errors import InputError

CLASSIFIED = ("digits", "mnist")
NEIGHBOURS = 5
TYPICAL = 0.95
TRAINING_IMAGES = 20000
TEST_IMAGES = 2000


@dataclass(frozen=True)
class ClassifierScore:
    """What a classifier trained on real images says of samples.

    recognised: share of samples that look like one digit: their NEIGHBOURS nearest real images share one
    label and are no farther away than for 95 % (TYPICAL) of real test images. recognised_test: the same share of the
    test images, the most to hope for. balance: samples per class, by majority. evenness: the entropy of these over
    that of equal shares, 1 if all classes come equally often. test_accuracy: of the classifier itself.
    """

    recognised: float
    recognised_test: float
    balance: tuple[int, ...]
    evenness: float
    test_accuracy: float


def classifier_score(samples: np.ndarray, train: data.Dataset, test: data.Dataset) -> ClassifierScore:
    """Shows the samples, (N, H, W, C) uint8, to a nearest-neighbour classifier of real images.

    Distance, unlike a network's probability, also tells what is no digit at all. Raises InputError for a data set
    without labels, and for samples of another dtype or shape than its images.
    """
    from sklearn.neighbors import KNeighborsClassifier

    def features(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1).astype(np.float32) / 255

    for name, dataset, least in (("train", train, NEIGHBOURS), ("test", test, 1)):
        if len(check_kind(name, dataset, data.Dataset, "data.load('digits')")) < least:
            raise InputError(f"{name} must have at least {least} images, got {len(dataset)}")
    if train.labels is None or test.labels is None:
        raise InputError(f"a classifier needs labels, and {train.name} has none")
    shape = train.images.shape[1:]
    if (
        not isinstance(samples, np.ndarray)
        or samples.dtype != np.uint8
        or samples.shape[1:] != shape
        or not len(samples)
    ):
        wanted = ", ".join(map(str, ("N", *shape)))
        raise InputError(f"samples must be uint8 of shape ({wanted}), as the images are, got {told(samples)}")
    chosen = np.random.default_rng(0).permutation(len(train))[:TRAINING_IMAGES]
    known = train.labels[chosen]
    classifier = KNeighborsClassifier(NEIGHBOURS).fit(features(train.images[chosen]), known)

    def look(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        distances, indices = classifier.kneighbors(features(images))
        votes = known[indices]
        agree = np.all(votes == votes[:, :1], axis=1)
        majority = np.array([np.bincount(row).argmax() for row in votes])
        return distances.mean(axis=1), agree, majority

    real = test.take(np.arange(min(len(test), TEST_IMAGES)))
    distance, agree, majority = look(real.images)
    farthest = np.quantile(distance, TYPICAL)
    sample_distance, sample_agree, sample_majority = look(samples)
    counts = np.bincount(sample_majority, minlength=train.num_classes or 0)
    shares = counts[counts > 0] / len(samples)
    return ClassifierScore(
        recognised=float(np.mean(sample_agree & (sample_distance <= farthest))),
        recognised_test=float(np.mean(agree & (distance <= farthest))),
        balance=tuple(int(count) for count in counts),
        evenness=float(-np.sum(shares * np.log(shares)) / np.log(len(counts))),
        test_accuracy=float(np.mean(majority == real.labels)),
    )
