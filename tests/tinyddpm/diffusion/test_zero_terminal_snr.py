"""Schedules whose last alpha_bar is 0: algorithm 1 of Lin et al. 2024 and everything that then divides by it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tinyddpm.diffusion.small import batch
from tests.tinyddpm.diffusion.test_schedules import TABLES
from tinyddpm import samplers
from tinyddpm.diffusion.mixture import three_blobs
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import NAMES, SPACINGS, Schedule
from tinyddpm.errors import InputError

WITHOUT_EPS = ("x0", "v")


@pytest.mark.equation("Lin et al. 2024, algorithm 1")
@given(st.sampled_from(NAMES), st.integers(21, 400))
def test_roots_of_alpha_bar_are_shifted_to_zero_and_scaled_to_the_first(name, steps):
    before = Schedule.by_name(name, steps)
    after = before.rescaled_to_zero_terminal_snr()
    first, last = (math.sqrt(before.alpha_bars[t]) for t in (0, -1))
    expected = [first * (math.sqrt(bar) - last) / (first - last) for bar in before.alpha_bars]
    # The last but one is a small difference
    np.testing.assert_allclose(after.sqrt_alpha_bars, expected, rtol=1e-9, atol=1e-12)
    assert after.alpha_bars[-1] == 0
    assert after.betas[-1] == 1
    assert after.zero_terminal_snr
    assert not before.zero_terminal_snr
    assert math.isclose(after.betas[0], before.betas[0], rel_tol=1e-9)
    assert np.all(np.diff(after.alpha_bars) < 0)
    np.testing.assert_array_equal(after.timesteps, before.timesteps)
    np.testing.assert_array_equal(Schedule.by_name(name, steps, zero_terminal_snr=True).betas, after.betas)


@given(st.sampled_from(NAMES), st.integers(21, 400))
def test_rescaled_twice_is_rescaled_once(name, steps):
    once = Schedule.by_name(name, steps, zero_terminal_snr=True)
    np.testing.assert_allclose(once.rescaled_to_zero_terminal_snr().alpha_bars, once.alpha_bars, rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("error")
def test_every_table_is_finite_and_the_last_step_leads_from_noise_alone(name):
    schedule = Schedule.by_name(name, 100, zero_terminal_snr=True)
    for table in TABLES:
        assert np.all(np.isfinite(getattr(schedule, table))), table
    last = {table: getattr(schedule, table)[-1] for table in TABLES}
    assert last["snr"] == last["sqrt_alpha_bars"] == last["posterior_mean_xt"] == 0
    assert last["sqrt_one_minus_alpha_bars"] == 1
    # x_T says nothing of x_0, so given both x_{T-1} is as the forward process from x_0 has it
    assert math.isclose(last["posterior_mean_x0"], math.sqrt(schedule.alpha_bars_prev[-1]), rel_tol=1e-12)
    assert math.isclose(last["posterior_variance"], 1 - schedule.alpha_bars_prev[-1], rel_tol=1e-12)


@pytest.mark.parametrize("spacing", SPACINGS)
@given(length=st.integers(21, 300), data=st.data())
def test_shortened_chains_keep_the_end_where_their_spacing_visits_it(spacing, length, data):
    schedule = Schedule.by_name("linear", length, zero_terminal_snr=True)
    steps = data.draw(st.integers(1, length))
    short = schedule.respaced(steps, spacing)
    assert short.zero_terminal_snr == (short.timesteps[-1] == length - 1)
    if spacing in ("trailing", "linspace"):
        assert short.betas[-1] == 1
    for table in TABLES:
        assert np.all(np.isfinite(getattr(short, table))), table


@pytest.mark.filterwarnings("error")
def test_eps_is_refused_in_one_line():
    schedule = Schedule.by_name("cosine", 50, zero_terminal_snr=True)
    with pytest.raises(InputError, match=r'^prediction "eps" .* use "v" or "x0"$'):
        Diffusion(schedule)
    with pytest.raises(InputError, match="alpha is 0"):
        Diffusion(schedule, prediction="v").mean_from_eps(batch(2), 49, batch(2, 1))
    with pytest.raises(InputError, match="alpha is 0"):
        Diffusion(schedule, prediction="v").mean_from_eps(batch(2), np.array([3, 49]), batch(2, 1))
    assert np.all(np.isfinite(Diffusion(schedule, prediction="v").mean_from_eps(batch(2), 48, batch(2, 1))))


@pytest.mark.parametrize("prediction", WITHOUT_EPS)
@pytest.mark.filterwarnings("error")
def test_predictions_mean_the_same_where_only_noise_is_left(prediction):
    diffusion = Diffusion(Schedule.by_name("linear", 50, zero_terminal_snr=True), prediction=prediction)
    x0, noise, t = batch(3), batch(3, 1), np.array([0, 48, 49])
    x_t = diffusion.q_sample(x0, t, noise)
    np.testing.assert_array_equal(x_t[2], noise[2])
    target = diffusion.target(x0, t, noise)
    # v at the end is -x0
    np.testing.assert_array_equal(target[2], {"x0": x0, "v": -x0}[prediction][2])
    np.testing.assert_allclose(diffusion.to_x0(x_t, t, target), x0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(diffusion.to_eps(x_t, t, target), noise, rtol=0, atol=1e-12)
    np.testing.assert_allclose(diffusion.eps_from_x0(x_t, t, x0), noise, rtol=0, atol=1e-12)


def check_mixture(sampler, diffusion, clip, **more):
    """From pure noise the sampler gives mean and covariance of the mixture."""
    blobs, n = three_blobs(), 4000
    model = blobs.model(diffusion.schedule, diffusion.prediction)
    x = samplers.last(sampler(model, diffusion, (n, 2, 2, 1), clip=clip, seed=3, **more)).x
    rows = x.reshape(n, -1)
    # Four deviations of the mean of n
    assert np.all(np.abs(rows.mean(axis=0) - blobs.mean) < 4 * np.sqrt(np.diag(blobs.covariance) / n))
    assert np.abs(np.cov(rows.T) - blobs.covariance).max() < 0.02


@pytest.mark.parametrize("prediction", WITHOUT_EPS)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.filterwarnings("error")
def test_ancestral_sampling_gives_the_mixture_from_pure_noise(prediction, variance, clip):
    schedule = Schedule.by_name("cosine", 100, zero_terminal_snr=True)
    check_mixture(samplers.ddpm, Diffusion(schedule, prediction=prediction, variance=variance), clip)


@pytest.mark.parametrize("prediction", WITHOUT_EPS)
@pytest.mark.parametrize("name", [name for name in samplers.SAMPLERS if name != "ddpm"])
@pytest.mark.filterwarnings("error")
def test_other_samplers_give_the_mixture_from_pure_noise(name, prediction):
    schedule = Schedule.by_name("linear", 1000, zero_terminal_snr=True)
    check_mixture(samplers.SAMPLERS[name], Diffusion(schedule, prediction=prediction), clip=False, steps=40)


@pytest.mark.parametrize("prediction", WITHOUT_EPS)
@pytest.mark.parametrize("steps", [1, 2, 10])
@pytest.mark.filterwarnings("error")
def test_the_first_step_asks_for_x0_and_forgets_the_noise(prediction, steps):
    blobs = three_blobs()
    schedule = Schedule.by_name("linear", 100, zero_terminal_snr=True)
    diffusion = Diffusion(schedule, prediction=prediction)
    for sampler in samplers.SAMPLERS.values():
        first = next(iter(sampler(blobs.model(schedule, prediction), diffusion, (5, 2, 2, 1), steps=steps, clip=False)))
        assert first.t == 99
        # Nothing is known at the start but the mean of the data
        np.testing.assert_allclose(first.x0.reshape(5, -1), np.tile(blobs.mean, (5, 1)), rtol=0, atol=1e-5)
