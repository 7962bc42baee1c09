"""The variational bound on the likelihood of images, in bits per dimension, term by term.

L = L_T + sum of L_{t-1} + L_0 (Ho et al. 2020, eq. 5): the prior; for each t the divergence of the posterior from the
reverse step; the discretised decoder at t = 0. Everything is summed in float64.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

import backends
from backends import Array
from tinyddpm import data, streams
from tinyddpm.checks import LARGEST_SEED, check_kind, check_network, check_whole
from tinyddpm.diffusion.bound import bound_steps
from tinyddpm.diffusion.objective import Trainable
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.errors import InputError

BATCH = 64


@dataclass(frozen=True)
class Bound:
    """Bits per dimension of `images` images.

    prior: (N,), L_T. terms: (N, S), of each image L_t at one t of each of S strata; t: (N, S), which; sizes: (S,), how
    many timesteps a stratum has. floor: what is left where the decoder's mean is exactly right (`floor_of`).
    """

    prior: np.ndarray
    terms: np.ndarray
    t: np.ndarray
    sizes: np.ndarray
    floor: float

    @cached_property
    def each(self) -> np.ndarray:
        """(N,): an unbiased estimate of each image's bound, the bound itself where strata are single timesteps."""
        return self.prior + self.terms @ self.sizes

    @property
    def total(self) -> float:
        """The bound, the mean over the images."""
        return float(np.mean(self.each))

    @property
    def error(self) -> float:
        """The standard error of `total`, of the choice of images and of timesteps; NaN of a single image."""
        n = len(self.each)
        return float(np.std(self.each, ddof=1) / math.sqrt(n)) if n > 1 else math.nan

    @property
    def parts(self) -> dict[str, float]:
        """Prior, all L_t between, decoder: their sum is `total`."""
        means = np.mean(self.terms, axis=0) * self.sizes
        return {"prior": float(np.mean(self.prior)), "between": float(np.sum(means[1:])), "decoder": float(means[0])}

    @property
    def ledger(self) -> list[tuple[int, int, float]]:
        """For each stratum its first and last t, and the mean of one of its terms L_t."""
        ends = np.cumsum(self.sizes)
        means = np.mean(self.terms, axis=0)
        return [
            (int(end - size), int(end) - 1, float(mean))
            for end, size, mean in zip(ends, self.sizes, means, strict=True)
        ]


def strata_of(T: int, count: int) -> np.ndarray:
    """The numbers of timesteps in about `count` consecutive strata: single ones first, where terms are large, then more
    and more. All T are single where count is at least T. t = 0, the decoder's, is always by itself."""
    if count >= T:
        return np.ones(T, np.int64)
    edges = np.unique(np.round(np.geomspace(1, T, max(count, 2))).astype(np.int64))
    return np.diff(np.concatenate([[0], edges]))


def bound(
    model: Trainable, diffusion: Diffusion, dataset: data.Dataset, images: int = 256, strata: int = 40, seed: int = 0
) -> Bound:
    """The bound of up to `images` images, spread evenly over the set.

    strata: each image is looked at at one random timestep of each (`strata_of`); T or more take all, exactly. The
    network's x0 is limited to [-1, 1], as in sampling. Timesteps and noise depend on (seed, image, t) alone. Raises
    InputError for numbers below 1, an empty set, and a network whose output is not what the diffusion says.
    """
    check_network(model)
    check_kind("diffusion", diffusion, Diffusion, "Diffusion(Schedule.cosine(1000))").check_output(model)
    check_kind("dataset", dataset, data.Dataset, "data.load('digits', split='test')")
    count, strata = min(check_whole("images", images), len(dataset)), check_whole("strata", strata)
    seed = check_whole("seed", seed, 0, LARGEST_SEED)
    if count == 0:
        raise InputError(f"{dataset.name} has no images; a bound needs at least one")
    T, sizes = diffusion.schedule.T, strata_of(diffusion.schedule.T, strata)
    chosen = dataset.take(np.arange(count) * len(dataset) // count)
    u, _ = exact().random_uniform((count, len(sizes)), seed, streams.EVALUATION_TIMESTEPS, 0, dtype=np.float64)
    t = np.minimum((np.cumsum(sizes) - sizes + u * sizes).astype(np.int64), T - 1)
    prior, terms = np.empty(count), np.empty((count, len(sizes)))
    known = getattr(model.config, "num_classes", None) is not None
    for number, first in enumerate(range(0, count, BATCH)):
        part = slice(first, first + BATCH)
        x0 = data.to_unit(chosen.images[part]).astype(np.float64)
        prior[part] = prior_bits(diffusion, x0)
        labels = None if chosen.labels is None or not known else chosen.labels[part]
        for place in range(len(sizes)):
            noise, _ = exact().random_normal(x0.shape, seed, streams.EVALUATION_NOISE[number], place, dtype=np.float64)
            terms[part, place] = term_bits(model, diffusion, x0, t[part, place], noise, labels)
    return Bound(prior, terms, t, sizes, floor_of(diffusion, data.to_unit(chosen.images)))


def prior_bits(diffusion: Diffusion, x0: np.ndarray) -> np.ndarray:
    """L_T of each image (N, …): the divergence of q(x_T | x_0) from N(0, 1) (Ho et al. 2020, eq. 5)."""
    alpha_bar = diffusion.schedule.alpha_bars[-1]
    # log(1 - alpha_bar) + alpha_bar cancels almost entirely
    nats = 0.5 * (alpha_bar * (x0**2 - 1.0) - np.log1p(-alpha_bar))
    return np.mean(nats, axis=tuple(range(1, x0.ndim))) / math.log(2)


def term_bits(
    model: Any,
    diffusion: Diffusion,
    x0: np.ndarray,
    t: np.ndarray,
    noise: np.ndarray,
    labels: Array | None = None,
    clip: bool = True,
) -> np.ndarray:
    """L_t of each image (N, H, W, C) at its t (N,), of the network's prediction (Ho et al. 2020, eq. 5 and 13)."""
    x_t = diffusion.q_sample(x0, t, noise)
    be = getattr(model, "backend", None) or exact()
    given = be.asarray(x_t, getattr(model, "dtype", "float64"))
    output = be.to_numpy(model(given, diffusion.schedule.timesteps[t], labels=labels)).astype(np.float64)
    prediction, v = diffusion.split_output(output, x0.shape[-1])
    x0_hat = diffusion.to_x0(x_t, t, prediction)
    x0_hat = np.clip(x0_hat, -1.0, 1.0) if clip else x0_hat
    return bits(diffusion, x0, x0_hat, t, v)


def exact() -> backends.Backend:
    """What computes in float64 here. Made when it is first asked for, as its threads are read from the environment."""
    return backends.get("numpy")


def bits(diffusion: Diffusion, x0: np.ndarray, x0_hat: np.ndarray, t: np.ndarray, v: np.ndarray | None) -> np.ndarray:
    """L_t of each image for a predicted x0: the operation of training, of weight 1 and in float64."""
    # A fixed variance is the end of an interval that begins at the posterior's
    high = None if v is not None else diffusion.log_variance(t)
    steps = bound_steps(diffusion.schedule, "x0", t, 0.0, 1.0, high)
    output = np.concatenate([x0_hat, np.ones_like(x0) if v is None else v], axis=-1)
    return exact().vlb_loss(output, x0, x0, steps, False)[0][1:]


def floor_of(diffusion: Diffusion, images: np.ndarray) -> float:
    """Bits per dimension that a perfect network would still pay for these images (N, H, W, C) in [-1, 1].

    The prior, and the decoder with its mean exactly at x0: its variance, that of the schedule's last step, spreads over
    neighbouring grey levels what is known. Fixed variances are as they are; of learned ones the least of their interval
    counts, beta~ (v = -1). L_t between have no floor.
    """
    x0 = images.astype(np.float64)
    v = -np.ones_like(x0) if diffusion.learned else None
    decoder = bits(diffusion, x0, x0, np.zeros(len(x0), np.int64), v)
    return float(np.mean(decoder + prior_bits(diffusion, x0)))
