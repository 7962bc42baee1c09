"""How fast samplers converge: their errors against an exact solution, over the number of steps."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from backends import Array
from tinyddpm.diffusion.mixture import GaussianMixture, three_blobs
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.samplers import SAMPLERS, last

# In theory, of the samplers that follow the probability flow: the error falls as steps^-order
ORDERS = {"euler": 1, "ddim": 1, "heun": 2, "dpm_solver": 2, "pndm": 2}
STEPS = (10, 20, 40, 80, 160, 320, 640)


class Measurement(NamedTuple):
    """The root mean square error of a sampler's images, and how often it called the network in that many steps."""

    sampler: str
    steps: int
    calls: int
    error: float


def even_in_log_snr(T: int = 2560, highest: float = 80.0, lowest: float = 1e-4) -> Schedule:
    """A chain on which methods show their order: `Schedule.sigmas` even in their logarithm, lowest to highest.

    Schedules made for training have theirs uneven at the ends: steps from t = 0 on are dense or sparse in sigma however
    many there are, and the last step, which is of first order, dominates. Here it starts at next to no noise.
    """
    log_snr = -2 * np.linspace(np.log(lowest), np.log(highest), T)
    # 1 - alpha_bar_t / alpha_bar_{t-1}, without a difference of near numbers; no noise before the first
    return Schedule.from_betas(-np.expm1(np.diff(log_snr, prepend=np.inf)) / (1 + np.exp(log_snr)))


def convergence(
    samplers: Sequence[str] = tuple(ORDERS),
    steps: Sequence[int] = STEPS,
    *,
    schedule: Schedule | None = None,
    spacing: str = "trailing",
    data: GaussianMixture | None = None,
    count: int = 64,
    seed: int = 0,
) -> Iterator[Measurement]:
    """The errors of each sampler in each number of steps, from the same noise, against `GaussianMixture.flow`.

    The network is the perfect one for data, by default `three_blobs`, and nothing is clipped. schedule: by default
    `even_in_log_snr`, whose length the default steps divide, so that all steps are even. count: of images.
    Raises InputError as the samplers do.
    """
    data = three_blobs() if data is None else data
    schedule = even_in_log_snr() if schedule is None else schedule
    exact_model, diffusion, calls = data.model(schedule), Diffusion(schedule), 0

    def model(x: Array, t: int, labels: Array | None = None) -> Array:
        nonlocal calls
        calls += 1
        return exact_model(x, t)

    x_T = np.random.default_rng(seed).standard_normal((count, *data.image_shape))
    exact = data.flow(x_T, float(schedule.alpha_bars[-1]))
    for name in samplers:
        for number in steps:
            calls = 0
            walk = SAMPLERS[name](model, diffusion, x_T.shape, steps=number, x_T=x_T, clip=False, spacing=spacing)
            error = np.sqrt(np.mean((last(walk).x - exact) ** 2))
            yield Measurement(name, number, calls, float(error))
