"""Pseudo linear multistep."""

from collections.abc import Iterator
from typing import Unpack

from backends import Array
from tinyddpm.diffusion.process import Diffusion, Predictor
from tinyddpm.samplers.walk import State, Walk, WalkOptions

# Adams & Bashforth's, for the slopes from the newest, by how many there are
WEIGHTS = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def pndm(
    model: Predictor, diffusion: Diffusion, shape: tuple[int, ...], **options: Unpack[WalkOptions]
) -> Iterator[State]:
    """PLMS, the linear multistep method of PNDM (Liu et al. 2022, eq. 9 and 12); shape: (N, H, W, C).

    options: `WalkOptions`. The slope is a mean of the last four eps, with Adams & Bashforth's weights, which are those
    of even steps in sigma: for others the order is 2 (their theorem). The first step has no predecessor, and is Heun's,
    which asks the network twice; the next two have fewer than four. Steps from where all is noise (`Walk.in_noise`)
    are Euler's. Raises InputError as `Walk` does.
    """
    walk = Walk(model, diffusion, shape, **options)
    x = walk.start
    slopes: list[Array] = []
    for i in walk.indices:
        x0, eps = walk.predict(x, i)
        if walk.in_noise(i):
            x = walk.follow(i, x0, eps)
        else:
            slopes = [eps, *slopes[:3]]
            slope = sum(weight * slope for weight, slope in zip(WEIGHTS[len(slopes)], slopes, strict=True))
            if len(slopes) == 1 and i > 0:
                _, eps_ahead = walk.predict(walk.follow(i, x0, eps), i - 1)
                slope = 0.5 * (eps + eps_ahead)
            x = walk.follow(i, x0, eps, slope)
        yield State(walk.t(i), x, x0)
