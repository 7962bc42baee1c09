"""Denoising diffusion implicit models."""

from collections.abc import Iterator
from typing import Unpack

import numpy as np

from tinyddpm.checks import check_number
from tinyddpm.diffusion.process import Diffusion, Predictor
from tinyddpm.samplers.walk import State, Walk, WalkOptions


def ddim(
    model: Predictor,
    diffusion: Diffusion,
    shape: tuple[int, ...],
    *,
    eta: float = 0.0,
    **options: Unpack[WalkOptions],
) -> Iterator[State]:
    """DDIM (Song, Meng & Ermon 2021, eq. 12 and 16); shape: (N, H, W, C), options: `WalkOptions`.

    eta: 0 is deterministic, 1 has DDPM's variance beta~. The noise is derived from the clipped x0, not read from the
    network. Raises InputError for a negative eta, and as `Walk` does.
    """
    eta = check_number("eta", eta, 0, float("inf"), high_open=True)
    walk = Walk(model, diffusion, shape, **options)
    schedule, x = walk.chain.schedule, walk.start
    for i in walk.indices:
        x0, eps = walk.predict(x, i)
        alpha_bar_prev = float(schedule.alpha_bars_prev[i])
        sigma = eta * float(np.sqrt(schedule.posterior_variance[i]))
        # eta above 1 can ask for more noise than the step holds
        direction = max(1.0 - alpha_bar_prev - sigma**2, 0.0) ** 0.5
        x = alpha_bar_prev**0.5 * x0 + direction * eps + walk.noise(x, i, sigma)
        yield State(walk.t(i), x, x0)
