"""Ancestral sampling."""

from collections.abc import Iterator
from typing import Unpack

import numpy as np

from tinyddpm.diffusion.process import Diffusion, Predictor
from tinyddpm.samplers.walk import State, Walk, WalkOptions


def ddpm(
    model: Predictor, diffusion: Diffusion, shape: tuple[int, ...], **options: Unpack[WalkOptions]
) -> Iterator[State]:
    """Ancestral sampling (Ho et al. 2020, Algorithm 2 and eq. 7); shape: (N, H, W, C), options: `WalkOptions`.

    clip=False with a network that predicts eps is Algorithm 2 as printed. Otherwise the mean is that of eq. 7 at the
    predicted x0, as in the authors' code (`p_mean_variance`); the two agree where nothing clips:
    https://github.com/hojonathanho/diffusion/blob/1e0dceb3b3495bbe19116a5e1b3596cd0706c543/diffusion_tf/diffusion_utils_2.py
    Fewer steps: the betas of the shortened chain (Nichol & Dhariwal 2021, section 4), between whose variances learned
    ones lie too. Raises InputError as `Walk` does.
    """
    walk = Walk(model, diffusion, shape, **options)
    chain, x = walk.chain, walk.start
    for i in walk.indices:
        output, v = walk.output_and_v(x, i)
        x0 = walk.x0(x, i, output)
        as_printed = chain.prediction == "eps" and not walk.clip
        mean = chain.mean_from_eps(x, i, output) if as_printed else chain.posterior_mean(x0, x, i)
        half_log = 0.5 * chain.log_variance(i, v)
        x = mean + walk.noise(x, i, float(np.exp(half_log)) if v is None else walk.backend.xp.exp(half_log))
        yield State(walk.t(i), x, x0)
