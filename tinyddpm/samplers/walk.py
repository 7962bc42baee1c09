"""What all samplers share: their options, and the walk over the steps of a chain from noise to an image."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import backends
from backends import Array
from tinyddpm import streams
from tinyddpm.checks import (
    LARGEST_SEED,
    as_floats,
    check_flag,
    check_kind,
    check_number,
    check_shape,
    check_whole,
    told,
)
from tinyddpm.diffusion.process import Diffusion, Predictor
from tinyddpm.diffusion.schedules import ALL_NOISE
from tinyddpm.errors import InputError
from tinyddpm.samplers.threshold import thresholded


class WalkOptions(TypedDict, total=False):
    """The options of every sampler, by keyword.

    steps: how many of the schedule's steps are walked (None: all), chosen by `spacing`, "trailing", "leading",
    "linspace" or "karras" (see `Schedule.spaced_indices`). seed: of the starting noise and each step's. first: the
    number of the first image among all that are drawn with that seed; the noise of an image depends on its number
    alone, not on what is drawn beside it. x_T: (N, H, W, C), starts from given noise instead, cast to the model's dtype
    if it is another. clip: limits each predicted x0 to [-1, 1]. threshold: in (0, 1], such as 0.995, limits it by
    dynamic thresholding with this share of pixels instead (see `threshold.thresholded`). labels: (N,), passed to the
    model.
    """

    steps: int | None
    seed: int
    first: int
    x_T: Array | None
    clip: bool
    threshold: float | None
    spacing: str
    labels: Array | None


@dataclass(frozen=True)
class State:
    """After a step: t, the timestep just undone; x, the image now; x0, the clean image predicted from the last x.

    x, x0: (N, H, W, C) arrays of the model's backend.
    """

    t: int
    x: Array
    x0: Array


class Walk:
    """A model over the steps to be walked; step i = 0 is the last, which leads to the image.

    chain: the diffusion over these steps alone. indices: i from the first step walked, T - 1, to 0. start: the noise
    (N, H, W, C) before them. Raises InputError for options that do not fit.
    """

    def __init__(
        self,
        model: Predictor,
        diffusion: Diffusion,
        shape: tuple[int, ...],
        *,
        steps: int | None = None,
        seed: int = 0,
        first: int = 0,
        x_T: Array | None = None,
        clip: bool = True,
        threshold: float | None = None,
        spacing: str = "trailing",
        labels: Array | None = None,
    ) -> None:
        if not callable(model):
            raise InputError(f"a sampler asks a model or a function of (x, t, labels), got {told(model)}")
        whole = check_kind("diffusion", diffusion, Diffusion, "Diffusion(Schedule.cosine(1000))").schedule
        self.model, self.clip, self.labels = model, check_flag("clip", clip), labels
        if threshold is not None:
            threshold = check_number("threshold", threshold, 0, 1, low_open=True)
            if not self.clip:
                raise InputError(f"threshold {threshold:g} is a way to clip; leave it out, or clip=False")
        self.threshold = threshold
        shape = image_shape(shape)
        self.chain = replace(diffusion, schedule=whole.respaced(whole.T if steps is None else steps, spacing))
        self.seed = check_whole("seed", seed, 0, LARGEST_SEED)
        self.first = check_whole("first", first, 0, streams.END - shape[0])
        self.indices = range(self.T - 1, -1, -1)
        backend = getattr(model, "backend", None)
        dtype = getattr(model, "dtype", None)
        dtype = dtype if dtype in ("float32", "float64") else None
        if x_T is not None:
            x_T = as_floats("x_T", x_T, dtype)
            check_shape("x_T", x_T, shape, "what was asked for, shape")
        self.backend: backends.Backend = backend or (backends.get("numpy") if x_T is None else backends.of(x_T))
        if x_T is None:
            x_T, _ = self.backend.random_normal(shape, self.seed, streams.SAMPLE_START, 0, first=self.first)
        self.start = self.backend.asarray(x_T, dtype)

    @property
    def T(self) -> int:
        """Number of steps walked."""
        return self.chain.schedule.T

    def t(self, i: int) -> int:
        """The timestep that the network is given at step i."""
        return int(self.chain.schedule.timesteps[i])

    def output_and_v(self, x: Array, i: int) -> tuple[Array, Array | None]:
        """The network's prediction at x before step i, and v where the variances are learned.

        Raises InputError for an output of other channels.
        """
        return self.chain.split_output(self.model(x, self.t(i), labels=self.labels), x.shape[-1])

    def output(self, x: Array, i: int) -> Array:
        """The network's prediction at x before step i."""
        return self.output_and_v(x, i)[0]

    def x0(self, x: Array, i: int, output: Array) -> Array:
        """The clean image that the output stands for, limited to [-1, 1] if `clip`, by `threshold` if there is one."""
        x0 = self.chain.to_x0(x, i, output)
        if self.threshold is not None:
            return thresholded(x0, self.threshold)
        return self.backend.xp.clip(x0, -1.0, 1.0) if self.clip else x0

    def predict(self, x: Array, i: int, keep_eps: bool = False) -> tuple[Array, Array]:
        """(x0, eps) at x before step i; eps leads from x0 to x, and so follows where x0 is clipped, unless kept."""
        output = self.output(x, i)
        x0 = self.x0(x, i, output)
        return x0, self.chain.to_eps(x, i, output) if keep_eps else self.chain.eps_from_x0(x, i, x0)

    def follow(self, i: int, x0: Array, eps: Array, slope: Array | None = None) -> Array:
        """The image after step i of the probability flow, from one that holds x0 and eps; along `slope` if not eps.

        With z = x / sqrt(alpha_bar) = x0 + sigma eps, sigma of `Schedule.sigmas`, the flow is dz / dsigma = eps (Song,
        Meng & Ermon 2021, eq. 14), and the step goes to z + (sigma' - sigma) slope. With eps as its slope, Euler's
        method, that is x0 + sigma' eps, which holds for an endless sigma too.
        """
        schedule = self.chain.schedule
        alpha_bar = float(schedule.alpha_bars_prev[i])
        signal, noise = alpha_bar**0.5, (1.0 - alpha_bar) ** 0.5
        x = signal * x0 + noise * eps
        return x if slope is None else x + (noise - signal * float(schedule.sigmas[i])) * (slope - eps)

    def in_noise(self, i: int) -> bool:
        """Whether all is noise before step i: sigma is so large that only steps of first order make sense.

        From there eps hardly depends on the network, but a step moves x by sigma times its error.
        """
        return bool(self.chain.schedule.sigmas[i] > ALL_NOISE)

    def noise(self, x: Array, i: int, sigma: float | Array) -> Array:
        """sigma times the noise of step i, like x; none at the last step (i = 0) or where sigma is the number 0."""
        if i == 0 or (isinstance(sigma, float | int) and sigma == 0):
            return 0.0
        place = self.seed, streams.SAMPLE_NOISE, i
        return sigma * self.backend.random_normal(tuple(x.shape), *place, dtype=x.dtype, first=self.first)[0]


def image_shape(shape: Any) -> tuple[int, ...]:
    """shape as ints. Raises InputError unless it is (N, H, W, C), each at least 1."""
    if not isinstance(shape, tuple | list) or len(shape) != 4:
        raise InputError(f"shape must be that of images, (N, H, W, C), such as (16, 32, 32, 1), got {told(shape)}")
    return tuple(check_whole("each number of shape", side) for side in shape)


def last(states: Iterator[State]) -> State:
    """The final state of a sampler: its x are the images. Raises InputError where there is none."""
    final = deque(states, maxlen=1)
    if not final:
        raise InputError("the sampler yielded no state")
    return final[0]
