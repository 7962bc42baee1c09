"""What all samplers draw: the start of a walk, and the noise of its steps."""

import numpy as np
import pytest

from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.samplers.walk import Walk


def test_no_start_and_no_steps_noise_are_drawn_twice():
    """Neither for one image nor for another of the same seed."""
    drawn = [image for first in range(0, 12, 2) for whole in noises(2, first) for image in whole]
    assert len({x.tobytes() for x in drawn}) == len(drawn) == 60


def noises(n: int, first: int, size: tuple[int, ...] = (3, 4, 1)) -> list[np.ndarray]:
    """The start and the noise of each step but the last."""
    diffusion = Diffusion(Schedule.cosine(100))
    walk = Walk(lambda x, t, labels: x, diffusion, (n, *size), steps=5, seed=3, first=first)
    return [walk.start, *(walk.noise(walk.start, i, 1.0) for i in range(1, walk.T))]


@pytest.mark.parametrize("size", [(3, 4, 1), (7, 5, 3)])
@pytest.mark.parametrize("parts", [(1, 5), (4, 2), (1, 2, 3)])
def test_noise_goes_by_the_number_of_the_image(size: tuple[int, ...], parts: tuple[int, ...]):
    """Whatever the batches that the images are drawn in, also where four numbers of a block belong to two images."""
    whole = noises(6, 10, size)
    firsts = np.cumsum((10, *parts[:-1]))
    shares = [noises(n, int(first), size) for n, first in zip(parts, firsts, strict=True)]
    for together, *apart in zip(whole, *shares, strict=True):
        np.testing.assert_array_equal(together, np.concatenate(apart))
