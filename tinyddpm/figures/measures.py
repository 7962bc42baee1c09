"""What is measured of a trained run: loss by noise level, scores of samples, seconds and memory of steps."""

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from tinyddpm import data
from tinyddpm.evaluation.classifier import shipped
from tinyddpm.evaluation.loss_by_level import NoiseLevelLoss, loss_by_noise_level
from tinyddpm.evaluation.quality import Quality, classifier_for, quality, real_images
from tinyddpm.figures.workshop import Trained
from tinyddpm.generation.labels import labels_of
from tinyddpm.training.checkpoint import Checkpoint
from tinyddpm.training.peak_memory import from_status
from tinyddpm.training.run_folder import open_checkpoint, read_config
from tinyddpm.training.trainer import Trainer

LEVELS = 10
# Samples that are scored: more than the classifiers have features
FULL_IMAGES, QUICK_IMAGES = 1000, 80
# Steps that compile kernels and record the network
WARM_UP = 2


def losses(trained: Trained) -> list[NoiseLevelLoss]:
    """Mean squared error of the averaged weights at ten noise levels, on test images, whatever it was trained with."""
    checkpoint, test = trained.checkpoint, trained.dataset("test")
    few = test.take(np.arange(min(len(test), trained.workshop.of(512, 64))))
    return loss_by_noise_level(checkpoint.sampling_model(), checkpoint.diffusion, few, LEVELS)


def scores(trained: Trained, images: np.ndarray) -> Quality:
    """Scores of samples, every label in turn, beside real images. Raises InputError for data without a classifier."""
    train, test = trained.dataset(), trained.dataset("test")
    asked = labels_of(len(images), trained.checkpoint.model.config.num_classes)
    few = test.take(np.arange(min(len(test), trained.workshop.of(len(test), 500))))
    classifier, real = classifier_for(train, trained.workshop.backend), trained.workshop.real
    key = (train.name, images.shape)
    if key not in real:
        real[key] = real_images(classifier, len(images), train, few)
    return quality(classifier, images, train, few, asked, real[key])


def fidelity(trained: Trained, sample_steps: int) -> Quality | None:
    """Scores of new samples; None for data that no classifier comes with."""
    if shipped(trained.dataset().name) is None or trained.checkpoint.model.config.in_channels != 1:
        return None
    return scores(trained, trained.samples(trained.workshop.of(FULL_IMAGES, QUICK_IMAGES), sample_steps))


def in_words(found: Quality | None) -> str:
    """The Fréchet distance, with a comma before it; nothing where there is none."""
    if found is None or found.samples.frechet is None or found.frechet_ratio is None:
        return ""
    return f", Fréchet distance {found.samples.frechet:.3g} ({found.frechet_ratio:.3g} × that of real images)"


def mean_loss(rows: Sequence[NoiseLevelLoss]) -> float:
    """Over the noise levels."""
    return float(np.mean([row.loss for row in rows]))


def step_seconds(runs: Sequence[Trained], rounds: int = 5) -> list[float]:
    """Median seconds of a training step of each run, in turn, so that what else the machine does hits all alike."""
    trainers = [trainer_of(run.checkpoint, run.folder, run.dataset()) for run in runs]
    seconds: list[list[float]] = [[] for _ in trainers]
    for number in range(WARM_UP + rounds):
        for own, trainer in zip(seconds, trainers, strict=True):
            begun = time.perf_counter()
            trainer.take_step()
            if number >= WARM_UP:
                own.append(time.perf_counter() - begun)
    return [float(np.median(own)) for own in seconds]


def trainer_of(checkpoint: Checkpoint, folder: Path, dataset: data.Dataset) -> Trainer:
    """A trainer that takes steps as the run did, with weights of its own."""
    training, model = read_config(folder).training, checkpoint.model
    batches = data.Batches(dataset, training.batch_size, training.seed)
    own = model.with_params(model.backend.xp.asarray(model.params, copy=True))
    return Trainer(own, checkpoint.diffusion, batches, replace(training, steps=WARM_UP + training.steps))


def peak_bytes(trained: Trained, steps: int = 3) -> int | None:
    """The most memory that a process of its own takes to train the run, in a few steps; None where nobody tells."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(train_on, trained.folder, steps).result()


def train_on(folder: Path, steps: int) -> int | None:
    """Takes steps from the last checkpoint, keeping nothing; the peak of this process's memory so far."""
    trainer = trainer_of(open_checkpoint(folder), folder, read_config(folder).data.load())
    for _ in range(steps):
        trainer.take_step()
    return from_status("VmHWM")
