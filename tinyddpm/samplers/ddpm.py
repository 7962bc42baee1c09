"""Ancestral sampling."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinyddpm.diffusion.process import Diffusion
from tinyddpm.samplers.walk import State, clipped, start, step_noise


def ddpm(
    model: Any,
    diffusion: Diffusion,
    shape: tuple[int, ...],
    *,
    steps: int | None = None,
    seed: int = 0,
    x_T: Any = None,
    clip: bool = True,
    spacing: str = "trailing",
    labels: Any = None,
) -> Iterator[State]:
    """Ancestral sampling (Ho et al. 2020, Algorithm 2).

    clip=False is Algorithm 2 as printed. clip=True takes the mean of eq. 7 at the clipped x0, as the authors'
    code does; the two agree where nothing clips. Fewer steps: the betas of the shortened chain (Nichol &
    Dhariwal 2021, section 4).
    """
    chain, be, x = start(model, diffusion, shape, steps, seed, x_T, spacing)
    for i in reversed(range(chain.schedule.T)):
        t = int(chain.schedule.timesteps[i])
        output = model(x, t, labels=labels)
        x0 = clipped(be, chain.to_x0(x, i, output), clip)
        mean = chain.posterior_mean(x0, x, i) if clip else chain.mean_from_eps(x, i, chain.to_eps(x, i, output))
        x = mean + step_noise(be, x, seed, i, float(np.exp(0.5 * chain.log_variance(i))))
        yield State(t, x, x0)
