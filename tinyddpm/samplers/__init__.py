"""Samplers: generators that walk from noise to images and yield a `State` after each step.

Read `walk`, `ddpm`, `ddim`, `euler`, `heun`, `dpm_solver`, `pndm`, then `threshold`, `guidance`. All are called as
`sampler(model, diffusion, shape, **options)`: model: a `Predictor`, anything callable as model(x, t, labels=None).
shape: (N, H, W, C). options: `WalkOptions`. They raise InputError, at the first step, for steps, spacings or shapes
that do not fit.

| sampler | order | network calls in n steps | noise in each step | source |
| --- | --- | --- | --- | --- |
| ddpm | 1 | n | of variance beta~ or beta | Ho et al. 2020, Algorithm 2 |
| ddim | 1 | n | none; with eta = 1 that of ddpm with fixed_small | Song, Meng & Ermon 2021, eq. 12 |
| euler | 1 | n | none | Karras et al. 2022, section 3 |
| heun | 2 | 2 n - 1 | none | Karras et al. 2022, algorithm 1 |
| dpm_solver | 2 | n | none | Lu et al. 2022, "DPM-Solver++", algorithm 2 |
| pndm | 2 | n + 1 | none | Liu et al. 2022, eq. 9 and 12 |
"""

from collections.abc import Callable, Iterator

from tinyddpm.samplers.ddim import ddim
from tinyddpm.samplers.ddpm import ddpm
from tinyddpm.samplers.dpm_solver import dpm_solver
from tinyddpm.samplers.euler import euler
from tinyddpm.samplers.heun import heun
from tinyddpm.samplers.pndm import pndm
from tinyddpm.samplers.walk import State, Walk, WalkOptions, last

SAMPLERS: dict[str, Callable[..., Iterator[State]]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "euler": euler,
    "heun": heun,
    "dpm_solver": dpm_solver,
    "pndm": pndm,
}

# What `draw` and every command use by default: in few steps plain DDIM leaves specks of noise, ancestral sampling none
DEFAULT_SAMPLER = "ddpm"

__all__ = [
    "DEFAULT_SAMPLER",
    "SAMPLERS",
    "State",
    "Walk",
    "WalkOptions",
    "ddim",
    "ddpm",
    "dpm_solver",
    "euler",
    "heun",
    "last",
    "pndm",
]
