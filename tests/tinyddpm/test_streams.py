"""No two uses of one seed share random numbers."""

from typing import Any

import numpy as np
import pytest

import backends
from tests.tinyddpm.tiny_runs import SIMPLE, build
from tinyddpm import samplers, streams
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import InputError


def test_the_table_names_every_use() -> None:
    constants = {name: value for name, value in vars(streams).items() if name.isupper() and name not in ("END", "USES")}
    as_ranges = {
        name: value if isinstance(value, range) else range(value, value + 1) for name, value in constants.items()
    }
    assert as_ranges == streams.USES


def test_uses_that_meet_are_named() -> None:
    streams.check_apart(streams.USES)
    for wrong in (range(200, 300), range(4, 5), range((1 << 32) - 1, (1 << 32) + 1), range(-1, 0)):
        with pytest.raises(ValueError, match="the streams of "):
            streams.check_apart({**streams.USES, "ANOTHER": wrong})


class Noting(backends.NumpyBackend):
    """Notes where each image's random numbers come from."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[tuple[int, int, int, int]] = []

    def random_normal(self, shape: Any, seed: int, stream: int, step: int, dtype: Any = None, first: int = 0) -> Any:
        self.drawn += [(seed, stream, step, first + i) for i in range(shape[0])]
        return backends.OPS["random_normal"].forward(np, shape, seed, stream, step, dtype=dtype, first=first)


@pytest.mark.parametrize(("sampler", "options"), [(samplers.ddpm, {}), (samplers.ddim, {"eta": 0.5})])
def test_images_of_a_seed_and_neighbouring_seeds_share_no_noise(sampler: Any, options: dict[str, Any]) -> None:
    noting = Noting()
    model, diffusion = build(SIMPLE, noting), Diffusion(Schedule.cosine(50))
    noting.drawn.clear()
    for seed in (0, 1, 2):
        for first in (0, 2, 4, 6):
            list(sampler(model, diffusion, (2, 8, 8, 1), steps=7, seed=seed, first=first, **options))
    assert len(noting.drawn) == 3 * 8 * 7  # the start, and all steps but the last
    assert len(set(noting.drawn)) == len(noting.drawn)


def test_images_past_the_counter_are_refused() -> None:
    model, diffusion = build(SIMPLE), Diffusion(Schedule.cosine(50))
    most = 2**32 - 2
    next(samplers.ddpm(model, diffusion, (2, 8, 8, 1), steps=7, first=most))
    with pytest.raises(InputError, match=f"^first must be a whole number in 0 … {most}, got {most + 1}$"):
        next(samplers.ddpm(model, diffusion, (2, 8, 8, 1), steps=7, first=most + 1))


@pytest.mark.parametrize("sampler", samplers.SAMPLERS.values())
def test_an_option_that_there_is_not(sampler: Any) -> None:
    with pytest.raises(TypeError, match="stpes"):
        next(sampler(build(SIMPLE), Diffusion(Schedule.cosine(50)), (1, 8, 8, 1), stpes=7))
