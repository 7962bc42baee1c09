"""Measuring a model: its loss at each noise level, and what a classifier says of its samples."""

from dataclasses import dataclass

import numpy as np

from tinyddpm import data, streams
from tinyddpm.diffusion import Diffusion
from tinyddpm.errors import InputError
from tinyddpm.model import Model

CLASSIFIED = ("digits", "mnist")
CONFIDENT = 0.9
EVALUATED_IMAGES = 512
BATCH = 64
TRAINING_IMAGES = 20000


@dataclass(frozen=True)
class Level:
    """The mean squared error of the network's output at timestep t of the schedule."""

    t: int
    alpha_bar: float
    loss: float


def loss_per_level(
    model: Model, diffusion: Diffusion, dataset: data.Dataset, levels: int, seed: int = 0
) -> list[Level]:
    """Mean squared error at `levels` timesteps spread over the schedule, over up to 512 images.

    Each level sees the same images, and noise that depends on (seed, level) alone, so that models compare.
    """
    be = model.backend
    images = dataset.images[:EVALUATED_IMAGES]
    labels = None
    if model.config.num_classes is not None and dataset.labels is not None:
        labels = dataset.labels[:EVALUATED_IMAGES]
    rows = []
    for t in diffusion.schedule.spaced_indices(min(levels, diffusion.schedule.T), "linspace"):
        total = 0.0
        for number, first in enumerate(range(0, len(images), BATCH)):
            x0 = be.asarray(data.to_unit(images[first : first + BATCH]))
            noise, _ = be.random_normal(tuple(x0.shape), seed, streams.EVALUATION_NOISE + number, int(t))
            output = model(
                diffusion.q_sample(x0, t, noise),
                int(diffusion.schedule.timesteps[t]),
                labels=None if labels is None else labels[first : first + BATCH],
            )
            loss, _ = be.mse_loss(output, diffusion.target(x0, t, noise))
            total += float(loss) * x0.shape[0]
        rows.append(Level(int(t), float(diffusion.schedule.alpha_bars[t]), total / len(images)))
    return rows


@dataclass(frozen=True)
class ClassifierScore:
    """What a classifier trained on real images says of samples.

    recognised: share of samples given a class with a probability over CONFIDENT; recognised_test: the same share
    of real test images, the most to hope for. balance: samples per class. evenness: their entropy over that of
    equal shares, 1 if all classes come equally often. test_accuracy: of the classifier itself.
    """

    recognised: float
    recognised_test: float
    balance: tuple[int, ...]
    evenness: float
    test_accuracy: float


def classifier_score(samples: np.ndarray, train: data.Dataset, test: data.Dataset) -> ClassifierScore:
    """Trains a small network of scikit-learn on real images and shows it the samples, (N, H, W, C) uint8."""
    from sklearn.neural_network import MLPClassifier

    def features(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1).astype(np.float32) / 255

    if train.labels is None or test.labels is None:
        raise InputError(f"a classifier needs labels, and {train.name} has none")
    chosen = np.random.default_rng(0).permutation(len(train))[:TRAINING_IMAGES]
    classifier = MLPClassifier((128,), max_iter=60, early_stopping=True, n_iter_no_change=5, random_state=0)
    classifier.fit(features(train.images[chosen]), train.labels[chosen])
    probabilities = classifier.predict_proba(features(samples))
    test_probabilities = classifier.predict_proba(features(test.images))
    counts = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
    shares = counts[counts > 0] / len(samples)
    return ClassifierScore(
        recognised=float(np.mean(probabilities.max(axis=1) > CONFIDENT)),
        recognised_test=float(np.mean(test_probabilities.max(axis=1) > CONFIDENT)),
        balance=tuple(int(count) for count in counts),
        evenness=float(-np.sum(shares * np.log(shares)) / np.log(len(counts))),
        test_accuracy=float(np.mean(classifier.classes_[test_probabilities.argmax(axis=1)] == test.labels)),
    )
