"""What all samplers draw: the start of a walk, and the noise of its steps."""

from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.samplers.walk import Walk


def test_no_start_and_no_steps_noise_are_drawn_twice():
    """Neither in one batch nor in another of the same seed."""
    drawn = []
    for batch in range(6):
        walk = Walk(lambda x, t, labels: x, Diffusion(Schedule.cosine(100)), (2, 3, 4, 1), steps=5, seed=3, batch=batch)
        drawn += [walk.start, *(walk.noise(walk.start, i, 1.0) for i in range(1, walk.T))]
    assert len({x.tobytes() for x in drawn}) == len(drawn) == 30
