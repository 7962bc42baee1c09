"""The samplers' order of convergence, against the exact flow of a mixture of Gaussians."""

import numpy as np
import pytest

from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.evaluation.convergence import ORDERS, convergence, even_in_log_snr
from tinyddpm.samplers import SAMPLERS

STEPS = (80, 160, 320, 640)


def slopes(sampler: str, schedule: Schedule | None = None) -> np.ndarray:
    """By how much the logarithm of the error falls with that of the steps, between each two of STEPS."""
    errors = [row.error for row in convergence([sampler], STEPS, schedule=schedule)]
    return -np.diff(np.log(errors)) / np.diff(np.log(STEPS))


@pytest.mark.parametrize("sampler", ORDERS)
def test_errors_fall_at_the_order_in_theory(sampler):
    found = slopes(sampler)
    assert abs(found.mean() - ORDERS[sampler]) < 0.2, found
    assert abs(found[-1] - ORDERS[sampler]) < 0.1, found


def test_every_sampler_without_noise_of_its_own_has_an_order():
    assert ORDERS.keys() | {"ddpm"} == SAMPLERS.keys()


def even_in_sigma(T: int, highest: float) -> Schedule:
    sigmas = highest * np.arange(1, T + 1) / T
    alpha_bars = 1 / (1 + sigmas**2)
    return Schedule.from_betas(1 - alpha_bars / np.append(1, alpha_bars[:-1]))


def test_pndms_weights_are_of_a_higher_order_where_steps_are_even_in_sigma():
    """What holds it at order 2 elsewhere; its first step, Heun's, has an error of third order."""
    found = slopes("pndm", even_in_sigma(1280, 2.0))
    assert found.mean() > 2.8, found
    # The others are of their own order there too
    assert abs(slopes("heun", even_in_sigma(1280, 2.0))[-1] - 2) < 0.2


def test_the_chain_is_even_in_log_snr():
    schedule = even_in_log_snr(100, highest=80, lowest=1e-3)
    np.testing.assert_allclose(schedule.sigmas[[0, -1]], [1e-3, 80], rtol=1e-6)
    np.testing.assert_allclose(np.diff(np.log(schedule.sigmas)), np.log(80 / 1e-3) / 99, rtol=1e-6)


def test_network_calls_are_counted():
    rows = list(convergence(steps=(5, 8), count=2))
    assert [(row.sampler, row.steps) for row in rows] == [(name, steps) for name in ORDERS for steps in (5, 8)]
    assert {row.sampler: row.calls for row in rows if row.steps == 8} == {
        "euler": 8,
        "ddim": 8,
        "heun": 15,
        "dpm_solver": 8,
        "pndm": 9,
    }
