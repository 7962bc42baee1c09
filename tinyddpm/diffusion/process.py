"""The forward process, its posterior, what the network predicts, and one training step.

Images x are (N, H, W, C) floating-point arrays of any backend; t is one index 0 … T-1 or an array (N,) of them in host
memory, or instead of it what the tables hold there: the weights of x0 and noise in x_t. Every function of t raises
InputError for others.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeAlias

import numpy as np

import backends
from backends import Array
from tinyddpm import streams
from tinyddpm.checks import (
    LARGEST_SEED,
    as_floats,
    check_choice,
    check_indices,
    check_kind,
    check_labels,
    check_network,
    check_number,
    check_shape,
    check_whole,
    settle,
)
from tinyddpm.diffusion import objective
from tinyddpm.diffusion.bound import bound_steps
from tinyddpm.diffusion.objective import Drawn, Loss, Trainable, mean_of
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import InputError
from tinyddpm.networks.layers import DropoutKey
from tinyddpm.networks.model import Model

PREDICTIONS = ("eps", "x0", "v")
FIXED_VARIANCES = ("fixed_small", "fixed_large")
VARIANCES = (*FIXED_VARIANCES, "learned")

# One index of the schedule for all images, or one for each
Index: TypeAlias = int | np.integer | np.ndarray
# Or what the schedule says there, `signal_and_sigma`
Weights: TypeAlias = tuple[Array, Array]


class Predictor(Protocol):
    """What a sampler asks: a `Model`, a guided one, or any function of these arguments.

    x: (N, H, W, C), the noised images; t: the timestep of all of them, as `Schedule.timesteps` has it; labels: (N,)
    integers or None. Returns (N, H, W, C): eps, x0 or v, as `Diffusion.prediction` says. Attributes `backend` and
    `dtype`, where there are any, say where it computes, and whether in "float32" or "float64".
    """

    def __call__(self, x: Array, t: int, *, labels: Array | None = None) -> Array: ...


@dataclass(frozen=True)
class Diffusion:
    """A schedule, and how the network is trained and its output read.

    prediction: what the network's output means: the noise eps, the clean image x0, or v (Salimans & Ho 2022,
    section 4). loss: between output and target, "mse", "l1" or "huber" (with huber_delta).
    variance: of the reverse steps, beta~_t ("fixed_small") or beta_t ("fixed_large") (Ho et al. 2020, section 3.2), or
    between these as v says ("learned"), the latter half of the channels of a network with `learned_variance` (Nichol &
    Dhariwal 2021, eq. 15 and 16). Such a network learns by "mse" from L_hybrid, or from the bound alone by "vlb".
    label_dropout: share of labels replaced by "no label" in training, so that guidance has an unconditional
    branch (Ho & Salimans 2022, algorithm 1). weighting: of each image's loss, "uniform", or by its noise, "min_snr"
    with min_snr_gamma (Hang et al. 2023); of L_hybrid it weighs L_simple. Raises InputError for values outside these.
    """

    schedule: Schedule
    prediction: str = "eps"
    loss: str = "mse"
    variance: str = "fixed_small"
    huber_delta: float = 1.0
    label_dropout: float = 0.1
    weighting: str = "uniform"
    min_snr_gamma: float = 5.0

    def __post_init__(self) -> None:
        check_kind("schedule", self.schedule, Schedule, "Schedule.cosine(1000)")
        check_choice("prediction", self.prediction, PREDICTIONS)
        check_choice("variance", self.variance, VARIANCES)
        if self.prediction == "eps" and self.schedule.zero_terminal_snr:
            raise InputError(
                'prediction "eps" says nothing of the image where alpha_bar is 0, as at the end of this schedule (zero '
                'terminal SNR); use "v" or "x0"'
            )
        object.__setattr__(self, "huber_delta", Loss(self.loss, self.huber_delta).delta)
        settle(self, "label_dropout", check_number, 0, 1)
        check_choice("weighting", self.weighting, objective.WEIGHTINGS)
        settle(self, "min_snr_gamma", check_number, 0, float("inf"), low_open=True, high_open=True)
        if self.learned != (self.loss == "vlb") and not (self.learned and self.loss == "mse"):
            accepted = 'loss "mse" or "vlb"' if self.learned else 'variance="learned", or another loss'
            raise InputError(f"variance={self.variance!r} does not go with loss={self.loss!r}; use {accepted}")
        if self.loss == "vlb" and self.weighting != "uniform":
            raise InputError(f'weighting={self.weighting!r} would spoil the bound; use "uniform" with loss "vlb"')

    # Forward process

    def q_sample(self, x0: Array, t: Index | Weights, noise: Array) -> Array:
        """x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) noise (Ho et al. 2020, eq. 4).

        x0, noise: of one shape; noise is cast to x0's dtype, which the result has. Raises InputError for others, and
        for integers.
        """
        if not isinstance(t, tuple):
            x0 = as_floats("x0", x0)
            noise = noise_as(x0, noise)
        signal, sigma = self.signal_and_sigma(t, x0)
        return signal * x0 + sigma * noise

    # Reverse process

    @property
    def learned(self) -> bool:
        """Whether the network predicts variances too."""
        return self.variance == "learned"

    def split_output(self, output: Array, channels: int) -> tuple[Array, Array | None]:
        """The network's output for images of that many channels: the prediction, and v where it predicts variances too.

        Raises InputError for another number of channels.
        """
        if output.shape[-1] != channels * (1 + self.learned):
            raise InputError(
                f"with variance={self.variance!r} the network must give {channels * (1 + self.learned)} channels for "
                f'images of {channels}, got {output.shape[-1]}; "learned" goes with learned_variance of the network'
            )
        return (output[..., :channels], output[..., channels:]) if self.learned else (output, None)

    def check_output(self, model: Trainable) -> None:
        """Raises InputError where the network's output is not what the variance asks for."""
        if getattr(model.config, "learned_variance", self.learned) != self.learned:
            raise InputError(
                f"variance={self.variance!r} does not go with a network of learned_variance={not self.learned}; "
                f"build it with learned_variance={self.learned}, or change the variance"
            )

    def posterior_mean(self, x0: Array, x_t: Array, t: Index) -> Array:
        """Mean of q(x_{t-1} | x_t, x_0) (Ho et al. 2020, eq. 7)."""
        s = self.schedule
        return self.coefficient(s.posterior_mean_x0, t, x_t) * x0 + self.coefficient(s.posterior_mean_xt, t, x_t) * x_t

    def mean_from_eps(self, x_t: Array, t: Index, eps: Array) -> Array:
        """(x_t - beta_t / sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_t) (Ho et al. 2020, eq. 11 and Algorithm 2).

        Raises InputError where alpha_t is 0, in which x_t is all noise.
        """
        s = self.schedule
        if np.any(s.alphas[check_indices(t, s.T)] == 0):
            raise InputError("the mean does not follow from eps where alpha is 0; use posterior_mean")
        weight = self.coefficient(s.betas / s.sqrt_one_minus_alpha_bars, t, x_t)
        return (x_t - weight * eps) * self.coefficient(s.alphas, t, x_t) ** -0.5

    def log_variance(self, t: Index, v: Array | None = None) -> Array:
        """log of the reverse step's variance at t; at t = 0 that of t = 1, where log 0 would stand.

        Fixed ones are float64 from the table; learned ones, of v's shape and dtype, lie between log beta~ and log beta
        (Nichol & Dhariwal 2021, eq. 15), or beyond where |v| > 1.
        """
        s = self.schedule
        table = s.posterior_log_variance
        if v is not None:
            low, high = (self.coefficient(logs, t, v) for logs in (table, np.log(s.betas)))
            return low + (v + 1.0) * (0.5 * (high - low))
        if self.variance == "fixed_large":
            table = np.log(np.append(np.exp(table[:1]), s.betas[1:]))
        return table[check_indices(t, s.T)]

    # What the network predicts

    def target(self, x0: Array, t: Index | Weights, noise: Array) -> Array:
        """What the network's output is trained towards: the noise, x0, or v.

        v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x0 (Salimans & Ho 2022, section 4).
        """
        if not isinstance(t, tuple):
            check_indices(t, self.schedule.T)
        if self.prediction == "eps":
            return noise
        if self.prediction == "x0":
            return x0
        signal, sigma = self.signal_and_sigma(t, x0)
        return signal * noise - sigma * x0

    def to_x0(self, x_t: Array, t: Index, output: Array) -> Array:
        """The clean image that the network's output stands for (eps: Ho et al. 2020, eq. 15)."""
        signal, sigma = self.signal_and_sigma(t, x_t)
        if self.prediction == "eps":
            return (x_t - sigma * output) / signal
        return output if self.prediction == "x0" else signal * x_t - sigma * output

    def to_eps(self, x_t: Array, t: Index, output: Array) -> Array:
        """The noise that the network's output stands for."""
        signal, sigma = self.signal_and_sigma(t, x_t)
        if self.prediction == "eps":
            return output
        return (x_t - signal * output) / sigma if self.prediction == "x0" else signal * output + sigma * x_t

    def eps_from_x0(self, x_t: Array, t: Index, x0: Array) -> Array:
        """The noise that leads from x0 to x_t: undoes `q_sample`."""
        signal, sigma = self.signal_and_sigma(t, x_t)
        return (x_t - signal * x0) / sigma

    # Training

    def min_snr_weights(self, t: np.ndarray) -> np.ndarray:
        """Weight of the loss at each t: min(SNR, gamma) in units of x0's error (Hang et al. 2023, section 3.4)."""
        snr = self.schedule.snr[t]
        over = {"eps": snr, "x0": 1.0, "v": snr + 1.0}[self.prediction]
        return np.minimum(snr, self.min_snr_gamma) / over

    def weights_and_bound(
        self, t: np.ndarray, like: Array, share: np.ndarray | float = 1.0, part: float = 1.0
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """What a loss needs to know of t (N,), as in `Drawn`, of the dtype of `like`.

        share: (N,), by which the bound of each image is multiplied, as t that come often need. part: by which all
        counts. The bound's terms are scaled by T, so that their mean over t is the whole bound (Nichol & Dhariwal 2021,
        section 3.1).
        """
        dtype = np.float64 if like.dtype == backends.namespace(like).float64 else np.float32
        weights = self.min_snr_weights(t) if self.weighting == "min_snr" else None
        if part != 1.0:
            weights = part * (np.ones(len(t)) if weights is None else weights)
        if not self.learned:
            return None if weights is None else weights.astype(dtype), None
        simple = 0.0 if self.loss == "vlb" else 1.0 if weights is None else weights
        bound = part * self.schedule.T * (1.0 if self.loss == "vlb" else objective.LAMBDA) * share
        return None, bound_steps(self.schedule, self.prediction, t, simple, bound).astype(dtype)

    def training_step(
        self,
        model: Trainable,
        x0: Array,
        *,
        step: int,
        seed: int = 0,
        labels: Array | None = None,
        first: int = 0,
        backward: bool = True,
    ) -> float:
        """Algorithm 1 of Ho et al. 2020 up to the gradient: leaves it in `model.grads` and returns the loss.

        x0: (N, H, W, C) floating-point in [-1, 1], cast to the model's dtype; labels: (N,) integers or None. Timesteps,
        noise, label and feature dropout depend on seed, step and the number of each image in the batch alone: these are
        images first … of it, 0 … by default, so that a batch may be computed in shares. With backward=False only the
        loss is computed. Raises InputError for integer images, for labels out of range or where the model has no
        classes, and for a step that is not in 0 … 2^32 - 1, or first not in 0 … 2^32 - N.
        """
        drawn = self.draw(model, x0, step=step, seed=seed, labels=labels, first=first)
        if not backward:
            return float(mean_of(self.learn(model, seed, *drawn, backward=False)))
        recorder = model.recorder if isinstance(model, Model) else backends.Recorder()
        return float(mean_of(recorder.run(self.recorded_as(model, seed), partial(self.learn, model, seed), *drawn)))

    def draw(
        self,
        model: Trainable,
        x0: Array,
        *,
        step: int,
        seed: int = 0,
        labels: Array | None = None,
        first: int = 0,
        chances: np.ndarray | None = None,
        part: float = 1.0,
    ) -> Drawn:
        """What Algorithm 1 draws for a batch in lines 2 and 3, where x0 is. Arguments, errors as of `training_step`.

        chances: (T,) probabilities of the timesteps, by default all the same; others weigh the bound by 1 / (T chance),
        so that its expectation stays what it is. part: which part of the whole x0 is, such as 1/4, by which its loss
        and gradient count, so that those of all parts add up to the whole's.
        """
        check_network(model)
        self.check_output(model)
        step, seed = check_whole("step", step, 0, streams.END - 1), check_whole("seed", seed, 0, LARGEST_SEED)
        x0 = as_floats("x0", x0, model.dtype if isinstance(model, Model) else None)
        n = x0.shape[0] if len(x0.shape) else 0
        if n == 0:
            raise InputError(f"x0 must be a batch (N, H, W, C) of at least one image, got shape {tuple(x0.shape)}")
        first = check_whole("first", first, 0, streams.END - n)
        if labels is not None:
            classes = model.config.num_classes
            if classes is not None:
                labels = check_labels(labels, n, classes)
            labels = objective.drop_labels(labels, classes, self.label_dropout, step, seed, first)
        t = objective.random_timesteps(self.schedule.T, n, step, seed, first, chances)
        share = 1.0 if chances is None else 1.0 / (self.schedule.T * chances[t])
        timesteps = self.schedule.timesteps[t]
        if isinstance(model, Model):
            x0, timesteps, labels = model.checked(x0, timesteps, labels)
        place = np.array(step, np.int64), np.array(first, np.int64)
        return Drawn(
            x0, timesteps, *self.signal_and_sigma(t, x0), labels, *place, *self.weights_and_bound(t, x0, share, part)
        )

    def learn(self, model: Trainable, seed: int, *drawn: Array | None, backward: bool = True) -> Array:
        """Algorithm 1, lines 4 and 5: the loss, as `Loss` gives it, and unless backward=False its gradient.

        drawn: by `draw`. It depends on these arrays alone, so a backend may record it, under `recorded_as`.
        """
        be, loss = model.backend, Loss(self.loss, self.huber_delta)
        if type(self) is not Diffusion:
            be.not_recordable()
        given = Drawn(*(None if a is None else be.asarray(a) for a in drawn))
        x0, mix, key = (
            given.x0,
            (given.signal, given.sigma),
            DropoutKey(seed, *map(be.number, (given.step, given.first))),
        )
        noise = objective.noise_like(be, x0, key.step, seed, key.first)
        x_t, target = self.q_sample(x0, mix, noise), self.target(x0, mix, noise)
        references = target, given.weights, None if given.bound is None else x0, given.bound
        if not backward:
            return loss(be, model(x_t, given.timesteps, given.labels), *references)[0]
        return objective.learn(model, x_t, given.timesteps, given.labels, references, loss, dropout_key=key)

    def recorded_as(self, model: Trainable, seed: int) -> Hashable:
        """The name of `learn` for this process and seed: what it depends on besides arrays."""
        recompute = getattr(model, "recompute", False)
        return "training step", self.prediction, self.loss, self.huber_delta, seed, recompute

    # Tables at t

    def signal_and_sigma(self, t: Index | Weights, like: Array) -> Weights:
        """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), the weights of x0 and noise in x_t; as `coefficient`."""
        if isinstance(t, tuple):
            return t
        s = self.schedule
        return self.coefficient(s.sqrt_alpha_bars, t, like), self.coefficient(s.sqrt_one_minus_alpha_bars, t, like)

    def coefficient(self, table: np.ndarray, t: Index, like: Array) -> Array:
        """table[t], table (T,) float64: a float for one t, (N, 1, …) of the dtype and backend of `like` for (N,)."""
        if not hasattr(like, "dtype"):
            like = as_floats("images", like)
        values = table[check_indices(t, self.schedule.T, like.shape[0] if len(like.shape) else None)]
        if values.ndim == 0:
            return float(values)
        xp = backends.namespace(like)
        return xp.asarray(values.reshape(-1, *[1] * (like.ndim - 1)), dtype=like.dtype)


def noise_as(x0: Array, noise: Array) -> Array:
    """noise in x0's dtype. Raises InputError for another shape, and for integers."""
    xp = backends.namespace(x0)
    dtype = next((dtype for dtype in ("float32", "float64") if x0.dtype == getattr(xp, dtype)), None)
    noise = as_floats("noise", noise, dtype)
    check_shape("noise", noise, x0.shape, "x0")
    return noise
