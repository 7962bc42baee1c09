"""Samplers: generators that walk from noise to images and yield a `State` after each step.

Read `walk`, `ddpm`, `ddim`, then `guidance`. All are called as `sampler(model, diffusion, shape, **options)`:
model: a `Predictor`, anything callable as model(x, t, labels=None). shape: (N, H, W, C). options: `WalkOptions`.
They raise InputError, at the first step, for steps, spacings or shapes that do not fit.

| sampler | order | noise in each step | source |
| --- | --- | --- | --- |
| ddpm | 1 | of variance beta~ or beta | Ho et al. 2020, Algorithm 2 |
| ddim | 1 | none; with eta = 1 that of ddpm with fixed_small | Song, Meng & Ermon 2021, eq. 12 |
"""

from collections.abc import Callable, Iterator

from tinyddpm.samplers.ddim import ddim
from tinyddpm.samplers.ddpm import ddpm
from tinyddpm.samplers.walk import State, Walk, WalkOptions, last

SAMPLERS: dict[str, Callable[..., Iterator[State]]] = {"ddpm": ddpm, "ddim": ddim}

# What `draw` and every command use by default: in few steps plain DDIM leaves specks of noise, ancestral sampling none
DEFAULT_SAMPLER = "ddpm"

__all__ = ["DEFAULT_SAMPLER", "SAMPLERS", "State", "Walk", "WalkOptions", "ddim", "ddpm", "last"]
