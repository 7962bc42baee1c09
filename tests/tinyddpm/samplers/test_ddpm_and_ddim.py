"""Each step of ddpm and ddim against one worked by hand, from alpha_bar alone."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats

from tests.tinyddpm.samplers.test_samplers import DIFFUSION, SCHEDULE, SHAPE, wild, x_start
from tinyddpm import samplers
from tinyddpm.diffusion.process import FIXED_VARIANCES, Diffusion
from tinyddpm.diffusion.schedules import SPACINGS


def kept_alpha_bars(steps: int, spacing: str) -> Iterator[tuple[int, float, float]]:
    """(timestep, alpha_bar, alpha_bar of the step that follows) in the order of sampling."""
    kept = SCHEDULE.spaced_indices(steps, spacing).tolist()[::-1]
    for t, following in itertools.zip_longest(kept, kept[1:]):
        yield (
            t,
            float(SCHEDULE.alpha_bars[t]),
            1.0 if following is None else float(SCHEDULE.alpha_bars[following]),
        )


def x0_by_hand(x: np.ndarray, output: np.ndarray, ab: float, clip: bool) -> np.ndarray:
    x0 = (x - math.sqrt(1 - ab) * output) / math.sqrt(ab)
    return np.minimum(np.maximum(x0, -1), 1) if clip else x0


def ddpm_by_hand(x, output, ab, prev, clip, variance="fixed_small"):
    """(mean, sigma): the two Gaussians that meet in x_{t-1}, from x_t and from x_0, weighed by their precision."""
    alpha, x0 = ab / prev, x0_by_hand(x, output, ab, clip)
    if prev == 1:
        return x0, 0.0
    from_x, from_x0 = alpha / (1 - alpha), 1 / (1 - prev)
    mean = (from_x * x / math.sqrt(alpha) + from_x0 * math.sqrt(prev) * x0) / (from_x + from_x0)
    return mean, math.sqrt(1 / (from_x + from_x0) if variance == "fixed_small" else 1 - alpha)


def ddim_by_hand(x, output, ab, prev, clip, eta=0.0):
    """(mean, sigma) of Song, Meng & Ermon 2021, eq. 12, with sigma of eq. 16."""
    x0 = x0_by_hand(x, output, ab, clip)
    eps = (x - math.sqrt(ab) * x0) / math.sqrt(1 - ab)
    sigma = eta * math.sqrt((1 - prev) / (1 - ab)) * math.sqrt(1 - ab / prev)
    return math.sqrt(prev) * x0 + math.sqrt(max(1 - prev - sigma**2, 0.0)) * eps, sigma


def assert_steps_by_hand(states, x, by_hand, steps, spacing, network=wild) -> list[np.ndarray]:
    """Checks each state's mean and returns the standardised noise of each step but the last, which has none."""
    noises = []
    for state, (t, ab, prev) in zip(states, kept_alpha_bars(steps, spacing), strict=True):
        mean, sigma = by_hand(x, network(x, t), ab, prev)
        if sigma == 0:
            np.testing.assert_allclose(state.x, mean, rtol=1e-9, atol=1e-9)
        else:
            noises.append(((state.x - mean) / sigma).reshape(-1))
        x = state.x
    return noises


def assert_standard_normal(noises: list[np.ndarray], start: np.ndarray) -> None:
    """Each is standard normal, and no two steps, nor any with the start, share their noise."""
    n = start.size
    for noise in noises:
        assert stats.kstest(noise, "norm").pvalue > 1e-3
        assert abs(noise.var() - 1) < 4 * math.sqrt(2 / n)
    correlations = np.corrcoef([start.reshape(-1), *noises])
    assert np.abs(correlations - np.eye(len(correlations))).max() < 5 / math.sqrt(n)


@pytest.mark.equation("Song, Meng & Ermon 2021, eq. 12")
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 7, 100])
def test_ddim_is_equation_12(clip, spacing, steps):
    x = x_start()
    states = samplers.ddim(wild, DIFFUSION, SHAPE, steps=steps, x_T=x, clip=clip, spacing=spacing)
    noises = assert_steps_by_hand(
        states, x, lambda x, output, ab, prev: ddim_by_hand(x, output, ab, prev, clip), steps, spacing
    )
    assert noises == []


@pytest.mark.equation("Song, Meng & Ermon 2021, eq. 16")
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("eta", [0.5, 1.0, 3.0])
def test_ddims_noise_is_that_of_equation_16(clip, eta):
    # eta = 3 asks for more noise than some steps hold: nothing is left of eps there
    x = x_start((5000, 2, 2, 1))
    states = samplers.ddim(wild, DIFFUSION, x.shape, steps=6, eta=eta, x_T=x, clip=clip, seed=1)
    noises = assert_steps_by_hand(
        states, x, lambda x, output, ab, prev: ddim_by_hand(x, output, ab, prev, clip, eta), 6, "trailing"
    )
    assert len(noises) == 5
    assert_standard_normal(noises, x)


@pytest.mark.equation("Ho et al. 2020, algorithm 2")
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("variance", FIXED_VARIANCES)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_ddpm_is_algorithm_2(clip, variance, spacing):
    x = x_start((5000, 2, 2, 1))
    diffusion = Diffusion(SCHEDULE, variance=variance)
    states = samplers.ddpm(wild, diffusion, x.shape, steps=6, x_T=x, clip=clip, seed=1, spacing=spacing)
    noises = assert_steps_by_hand(
        states, x, lambda x, output, ab, prev: ddpm_by_hand(x, output, ab, prev, clip, variance), 6, spacing
    )
    assert len(noises) == 5
    assert_standard_normal(noises, x)


@pytest.mark.parametrize("clip", [True, False])
def test_ddim_with_eta_1_is_ddpm_noise_for_noise(clip):
    # Song, Meng & Ermon 2021, section 4.1; the two draw the same noise in the same step
    options = {"steps": 20, "seed": 3, "x_T": x_start(), "clip": clip}
    pairs = zip(
        samplers.ddpm(wild, DIFFUSION, SHAPE, **options),
        samplers.ddim(wild, DIFFUSION, SHAPE, eta=1.0, **options),
        strict=True,
    )
    for ancestral, implicit in pairs:
        np.testing.assert_allclose(ancestral.x, implicit.x, rtol=1e-9, atol=1e-9)
