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

Each takes the steps of diffusers' scheduler of its name, on the same timesteps and with their final_sigmas_type="zero",
set_alpha_to_one=True, skip_prk_steps=True (`DPMSolverMultistepScheduler` with order 2 and its midpoint). Differences:
their use_karras_sigmas walks sigmas between those of the schedule and tells the network fractions of timesteps, or
rounds these alone, where ours takes the nearest of both; heun and pndm leave noise alone by steps of first order
(`Walk.in_noise`), where theirs multiply errors by sigma; pndm makes noises of what a network predicts before it mixes
them, where theirs mixes v. With leading and linspace spacing dpm_solver gains little: its last step but one is much
longer in log SNR than those before.
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
DEFAULT_SAMPLER, DEFAULT_STEPS, DEFAULT_SPACING = "ddpm", 50, "trailing"

__all__ = [
    "DEFAULT_SAMPLER",
    "DEFAULT_SPACING",
    "DEFAULT_STEPS",
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
