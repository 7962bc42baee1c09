"""Does it learn on this GPU? Some hundred steps on the digits, and samples to look at."""

import importlib.util
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.gpu.session import Session
from tinyddpm import Diffusion, Schedule, UNet, UNetConfig
from tinyddpm.data import Batches, load
from tinyddpm.generation.images import draw
from tinyddpm.reporting import pictures
from tinyddpm.training.checkpoint import Checkpoint
from tinyddpm.training.trainer import TrainConfig, Trainer


def digits() -> Any:
    """The digits of scikit-learn, 8x8, or where that is missing MNIST's, which must lie in TINYDDPM_DATA."""
    return load("digits" if importlib.util.find_spec("sklearn") else "mnist")


def learn(session: Session, be: Any, steps: int, batch: int, samples: int, config: UNetConfig) -> None:
    """A row with the loss at the start and at the end, and a picture of samples."""
    dataset = digits()
    height, width, channels = dataset.images.shape[1:]
    config = replace(config, image_size=(height, width), in_channels=channels)
    model, diffusion = UNet(config, backend=be, seed=0), Diffusion(Schedule.cosine(1000))
    training = TrainConfig(steps=steps, batch_size=batch, warmup_steps=min(steps, 50), lr=1e-3)
    batches = Batches(dataset, batch, seed=0)
    trainer = Trainer(model, diffusion, batches, training)
    losses = [metrics.loss for metrics in trainer.run(due=lambda: False)]
    for reason in getattr(trainer.recorder, "reasons", {}).values():
        raise RuntimeError(f"the step is not captured: {reason}")
    few = max(1, len(losses) // 10)
    session.row(
        "learning", precision=be.precision, steps=steps, first=float(np.mean(losses[:few])),
        last=float(np.mean(losses[-few:])),
    )  # fmt: skip
    images, _ = draw(Checkpoint(model, diffusion, ema=trainer.ema), samples, 20)
    pictures.save_grid(session.folder / f"gpu-digits-{be.precision}.png", images)
