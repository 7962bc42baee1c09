"""Training: a generator of steps. Progress bars, files and pictures stay outside."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends import Array, FiniteCheckBackend, NonFiniteError, Recorder
from tinyddpm.checks import (
    LARGEST_SEED,
    JsonConfig,
    check_choice,
    check_flag,
    check_kind,
    check_number,
    check_whole,
    settle,
    told,
)
from tinyddpm.data import Batches
from tinyddpm.diffusion.objective import Drawn, mean_of
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.errors import InputError
from tinyddpm.networks.model import Model
from tinyddpm.ranks import Ranks, check_same_numbers
from tinyddpm.training.importance import Importance
from tinyddpm.training.optimizers import EMA, Adam, check_part, clip_scale

DECAYS = ("cosine", "constant")
TIMESTEP_SAMPLINGS = ("uniform", "importance")
# Fields of TrainConfig that the learning rate follows from
RATE_FIELDS = ("steps", "lr", "warmup_steps", "lr_decay")
TOO_LONG = "operation global_norm met a gradient too large for its norm to be finite; lower lr"
# Random numbers are counted by batch in 32 bits
MOST_BATCHES = 2**32 - 1


@dataclass(frozen=True)
class TrainConfig(JsonConfig):
    """How a model is trained.

    steps: of the optimiser, each over `accumulate` batches of batch_size. lr: the highest learning rate, reached
    after warmup_steps and then falling along a cosine to 0 (lr_decay "cosine": Loshchilov & Hutter 2017, eq. 5, without
    restarts) or kept ("constant"). changed_at: steps taken when a resumed run last changed these, 0 for never, and
    changed_lr: the rate of the last of them, from which it goes over to the new one evenly, without a jump, within a
    tenth of the steps left and at most 100.
    clip_norm: the largest global gradient norm. weight_decay: decoupled. ema_decay: of the averaged weights.
    timestep_sampling: "uniform", or for the loss "vlb" "importance" (`Importance`). seed: of data order, timesteps,
    noise and dropout. recompute: less memory for more time, as `Model.recompute`.
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
    changed_at: int = 0
    changed_lr: float = 0.0
    timestep_sampling: str = "uniform"

    def __post_init__(self) -> None:
        check_choice("timestep_sampling", self.timestep_sampling, TIMESTEP_SAMPLINGS)
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
        settle(self, "recompute", check_flag)
        settle(self, "changed_at", check_whole, 0)
        settle(self, "changed_lr", check_number, 0, 1)

    def learning_rate(self, step: int) -> float:
        """The learning rate of the step-th optimiser step, counted from 0."""
        rate = self.scheduled_rate(step)
        share = (step + 1 - self.changed_at) / self.steps_of_change
        return self.changed_lr + (rate - self.changed_lr) * share if self.changed_at and share < 1 else rate

    @property
    def steps_of_change(self) -> int:
        """Steps in which the learning rate goes over from `changed_lr` to what the schedule says."""
        return max(1, min(100, (self.steps - self.changed_at) // 10))

    def scheduled_rate(self, step: int) -> float:
        """The learning rate of the step-th step, whatever it was before a change."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.lr_decay == "constant" or step >= self.steps:
            return self.lr if self.lr_decay == "constant" else 0.0
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Metrics:
    """One optimiser step: its number counted from 1, gradient norm before clipping, learning rate.

    loss: of this step's batches alone, before the weights moved; not smoothed.
    """

    step: int
    loss: float
    grad_norm: float
    lr: float


def check_calls(part: Any, kind: type, method: str, others: str) -> None:
    """Raises InputError for a subclass with a method of its own that a trainer would not call."""
    if getattr(type(part), method) is not getattr(kind, method):
        raise InputError(
            f"{type(part).__name__} replaces {kind.__name__}.{method}, which the trainer does not call: "
            f"replace {others} instead, or write the loop yourself"
        )


class Trainer:
    """The state of a training run: model, optimiser, average, and how many steps were taken.

    Everything random depends on (seed, step), so the state is complete: what a checkpoint holds resumes the
    run bit for bit. A step is `Diffusion.draw` and `learn`, the gradient's norm, and `Adam.move`: what a subclass of
    these does otherwise belongs there. Raises InputError for one that replaces `training_step` or `step`, and for
    arguments of another kind.

    ranks: the processes that share each batch, by default this one alone; all of them have the same state, and take the
    same steps. Raises InputError for batches of fewer images than ranks.

    A copy, by `copy.deepcopy` or pickle, goes on by itself, to the same numbers.
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
        importance: Importance | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.model = check_kind("model", model, Model, "UNet(UNetConfig())")
        self.diffusion = check_kind("diffusion", diffusion, Diffusion, "Diffusion(Schedule.cosine(1000))")
        self.batches, self.config = batches, check_kind("config", config, TrainConfig, "TrainConfig()")
        if not callable(getattr(batches, "at", None)):
            raise InputError(
                f"batches must be a Batches, such as data.Batches(dataset, 64, seed=0), got {told(batches)}"
            )
        self.optimizer = optimizer or Adam(
            model.params, config.lr, weight_decay=config.weight_decay, backend=model.backend
        )
        self.ema = ema or EMA(model.params, config.ema_decay, backend=model.backend)
        check_calls(diffusion, Diffusion, "training_step", "draw or learn")
        check_calls(self.optimizer, Adam, "step", "move")
        for name, part in (("optimizer", self.optimizer), ("ema", self.ema)):
            check_kind(name, part, Adam if name == "optimizer" else EMA, f"{type(part).__name__}(model.params)")
            check_part(name, part, model.params)
        self.step = check_whole("step", step, 0)
        diffusion.check_output(model)
        self.importance = None
        if config.timestep_sampling == "importance":
            if diffusion.loss != "vlb":
                raise InputError(
                    f'timestep_sampling="importance" is for loss="vlb", got loss={diffusion.loss!r}; use "uniform"'
                )
            self.importance = importance or Importance(diffusion.schedule.T)
        self.share_with(ranks or Ranks())
        # Scratch for the sum over the step's batches
        self.sums = model.backend.xp.zeros_like(model.grads) if config.accumulate > 1 else None
        # NaN from a step on whose loss or gradient is not finite, until `read` has told: meanwhile nothing moves
        self.fault = model.backend.asarray(0.0, "float32")
        # Number, learning rate, what was measured, and what was drawn, of steps that were launched
        self.unread: list[tuple[int, float, Array, list[Array]]] = []
        self.recording: tuple[tuple[Array, ...], Recorder] | None = None
        model.recompute = config.recompute

    def __getstate__(self) -> dict[str, Any]:
        # A recording holds addresses, and other ranks do not take the copy's steps
        return {**vars(self), "recording": None, "ranks": Ranks()}

    def share_with(self, ranks: Ranks) -> None:
        """From now on takes this rank's share of each batch. Raises InputError where it would be none."""
        if self.config.batch_size < ranks.size:
            raise InputError(
                f"{ranks.size} ranks cannot share batches of {self.config.batch_size} images; take larger ones, or as "
                "many ranks"
            )
        self.ranks = ranks

    def run(self, due: Callable[[], bool] | None = None) -> Iterator[Metrics]:
        """Takes the remaining steps, one a value. Raises NonFiniteError, the state still that before the step.

        due: asked after each step whether what was measured is to be read now, by default always. Until then a device
        works on without being waited for, and `step` may be ahead of what is yielded. With several ranks it must say
        the same on all.
        """
        while self.step < self.config.steps:
            self.launch()
            is_due = due is None or due()
            # What importance draws next follows from the losses
            if is_due or self.importance is not None or self.step == self.config.steps:
                yield from self.read()

    def take_step(self) -> Metrics:
        """One optimiser step. Raises NonFiniteError, naming the operation, the state still that before the step."""
        self.launch()
        *_, metrics = self.read()
        return metrics

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def launch(self) -> None:
        """Hands one optimiser step to the backend, a device of which may be at work on it when this returns."""
        config, optimizer, ema = self.config, self.optimizer, self.ema
        lr = config.learning_rate(self.step)
        numbers = np.array([optimizer.steps + 1, lr, ema.decay_now()])
        name = (self.diffusion.recorded_as(self.model, config.seed), config, optimizer.rates)
        drawn = self.draw()
        if self.ranks.size == 1:
            measured = self.recorder.run(name, self.update, numbers, *drawn)
        else:
            measured = self.recorder.run(("learn", self.ranks.size, *name), self.learn, *drawn)
            self.ranks.sum(self.gradient)
            self.ranks.sum(measured[:1])
            measured = self.recorder.run(("move", *name), self.move, numbers, measured)
        self.step, optimizer.steps, ema.updates = self.step + 1, optimizer.steps + 1, ema.updates + 1
        self.unread.append((self.step, lr, measured, drawn if self.importance is not None else []))

    def read(self) -> Iterator[Metrics]:
        """What was measured in the steps launched and not read yet; waits for these.

        Raises NonFiniteError, naming the operation, the state then that before the step in question.
        """
        while self.unread:
            step, lr, measured, drawn = self.unread[0]
            loss, norm, *losses = self.model.backend.to_numpy(measured).tolist()
            if not (math.isfinite(loss) and math.isfinite(norm)):
                self.take_back(self.step - step + 1)
                raise NonFiniteError(f"step {step}: {self.told_of_all(self.find_non_finite())}")
            del self.unread[0]
            self.remember(drawn, losses)
            yield Metrics(step, loss, norm, lr)

    def remember(self, drawn: Sequence[Array], losses: Sequence[float]) -> None:
        """Tells `importance` each image's term of the bound, without the weight that its timestep gave it."""
        if self.importance is None:
            return
        count = len(Drawn._fields)
        for first in range(0, len(drawn), count):
            part = Drawn(*drawn[first : first + count])
            bound, t = self.model.backend.to_numpy(part.bound), self.model.backend.to_numpy(part.timesteps)
            n = len(t)
            indices = np.searchsorted(self.diffusion.schedule.timesteps, t)
            for share in self.ranks.gather((indices, np.array(losses[:n]) / bound[:, -1])):
                self.importance.note(*share)
            losses = losses[n:]

    def take_back(self, steps: int) -> None:
        """Uncounts the last steps, which moved nothing."""
        self.step, self.optimizer.steps, self.ema.updates = (
            count - steps for count in (self.step, self.optimizer.steps, self.ema.updates)
        )
        self.unread.clear()
        self.fault[...] = 0

    @property
    def recorder(self) -> Recorder:
        """What runs `update`, on the arrays that it changes."""
        model, optimizer = self.model, self.optimizer
        state = (model.params, model.grads, optimizer.m, optimizer.v, self.ema.params, self.sums, self.fault)
        if self.recording is None or any(a is not b for a, b in zip(state, self.recording[0], strict=True)):
            self.recording = state, model.backend.recorder(*state)
        return self.recording[1]

    @property
    def gradient(self) -> Array:
        """Where `learn` leaves the gradient of a step."""
        return self.model.grads if self.sums is None else self.sums

    def update(self, numbers: Array, *drawn: Array) -> Array:
        """A whole step of one rank: `learn`, then `move`. Only arrays change, and besides these nothing is asked what
        to do, so that a backend may record it."""
        return self.move(numbers, self.learn(*drawn))

    def learn(self, *drawn: Array) -> Array:
        """The loss of what `draw` gave, a place for the gradient's norm, and with `importance` each image's loss, in
        an array; the gradient is left in `gradient`."""
        xp = self.model.backend.xp
        loss, losses = self.loss_and_gradients(self.model, drawn)
        losses = losses if self.importance is not None else []
        measured = xp.empty(2 + sum(part.shape[0] - 1 for part in losses), dtype=xp.float64)
        measured[0] = loss
        place = 2
        for part in losses:
            measured[place : place + part.shape[0] - 1] = part[1:]
            place += part.shape[0] - 1
        return measured

    def move(self, numbers: Array, measured: Array) -> Array:
        """Parameters, moments and average moved against `gradient`; measured, by `learn`, with the gradient's norm.

        numbers: the step, counted from 1, learning rate and decay.
        """
        config, be, grads = self.config, self.model.backend, self.gradient
        if type(self.optimizer) is not Adam:
            be.not_recordable()
        numbers = be.asarray(numbers)
        step, lr, decay = (be.number(numbers[i]) for i in range(3))
        loss, norm = be.number(measured[0]), be.number(be.global_norm(grads))
        self.fault[...] = be.number(self.fault) + 0 * loss + 0 * norm
        scale = clip_scale(norm, config.clip_norm) + be.number(self.fault)
        self.optimizer.move(grads, step, lr, scale, self.ema, decay)
        measured[1] = norm
        return measured

    def draw(self) -> list[Array]:
        """What `Diffusion.draw` gives for this rank's share of each of the step's batches, in a row."""
        config, size = self.config, self.config.batch_size
        drawn: list[Array] = []
        more: dict[str, Any] = {} if self.importance is None else {"chances": self.importance.chances()}
        rows: dict[str, Any] = {}
        if self.ranks.size > 1:
            share = self.ranks.share(size)
            rows, more = {"rows": share}, {**more, "first": share.start, "part": (share.stop - share.start) / size}
        for batch in range(config.accumulate):
            number = self.step * config.accumulate + batch
            x0, labels = self.batches.at(number, **rows)
            if self.model.config.num_classes is None:
                labels = None
            drawn += self.diffusion.draw(self.model, x0, step=number, seed=config.seed, labels=labels, **more)
        return drawn

    def loss_and_gradients(self, model: Model, drawn: Sequence[Array]) -> tuple[Any, list[Array]]:
        """Mean loss over the step's batches, as of `Backend.number`, its gradient left in place; what
        `Diffusion.learn` gave for each."""
        config, loss, losses, count = self.config, 0.0, [], len(Drawn._fields)
        if self.sums is not None:
            self.sums[...] = 0
        for first in range(0, len(drawn), count):
            part = self.diffusion.learn(model, config.seed, *drawn[first : first + count])
            loss += model.backend.number(mean_of(part))
            losses.append(part)
            if self.sums is not None:
                self.sums += model.grads
        if self.sums is not None:
            self.sums *= 1.0 / config.accumulate
        return loss / config.accumulate, losses

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def find_non_finite(self) -> str:
        """Repeats the step with every operation checked, and tells which first gave NaN or infinity."""
        checked = FiniteCheckBackend(self.model.backend)
        try:
            self.loss_and_gradients(self.model.with_params(self.model.params, checked), self.draw())
        except NonFiniteError as error:
            for name, value in self.model.named_params().items():
                if not checked.finite(value):
                    return f"{error}, and parameter {name} holds some; lower lr, or go on from an earlier checkpoint"
            return f"{error}; lower lr or clip_norm, and check the data for values outside [-1, 1]"
        return TOO_LONG

    def told_of_all(self, found: str) -> str:
        """What the ranks found, each in its share of the step."""
        return next((text for text in self.ranks.gather(found) if text != TOO_LONG), TOO_LONG)

    def check_same(self) -> None:
        """Raises SharedError unless all ranks have the same weights, and averages of them, to the last bit."""
        check_same_numbers(self.ranks, "weights", self.model.params)
        check_same_numbers(self.ranks, "averaged weights", self.ema.params)

    def check_finite(self) -> None:
        """Raises NonFiniteError unless all weights and their averages are finite: before they are saved."""
        xp = self.model.backend.xp
        for what, flat in (("weights", self.model.params), ("averaged weights", self.ema.params)):
            if not bool(xp.all(xp.isfinite(flat))):
                raise NonFiniteError(
                    f"after step {self.step} the {what} hold NaN or infinity; lower lr or weight_decay"
                )
