"""Samplers: generators that walk from noise to images, one state a step.

All take `(model, diffusion, shape, *, steps, seed, x_T, clip, spacing, labels)`:
model: anything callable as model(x, t, labels=None), with x (N, H, W, C) and t a timestep of the schedule.
shape: (N, H, W, C). steps: how many of the schedule's steps are walked (None: all), chosen by `spacing`
(see `Schedule.spaced_indices`). seed: of the starting noise and each step's. x_T: starts from given noise instead.
clip: limits each predicted x0 to [-1, 1]. labels: (N,), passed to the model.
They raise InputError for steps, spacings or shapes that do not fit.
"""

from tinyddpm.samplers.ddim import ddim
from tinyddpm.samplers.ddpm import ddpm
from tinyddpm.samplers.walk import State, last

SAMPLERS = {"ddim": ddim, "ddpm": ddpm}

__all__ = ["SAMPLERS", "State", "ddim", "ddpm", "last"]
