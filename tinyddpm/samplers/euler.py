"""Euler's method on the probability flow."""

from collections.abc import Iterator
from typing import Unpack

from tinyddpm.diffusion.process import Diffusion, Predictor
from tinyddpm.samplers.walk import State, Walk, WalkOptions


def euler(
    model: Predictor, diffusion: Diffusion, shape: tuple[int, ...], **options: Unpack[WalkOptions]
) -> Iterator[State]:
    """Euler's method on the probability-flow ODE (Karras et al. 2022, section 3); shape: (N, H, W, C).

    options: `WalkOptions`. In the variables of `Walk.follow` it is DDIM with eta = 0 (Song, Meng & Ermon 2021, section
    4.3); it stands here as what `heun` corrects. Raises InputError as `Walk` does.
    """
    walk = Walk(model, diffusion, shape, **options)
    x = walk.start
    for i in walk.indices:
        x0, eps = walk.predict(x, i)
        x = walk.follow(i, x0, eps)
        yield State(walk.t(i), x, x0)
