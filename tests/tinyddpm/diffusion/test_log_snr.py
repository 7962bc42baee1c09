"""Schedules in log SNR over continuous time against their closed forms."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyddpm.diffusion.schedules import Schedule

MAKERS = {"log_snr": Schedule.log_snr, "shifted_cosine": Schedule.shifted_cosine}


def log_snr(schedule: Schedule) -> np.ndarray:
    """From the betas alone, 1 - alpha_bar without a difference of near numbers."""
    log_alpha_bars = np.cumsum(np.log1p(-schedule.betas))
    return log_alpha_bars - np.log(-np.expm1(log_alpha_bars))


@given(st.integers(1, 400), st.floats(0, 15), st.floats(-12, -0.5))
def test_log_snr_falls_evenly_and_ends_at_low(steps, high, low):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not all end in noise
        schedule = Schedule.log_snr(steps, high, low)
    expected = [high + (low - high) * t / steps for t in range(1, steps + 1)]
    np.testing.assert_allclose(log_snr(schedule), expected, rtol=0, atol=1e-9)


@given(st.integers(1, 400), st.floats(0.05, 4))
def test_shifted_cosine_is_the_cosine_of_time_with_the_shift_in_log_snr(steps, shift):
    schedule = Schedule.shifted_cosine(steps, shift)
    # Without the cut, alpha_bar is cos^2(pi u / 2), u running from nearly 0 to nearly 1
    cut = math.atan(math.exp(-7.5)) / (math.pi / 2)
    for t in {0, steps // 2, steps - 1}:
        u = cut + (t + 1) / steps * (1 - 2 * cut)
        odds = shift**2 / math.tan(u * math.pi / 2) ** 2
        assert math.isclose(schedule.snr[t], odds, rel_tol=1e-7)


def test_shifted_cosine_without_shift_is_nearly_the_cosine_schedule():
    plain, cosine = Schedule.shifted_cosine(1000), Schedule.cosine(1000, s=0.0)
    np.testing.assert_allclose(plain.alpha_bars, cosine.alpha_bars, rtol=0, atol=1e-3)


def test_an_image_of_twice_the_side_has_the_snr_of_its_means_over_two_by_two_pixels():
    # Averaging 4 pixels keeps the signal and quarters the noise: at shift 1/2 they are as noisy as the small image's
    np.testing.assert_allclose(4 * Schedule.shifted_cosine(200, 0.5).snr, Schedule.shifted_cosine(200).snr, rtol=1e-7)


@pytest.mark.parametrize("name", MAKERS)
@given(steps=st.integers(1, 60), times=st.integers(1, 20))
def test_fewer_steps_are_the_longer_chain_respaced(name, steps, times):
    short, long = MAKERS[name](steps), MAKERS[name](steps * times)
    np.testing.assert_allclose(long.respaced(steps).alpha_bars, short.alpha_bars, rtol=1e-9)


@pytest.mark.parametrize("name", MAKERS)
@given(steps=st.integers(1, 3000))
def test_any_number_of_steps_falls_to_noise(name, steps):
    schedule = MAKERS[name](steps)
    assert np.all(np.diff(schedule.alpha_bars) < 0)
    assert schedule.alpha_bars[0] < 1
    assert 0 < schedule.alpha_bars[-1] < 1e-4
    assert schedule.name == name
