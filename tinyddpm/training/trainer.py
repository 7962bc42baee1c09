"""Training: a generator of steps. Progress bars, files and pictures stay outside."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends import FiniteCheckBackend, NonFiniteError
from tinyddpm.checks import LARGEST_SEED, JsonConfig, check_choice, check_flag, check_number, check_whole, settle
from tinyddpm.data import Batches
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.networks.model import Model
from tinyddpm.training.optimizers import EMA, Adam, clip_scale

DECAYS = ("cosine", "constant")
# Random numbers are counted by batch in 32 bits
MOST_BATCHES = 2**32 - 1


@dataclass(frozen=True)
class TrainConfig(JsonConfig):
    """How a model is trained.

    steps: of the optimiser, each over `accumulate` batches of batch_size. lr: the highest learning rate, reached
    after warmup_steps and then falling along a cosine to 0 (lr_decay "cosine": Loshchilov & Hutter 2017, eq. 5, without
    restarts) or kept ("constant").
    clip_norm: the largest global gradient norm. weight_decay: decoupled. ema_decay: of the averaged weights.
    seed: of data order, timesteps, noise and dropout. recompute: less memory for more time, as `Model.recompute`.
    Raises InputError for values outside their ranges.
    """

    steps: int = 2000
    batch_size: int = 64
    lr: float = 1e-3
    warmup_steps: int = 100
    lr_decay: str = "cosine"
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    accumulate: int = 1
    seed: int = 0
    recompute: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate"):
            settle(self, name, check_whole)
        settle(self, "steps", check_whole, 1, MOST_BATCHES // self.accumulate)
        settle(self, "warmup_steps", check_whole, 0)
        settle(self, "seed", check_whole, 0, LARGEST_SEED)
        settle(self, "lr", check_number, 0, 1, low_open=True)
        settle(self, "clip_norm", check_number, 0, math.inf, low_open=True)
        settle(self, "weight_decay", check_number, 0, math.inf, high_open=True)
        settle(self, "ema_decay", check_number, 0, 1, high_open=True)
        check_choice("lr_decay", self.lr_decay, DECAYS)
        check_flag("recompute", self.recompute)

    def learning_rate(self, step: int) -> float:
        """The learning rate of the step-th optimiser step, counted from 0."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.lr_decay == "constant" or step >= self.steps:
            return self.lr if self.lr_decay == "constant" else 0.0
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Metrics:
    """One optimiser step: its number counted from 1, mean loss, gradient norm before clipping, learning rate."""

    step: int
    loss: float
    grad_norm: float
    lr: float


class Trainer:
    """The state of a training run: model, optimiser, average, and how many steps were taken.

    Everything random depends on (seed, step), so the state is complete: what a checkpoint holds resumes the
    run bit for bit.
    """

    def __init__(
        self,
        model: Model,
        diffusion: Diffusion,
        batches: Batches,
        config: TrainConfig,
        optimizer: Adam | None = None,
        ema: EMA | None = None,
        step: int = 0,
    ) -> None:
        self.model, self.diffusion, self.batches, self.config = model, diffusion, batches, config
        self.optimizer = optimizer or Adam(
            model.params, config.lr, weight_decay=config.weight_decay, backend=model.backend
        )
        self.ema = ema or EMA(model.params, config.ema_decay, backend=model.backend)
        self.step = step
        # Scratch for the sum over the step's batches
        self.sums = model.backend.xp.zeros_like(model.grads) if config.accumulate > 1 else None
        model.recompute = config.recompute

    def run(self) -> Iterator[Metrics]:
        """Takes the remaining steps, one a value. Raises NonFiniteError, the state still that before the step."""
        while self.step < self.config.steps:
            yield self.take_step()

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def take_step(self) -> Metrics:
        """One optimiser step. Raises NonFiniteError, naming the operation, before anything is updated."""
        config, be = self.config, self.model.backend
        loss, grads = self.loss_and_gradients(self.model)
        norm = float(be.global_norm(grads))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NonFiniteError(f"step {self.step + 1}: {self.find_non_finite()}")
        lr = config.learning_rate(self.step)
        self.optimizer.step(grads, lr, clip_scale(norm, config.clip_norm), self.ema)
        self.step += 1
        return Metrics(self.step, loss, norm, lr)

    def loss_and_gradients(self, model: Model) -> tuple[float, Any]:
        """Mean loss and gradient over the step's batches."""
        config, loss = self.config, 0.0
        grads = model.grads if self.sums is None else self.sums
        if self.sums is not None:
            grads[...] = 0
        for part in range(config.accumulate):
            number = self.step * config.accumulate + part
            x0, labels = self.batches.at(number)
            if model.config.num_classes is None:
                labels = None
            loss += self.diffusion.training_step(model, x0, step=number, seed=config.seed, labels=labels)
            if self.sums is not None:
                grads += model.grads
        if self.sums is not None:
            grads *= 1.0 / config.accumulate
        return loss / config.accumulate, grads

    def find_non_finite(self) -> str:
        """Repeats the step with every operation checked, and tells which first gave NaN or infinity."""
        checked = FiniteCheckBackend(self.model.backend)
        try:
            self.loss_and_gradients(self.model.with_params(self.model.params, checked))
        except NonFiniteError as error:
            for name, value in self.model.named_params().items():
                if not checked.finite(value):
                    return f"{error}, and parameter {name} holds some; lower lr, or go on from an earlier checkpoint"
            return f"{error}; lower lr or clip_norm, and check the data for values outside [-1, 1]"
        return "operation global_norm met a gradient too large for its norm to be finite; lower lr"

    def check_finite(self) -> None:
        """Raises NonFiniteError unless all weights and their averages are finite: before they are saved."""
        xp = self.model.backend.xp
        for what, flat in (("weights", self.model.params), ("averaged weights", self.ema.params)):
            if not bool(xp.all(xp.isfinite(flat))):
                raise NonFiniteError(
                    f"after step {self.step} the {what} hold NaN or infinity; lower lr or weight_decay"
                )
