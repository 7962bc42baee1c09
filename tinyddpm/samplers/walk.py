"""Samplers: generators that walk from noise to images, one state a step.

All take `(model, diffusion, shape, *, steps, seed, x_T, clip, spacing, labels)`:
model: anything callable as model(x, t, labels=None), with x (N, H, W, C) and t a timestep of the schedule.
shape: (N, H, W, C). steps: how many of the schedule's steps are walked (None: all), chosen by `spacing`
(see `Schedule.spaced_indices`). seed: of the starting noise and each step's. x_T: starts from given noise instead.
clip: limits each predicted x0 to [-1, 1]. labels: (N,), passed to the model.
They raise InputError for steps, spacings or shapes that do not fit.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import backends
from tinyddpm import streams
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.errors import InputError


@dataclass(frozen=True)
class State:
    """After a step: t, the timestep just undone; x, the image now; x0, the clean image predicted from the last x."""

    t: int
    x: Any
    x0: Any


def start(
    model: Any,
    diffusion: Diffusion,
    shape: tuple[int, ...],
    steps: int | None,
    seed: int,
    x_T: Any,
    spacing: str,
) -> tuple[Diffusion, backends.Backend, Any]:
    """The diffusion over the steps to be walked, the backend, and the first image of pure noise."""
    schedule = diffusion.schedule
    diffusion = replace(diffusion, schedule=schedule.respaced(schedule.T if steps is None else steps, spacing))
    be = getattr(model, "backend", None) or (backends.get("numpy") if x_T is None else backends.of(x_T))
    if x_T is None:
        x_T, _ = be.random_normal(tuple(shape), seed, streams.SAMPLE_START, 0)
    elif tuple(x_T.shape) != tuple(shape):
        raise InputError(f"x_T has shape {tuple(x_T.shape)}, but shape={tuple(shape)} was asked for")
    return diffusion, be, be.asarray(x_T)


def clipped(be: backends.Backend, x0: Any, clip: bool) -> Any:
    """x0 limited to [-1, 1] if clip, else as it is."""
    return be.xp.clip(x0, -1.0, 1.0) if clip else x0


def step_noise(be: backends.Backend, x: Any, seed: int, i: int, sigma: float) -> Any:
    """sigma times the noise of step i, none at the last step (i = 0) or where sigma is 0."""
    if i == 0 or sigma == 0:
        return 0.0
    noise, _ = be.random_normal(tuple(x.shape), seed, streams.SAMPLE_NOISE, i, dtype=x.dtype)
    return sigma * noise


def last(states: Iterator[State]) -> State:
    """The final state of a sampler: its x are the images."""
    final = deque(states, maxlen=1)
    if not final:
        raise InputError("the sampler yielded no state")
    return final[0]
