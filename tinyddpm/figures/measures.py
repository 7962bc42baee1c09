"""What is measured of a trained run: its loss by noise level, and seconds and memory of its steps."""

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from tinyddpm import data
from tinyddpm.evaluation.loss_by_level import NoiseLevelLoss, loss_by_noise_level
from tinyddpm.figures.workshop import Trained
from tinyddpm.training.checkpoint import Checkpoint
from tinyddpm.training.peak_memory import from_status
from tinyddpm.training.run_folder import open_checkpoint, read_config
from tinyddpm.training.trainer import Trainer

LEVELS = 10
# Steps that compile kernels and record the network
WARM_UP = 2


def losses(trained: Trained) -> list[NoiseLevelLoss]:
    """Mean squared error of the averaged weights at ten noise levels, on test images, whatever it was trained with."""
    checkpoint, test = trained.checkpoint, trained.dataset("test")
    few = test.take(np.arange(min(len(test), trained.workshop.of(512, 64))))
    return loss_by_noise_level(checkpoint.sampling_model(), checkpoint.diffusion, few, LEVELS)


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
