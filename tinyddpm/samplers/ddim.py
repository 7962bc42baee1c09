"""Denoising diffusion implicit models."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinyddpm.checks import check_number
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.samplers.walk import State, clipped, start, step_noise


def ddim(
    model: Any,
    diffusion: Diffusion,
    shape: tuple[int, ...],
    *,
    steps: int | None = None,
    eta: float = 0.0,
    seed: int = 0,
    x_T: Any = None,
    clip: bool = True,
    spacing: str = "trailing",
    labels: Any = None,
) -> Iterator[State]:
    """DDIM (Song, Meng & Ermon 2021, eq. 12 and 16).

    eta: 0 is deterministic, 1 has DDPM's variance beta~. The noise is derived anew from the clipped x0.
    """
    check_number("eta", eta, 0, float("inf"), high_open=True)
    chain, be, x = start(model, diffusion, shape, steps, seed, x_T, spacing)
    for i in reversed(range(chain.schedule.T)):
        t = int(chain.schedule.timesteps[i])
        x0 = clipped(be, chain.to_x0(x, i, model(x, t, labels=labels)), clip)
        eps = chain.eps_from_x0(x, i, x0)
        alpha_bar_prev = float(chain.schedule.alpha_bars_prev[i])
        sigma = eta * float(np.sqrt(chain.schedule.posterior_variance[i]))
        # eta above 1 can ask for more noise than the step holds
        direction = max(1.0 - alpha_bar_prev - sigma**2, 0.0) ** 0.5
        x = alpha_bar_prev**0.5 * x0 + direction * eps + step_noise(be, x, seed, i, sigma)
        yield State(t, x, x0)
