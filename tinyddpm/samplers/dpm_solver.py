"""DPM-Solver++."""

from collections.abc import Iterator
from typing import Unpack

import numpy as np

from tinyddpm.diffusion.process import Diffusion, Predictor
from tinyddpm.samplers.walk import State, Walk, WalkOptions


def dpm_solver(
    model: Predictor, diffusion: Diffusion, shape: tuple[int, ...], **options: Unpack[WalkOptions]
) -> Iterator[State]:
    """DPM-Solver++ 2M (Lu et al. 2022, "DPM-Solver++", algorithm 2); shape: (N, H, W, C), options: `WalkOptions`.

    Between two steps x0 is taken as linear in lambda = log(signal / noise), through the last two predictions; the rest
    of the ODE is solved exactly. The first step has one prediction, and the last, which ends at an endless lambda, is
    better off with one: these are DDIM's. Raises InputError as `Walk` does.
    """
    walk = Walk(model, diffusion, shape, **options)
    chain, x, x0_before = walk.chain, walk.start, None
    lambdas = -np.log(chain.schedule.sigmas)
    for i in walk.indices:
        x0, _ = walk.predict(x, i)
        midway = x0
        if x0_before is not None and i > 0:
            h_before, h = lambdas[i] - lambdas[i + 1], lambdas[i - 1] - lambdas[i]
            midway = x0 + float(0.5 * h / h_before) * (x0 - x0_before)
        x, x0_before = walk.follow(i, midway, chain.eps_from_x0(x, i, midway)), x0
        yield State(walk.t(i), x, x0)
