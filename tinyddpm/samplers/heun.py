"""Heun's method on the probability flow."""

from collections.abc import Iterator
from typing import Unpack

from tinyddpm.diffusion.process import Diffusion, Predictor
from tinyddpm.samplers.walk import State, Walk, WalkOptions


def heun(
    model: Predictor, diffusion: Diffusion, shape: tuple[int, ...], **options: Unpack[WalkOptions]
) -> Iterator[State]:
    """Heun's method on the probability-flow ODE (Karras et al. 2022, algorithm 1); shape: (N, H, W, C).

    options: `WalkOptions`. Each step asks the network twice: the slope is the mean of those at both ends. Only the last
    step, where no noise is left, is Euler's, and steps from where all is noise (`Walk.in_noise`).
    Raises InputError as `Walk` does.
    """
    walk = Walk(model, diffusion, shape, **options)
    x = walk.start
    for i in walk.indices:
        x0, eps = walk.predict(x, i)
        x = walk.follow(i, x0, eps)
        if i > 0 and not walk.in_noise(i):
            _, eps_ahead = walk.predict(x, i - 1)
            x = walk.follow(i, x0, eps, 0.5 * (eps + eps_ahead))
        yield State(walk.t(i), x, x0)
