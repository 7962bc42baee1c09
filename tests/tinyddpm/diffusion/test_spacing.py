"""Chains of fewer steps: which of a schedule's are kept, and what the kept ones know."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tinyddpm.diffusion.test_schedules import schedules
from tinyddpm.diffusion.schedules import ALL_NOISE, NAMES, SPACINGS, Schedule


@settings(deadline=None)
@given(st.integers(1, 1000), st.data())
def test_spaced_indices_ascend_within_the_chain(length, data):
    steps = data.draw(st.integers(1, length))
    schedule = Schedule.from_betas(np.full(length, 0.01))
    indices = {spacing: schedule.spaced_indices(steps, spacing) for spacing in SPACINGS}
    for visited in indices.values():
        assert visited.shape == (steps,)
        assert visited.dtype == np.int64
        assert visited[0] >= 0
        assert visited[-1] <= length - 1
        assert np.all(np.diff(visited) > 0)
    if steps == 1:
        # From pure noise to the image at once, never at t = 0 alone
        assert {visited.item() for visited in indices.values()} == {length - 1}
        return
    assert indices["leading"][0] == 0
    assert set(np.diff(indices["leading"])) <= {length // steps}
    assert indices["trailing"][-1] == length - 1
    # even to rounding
    assert np.ptp(np.diff(indices["trailing"])) <= 1
    assert indices["linspace"][0] == 0
    assert indices["linspace"][-1] == length - 1
    assert np.ptp(np.diff(indices["linspace"])) <= 1


def test_spaced_indices_are_those_of_the_paper():
    # Lin et al. 2024, table 2: T = 1000, S = 10, whose t is our index + 1
    schedule = Schedule.linear(1000)
    np.testing.assert_array_equal(schedule.spaced_indices(10, "leading") + 1, np.arange(1, 902, 100))
    np.testing.assert_array_equal(schedule.spaced_indices(10, "trailing") + 1, np.arange(100, 1001, 100))
    linspace = [1, 112, 223, 334, 445, 556, 667, 778, 889, 1000]
    np.testing.assert_array_equal(schedule.spaced_indices(10, "linspace") + 1, linspace)


def karras_sigmas(first: float, last: float, steps: int) -> np.ndarray:
    """Karras et al. 2022, eq. 5, with rho = 7, ascending."""
    i = np.arange(steps)[::-1]
    return (last ** (1 / 7) + i / (steps - 1) * (first ** (1 / 7) - last ** (1 / 7))) ** 7


@pytest.mark.equation("Karras et al. 2022, eq. 5")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [2, 5, 10, 20, 50, 100])
def test_karras_indices_are_the_nearest_that_do_not_repeat(name, steps):
    schedule = Schedule.by_name(name)
    visited = schedule.spaced_indices(steps, "karras")
    highest = min(schedule.sigmas[-1], ALL_NOISE)
    logs = np.log(schedule.sigmas)
    nearest = [np.abs(logs - np.log(sigma)).argmin() for sigma in karras_sigmas(schedule.sigmas[0], highest, steps)]
    ends = nearest[0], nearest[-1]
    # All that repeat but the first move up, and push up what they meet, but not beyond the end
    for j in range(1, steps):
        nearest[j] = max(nearest[j], nearest[j - 1] + 1)
    nearest[-1] = ends[1]
    for j in range(steps - 2, -1, -1):
        nearest[j] = min(nearest[j], nearest[j + 1] - 1)
    np.testing.assert_array_equal(visited, nearest)
    assert (visited[0], visited[-1]) == ends
    assert ends == (0, {"linear": 999, "quadratic": 999, "cosine": 995, "sigmoid": 998, "log_snr": 999}[name])


@pytest.mark.parametrize("steps", [1, 2, 3, 50, 99, 100])
def test_karras_indices_of_a_chain_that_ends_without_signal(steps):
    # As schedules of zero terminal SNR do: the last sigma is endless
    schedule = Schedule.cosine(100)
    vars(schedule)["sigmas"] = np.append(schedule.sigmas[:-1], np.inf)
    visited = schedule.spaced_indices(steps, "karras")
    assert visited.shape == (steps,)
    assert np.all(np.diff(visited) > 0)
    assert 0 <= visited[0] <= visited[-1] <= 99


@settings(deadline=None)
@given(schedules(), st.sampled_from(SPACINGS), st.data())
def test_respaced_keeps_alpha_bar_at_the_steps_it_keeps(schedule, spacing, data):
    steps = data.draw(st.integers(1, schedule.T))
    short, kept = schedule.respaced(steps, spacing), schedule.spaced_indices(steps, spacing)
    assert short.betas.shape == (steps,)
    np.testing.assert_array_equal(short.timesteps, kept)
    assert np.all((short.betas > 0) & (short.betas < 1))
    # a beta near 1 holds its alpha to 1e-16 / alpha
    rtol = 1e-13 + 1e-15 * np.sum(1 / short.alphas)
    np.testing.assert_allclose(short.alpha_bars, schedule.alpha_bars[kept], rtol=rtol)


@settings(deadline=None)
@given(schedules(), st.sampled_from(SPACINGS))
def test_respaced_to_all_steps_is_the_schedule_itself(schedule, spacing):
    same = schedule.respaced(schedule.T, spacing)
    np.testing.assert_array_equal(same.betas, schedule.betas)
    np.testing.assert_array_equal(same.timesteps, schedule.timesteps)


def test_respaced_twice_still_knows_the_first_timesteps():
    schedule = Schedule.cosine(1000)
    twice = schedule.respaced(100).respaced(10)
    np.testing.assert_array_equal(twice.timesteps, np.arange(99, 1000, 100))
    np.testing.assert_allclose(twice.alpha_bars, schedule.alpha_bars[twice.timesteps], rtol=1e-9)
