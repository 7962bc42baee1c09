"""Schedules against formulas worked out independently: plain loops, 50-digit decimals, identities without
cancellation."""

import math
import warnings
from collections.abc import Callable
from decimal import Decimal, localcontext
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyddpm.diffusion.schedules import NAMES, Schedule
from tinyddpm.errors import InputError

TABLES = (
    "betas",
    "alphas",
    "alpha_bars",
    "alpha_bars_prev",
    "sqrt_alpha_bars",
    "sqrt_one_minus_alpha_bars",
    "posterior_variance",
    "posterior_log_variance",
    "posterior_mean_x0",
    "posterior_mean_xt",
    "snr",
)


def linear_betas(steps: int, start: float, end: float) -> list[float]:
    if steps == 1:
        return [start]
    return [start + (end - start) * t / (steps - 1) for t in range(steps)]


def quadratic_betas(steps: int, start: float, end: float) -> list[float]:
    return [root**2 for root in linear_betas(steps, math.sqrt(start), math.sqrt(end))]


def cosine_betas(steps: int, s: float = 0.008, max_beta: float = 0.999) -> list[float]:
    """1 - cos^2 b / cos^2 a = sin(b - a) sin(b + a) / cos^2 a: no difference of near numbers."""
    angles = [(t / steps + s) / (1 + s) * math.pi / 2 for t in range(steps + 1)]
    return [min(math.sin(b - a) * math.sin(b + a) / math.cos(a) ** 2, max_beta) for a, b in pairwise(angles)]


def sigmoid_betas(steps: int, start: float, end: float, tau: float, max_beta: float = 0.999) -> list[float]:
    """alpha_bar is (sigmoid(end) - sigmoid(z)) / const, so beta the ratio of two differences of sigmoids."""

    def difference(high: float, low: float) -> float:
        return -math.expm1(low - high) * math.exp(-low) / ((1 + math.exp(-low)) * (1 + math.exp(-high)))

    z = [(start + (end - start) * t / steps) / tau for t in range(steps + 1)]
    return [min(difference(b, a) / difference(end / tau, a), max_beta) for a, b in pairwise(z)]


def log_snr_betas(steps: int, high: float, low: float) -> list[float]:
    """alpha_bar is e^l / (1 + e^l), in 50 digits."""
    with localcontext(prec=50):
        ends = Decimal(repr(float(high))), Decimal(repr(float(low)))
        values = [ends[0] + (ends[1] - ends[0]) * t / steps for t in range(1, steps + 1)]
        bars = [Decimal(1), *(value.exp() / (1 + value.exp()) for value in values)]
        return [float(1 - b / a) for a, b in pairwise(bars)]


def quietly(make: Callable[[], Schedule]) -> Schedule:
    """The schedule, without the warning that its end is not noise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def alpha_bar_at_the_end(betas: list[float]) -> float:
    return math.prod(1 - beta for beta in betas)


CASES = {
    "linear 1000": (lambda: Schedule.linear(1000), linear_betas(1000, 1e-4, 0.02)),
    "linear 300": (lambda: Schedule.linear(300), linear_betas(300, 1e-4 / 0.3, 0.02 / 0.3)),
    "linear 2": (lambda: Schedule.linear(2, 1e-4, 1e-3), linear_betas(2, 0.05, 0.5)),
    "linear 1": (lambda: Schedule.linear(1), linear_betas(1, 0.1, 20.0)),
    "linear 50 unscaled": (lambda: Schedule.linear(50, rescale=False), linear_betas(50, 1e-4, 0.02)),
    "quadratic 1000": (lambda: Schedule.quadratic(1000), quadratic_betas(1000, 1e-4, 0.02)),
    "quadratic 2": (lambda: Schedule.quadratic(2, 1e-4, 1e-3), quadratic_betas(2, 0.05, 0.5)),
    "quadratic 1": (lambda: Schedule.quadratic(1), quadratic_betas(1, 0.1, 20.0)),
    "quadratic 50 unscaled": (lambda: Schedule.quadratic(50, rescale=False), quadratic_betas(50, 1e-4, 0.02)),
    "cosine 1000": (lambda: Schedule.cosine(1000), cosine_betas(1000)),
    "cosine 2": (lambda: Schedule.cosine(2), cosine_betas(2)),
    "cosine 1": (lambda: Schedule.cosine(1), cosine_betas(1)),
    "cosine 40, s": (lambda: Schedule.cosine(40, s=0.1, max_beta=0.9), cosine_betas(40, 0.1, 0.9)),
    "sigmoid 1000": (lambda: Schedule.sigmoid(1000), sigmoid_betas(1000, -3, 3, 1)),
    "sigmoid 2": (lambda: Schedule.sigmoid(2), sigmoid_betas(2, -3, 3, 1)),
    "sigmoid 1": (lambda: Schedule.sigmoid(1), sigmoid_betas(1, -3, 3, 1)),
    "log_snr 1000": (lambda: Schedule.log_snr(1000), log_snr_betas(1000, 10, -10)),
    "log_snr 2": (lambda: Schedule.log_snr(2), log_snr_betas(2, 10, -10)),
    "log_snr 1": (lambda: Schedule.log_snr(1), log_snr_betas(1, 10, -10)),
    "log_snr 40, ends": (lambda: Schedule.log_snr(40, 9.0, -5.0), log_snr_betas(40, 9, -5)),
    "sigmoid 40, tau": (
        lambda: Schedule.sigmoid(40, 0.0, 3.0, 0.7, 0.99),
        sigmoid_betas(40, 0, 3, 0.7, 0.99),
    ),
}


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Any named schedule that ends in noise, of 21 to 400 steps, or any betas."""
    name = draw(st.sampled_from([*NAMES, "betas"]))
    if name == "betas":
        return Schedule.from_betas(np.array(draw(st.lists(st.floats(1e-5, 0.9), min_size=1, max_size=40))))
    return Schedule.by_name(name, draw(st.integers(21, 400)))


@pytest.mark.parametrize("case", CASES)
def test_betas_match_the_formula(case):
    make, betas = CASES[case]
    # 1 - ratio loses digits where beta is small: 1e-16 of 4e-5, and for sigmoid's first steps a little more
    np.testing.assert_allclose(quietly(make).betas, betas, rtol=1e-10)


@pytest.mark.equation("Ho et al. 2020, eq. 4", "Ho et al. 2020, eq. 7", "Kingma et al. 2021, eq. 2")
@pytest.mark.parametrize("case", CASES)
def test_every_table_matches_its_formula_in_decimals(case):
    schedule = quietly(CASES[case][0])
    with localcontext(prec=50):
        expected = {name: [] for name in TABLES}
        prev = Decimal(1)
        for beta in map(Decimal, schedule.betas.tolist()):
            alpha = 1 - beta
            bar = prev * alpha
            expected["betas"].append(beta)
            expected["alphas"].append(alpha)
            expected["alpha_bars"].append(bar)
            expected["alpha_bars_prev"].append(prev)
            expected["sqrt_alpha_bars"].append(bar.sqrt())
            expected["sqrt_one_minus_alpha_bars"].append((1 - bar).sqrt())
            expected["posterior_variance"].append(beta * (1 - prev) / (1 - bar))
            expected["posterior_mean_x0"].append(prev.sqrt() * beta / (1 - bar))
            expected["posterior_mean_xt"].append(alpha.sqrt() * (1 - prev) / (1 - bar))
            expected["snr"].append(bar / (1 - bar))
            prev = bar
        variances = list(expected["posterior_variance"])
        variances[0] = variances[1] if len(variances) > 1 else expected["betas"][0]
        expected["posterior_log_variance"] = [variance.ln() for variance in variances]
        tables = {name: np.array(values, np.float64) for name, values in expected.items()}
    for name in TABLES:
        table = getattr(schedule, name)
        assert table.dtype == np.float64, name
        assert table.shape == (schedule.T,), name
        np.testing.assert_allclose(table, tables[name], rtol=1e-10, atol=0, err_msg=name)


@pytest.mark.parametrize("name", NAMES)
def test_by_name_is_the_constructor_of_that_name(name):
    made = Schedule.by_name(name, 100)
    np.testing.assert_array_equal(made.betas, getattr(Schedule, name)(100).betas)
    assert made.name == name
    np.testing.assert_array_equal(made.timesteps, np.arange(100))
    assert made.timesteps.dtype == np.int64


# Pitfall 8


def test_linear_has_the_papers_ends():
    betas = Schedule.linear(1000).betas
    assert betas[0] == 1e-4
    assert betas[-1] == 0.02
    np.testing.assert_array_equal(betas, Schedule.linear(1000, rescale=False).betas)


@pytest.mark.parametrize("make", [Schedule.linear, Schedule.quadratic])
@pytest.mark.parametrize("steps", [50, 300, 4000])
def test_ends_are_rescaled_by_1000_over_the_steps(make, steps):
    betas = make(steps).betas
    np.testing.assert_allclose(betas[[0, -1]], [0.1 / steps, 20 / steps], rtol=1e-12)


@pytest.mark.parametrize(("steps", "low", "high"), [(1000, 3.9e-5, 4.2e-5), (300, 2e-5, 4e-5), (50, 5e-6, 2e-5)])
def test_linear_ends_in_noise_at_any_length(steps, low, high):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        end = Schedule.linear(steps).alpha_bars[-1]
    assert low < end < high
    assert math.isclose(end, alpha_bar_at_the_end(linear_betas(steps, 0.1 / steps, 20 / steps)), rel_tol=1e-11)


@pytest.mark.parametrize(("steps", "end"), [(50, 0.60), (300, 0.048)])
def test_linear_that_is_not_rescaled_warns_that_it_does_not_end_in_noise(steps, end):
    with pytest.warns(UserWarning, match=rf"linear schedule of {steps} steps .*not noise") as caught:
        schedule = Schedule.linear(steps, rescale=False)
    assert round(schedule.alpha_bars[-1], 2 if end > 0.1 else 3) == end
    assert "\n" not in str(caught[0].message)


@pytest.mark.parametrize("name", NAMES)
def test_default_schedules_do_not_warn(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Schedule.by_name(name)


# Pitfall 7


@pytest.mark.equation("Nichol & Dhariwal 2021, eq. 17")
def test_cosine_alpha_bar_is_the_paper_s_and_not_clipped_from_below():
    bars = Schedule.cosine(1000).alpha_bars

    def f(t):
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    # index 250 is the paper's t = 251
    assert math.isclose(bars[250], f(251) / f(0), rel_tol=1e-12)
    assert round(bars[250], 3) == 0.846
    # all but the last beta, clipped from above
    np.testing.assert_allclose(bars[:-1], [f(t) / f(0) for t in range(1, 1000)], rtol=1e-10)


def test_cosine_betas_are_clipped_at_the_top_only():
    betas = Schedule.cosine(1000).betas
    assert betas[-1] == 0.999
    assert betas[-2] < 0.999
    assert betas[0] < 5e-5
    assert Schedule.cosine(1000, max_beta=0.5).betas.max() == 0.5


def test_cosine_offset_is_0_008_by_default():
    np.testing.assert_array_equal(Schedule.cosine(100).betas, Schedule.cosine(100, s=0.008).betas)
    assert not np.allclose(Schedule.cosine(100).betas, Schedule.cosine(100, s=0.0).betas, rtol=1e-2)


@pytest.mark.equation("Jabri, Fleet & Chen 2023, algorithm 1")
def test_sigmoid_alpha_bar_falls_from_one_to_zero_as_a_sigmoid():
    bars = Schedule.sigmoid(1000).alpha_bars

    def sigmoid(z):
        return 1 / (1 + math.exp(-z))

    expected = [(sigmoid(3) - sigmoid(6 * t / 1000 - 3)) / (sigmoid(3) - sigmoid(-3)) for t in range(1, 1000)]
    np.testing.assert_allclose(bars[:-1], expected, rtol=1e-9)
    assert 0.999 < bars[0] < 1
    assert math.isclose(bars[499], 0.5, rel_tol=1e-9)
    assert bars[-1] < 1e-6


# What holds for every schedule


@settings(deadline=None)
@given(schedules())
def test_alpha_bars_fall_strictly_within_0_and_1(schedule):
    bars = schedule.alpha_bars
    assert np.all((bars > 0) & (bars < 1))
    assert np.all(np.diff(bars) < 0)
    assert np.all(np.diff(schedule.snr) < 0)
    assert schedule.alpha_bars_prev[0] == 1
    np.testing.assert_array_equal(schedule.alpha_bars_prev[1:], bars[:-1])


@settings(deadline=None)
@given(schedules())
def test_posterior_coefficients_are_those_of_a_posterior(schedule):
    # noise-free x_t = sqrt(ab) x_0 leads back to sqrt(ab_prev) x_0
    signal = schedule.posterior_mean_x0 + schedule.posterior_mean_xt * schedule.sqrt_alpha_bars
    np.testing.assert_allclose(signal, np.sqrt(schedule.alpha_bars_prev), rtol=1e-9)
    # and its spread, with that of x_t around it, adds up to the spread of x_{t-1}
    spread = schedule.posterior_variance + schedule.posterior_mean_xt**2 * (1 - schedule.alpha_bars)
    np.testing.assert_allclose(spread, 1 - schedule.alpha_bars_prev, rtol=1e-9, atol=1e-15)
    assert np.all(schedule.posterior_variance < schedule.betas)


@settings(deadline=None)
@given(schedules())
def test_posterior_variance_is_zero_at_first_and_its_log_that_of_the_second(schedule):
    assert schedule.posterior_variance[0] == 0
    logs = schedule.posterior_log_variance
    assert np.all(np.isfinite(logs))
    assert logs[0] == (logs[1] if schedule.T > 1 else np.log(schedule.betas[0]))
    np.testing.assert_allclose(np.exp(logs[1:]), schedule.posterior_variance[1:], rtol=1e-12)


# Errors

BAD = {
    "no steps": lambda: Schedule.linear(0),
    "negative steps": lambda: Schedule.cosine(-3),
    "half a step": lambda: Schedule.quadratic(2.5),
    "steps in words": lambda: Schedule.sigmoid("ten"),
    "steps that are a truth value": lambda: Schedule.linear(True),
    "too few steps for linear": lambda: Schedule.linear(10),
    "beta_start of 0": lambda: Schedule.linear(100, beta_start=0.0),
    "negative beta": lambda: Schedule.linear(100, beta_start=-1e-4),
    "max_beta of 1": lambda: Schedule.cosine(10, max_beta=1.0),
    "max_beta of 0": lambda: Schedule.cosine(10, max_beta=0.0),
    "flat sigmoid": lambda: Schedule.sigmoid(10, start=1.0, end=1.0),
    "rising sigmoid": lambda: Schedule.sigmoid(10, start=3.0, end=-3.0),
    "tau of 0": lambda: Schedule.sigmoid(10, tau=0.0),
    "no betas": lambda: Schedule.from_betas(np.array([])),
    "betas of two axes": lambda: Schedule.from_betas(np.full((2, 2), 0.1)),
    "beta of 0": lambda: Schedule.from_betas(np.array([0.1, 0.0])),
    "beta of 1": lambda: Schedule.from_betas(np.array([0.1, 1.0, 0.1])),
    "linear that ends at a beta of 1": lambda: Schedule.linear(20),
    "rising log SNR": lambda: Schedule.log_snr(10, high=-1.0, low=1.0),
    "flat log SNR": lambda: Schedule.shifted_cosine(10, high=1.0, low=1.0),
    "endless log SNR": lambda: Schedule.log_snr(10, high=float("inf")),
    "shift of 0": lambda: Schedule.shifted_cosine(10, shift=0.0),
    "one step of zero terminal SNR": lambda: Schedule.cosine(1).rescaled_to_zero_terminal_snr(),
    "zero terminal SNR by a word": lambda: Schedule.by_name("cosine", 10, "yes"),
    "beta that is no number": lambda: Schedule.from_betas(np.array([np.nan, 0.1])),
    "timesteps of another length": lambda: Schedule(np.full(3, 0.1), np.arange(4)),
    "unknown name": lambda: Schedule.by_name("exponential"),
    "known attribute, no schedule": lambda: Schedule.by_name("respaced"),
    "spaced to 0": lambda: Schedule.cosine(10).spaced_indices(0),
    "spaced to more": lambda: Schedule.cosine(10).spaced_indices(11),
    "spaced to a fraction": lambda: Schedule.cosine(10).spaced_indices(2.5),
    "spaced to words": lambda: Schedule.cosine(10).spaced_indices("all"),
    "unknown spacing": lambda: Schedule.cosine(10).spaced_indices(5, "uniform"),
    "respaced to 0": lambda: Schedule.cosine(10).respaced(0),
    "unknown spacing of all": lambda: Schedule.cosine(10).respaced(10, "uniform"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.filterwarnings("error")
def test_bad_input_gets_one_line(case):
    with pytest.raises(InputError) as caught:
        BAD[case]()
    message = str(caught.value)
    assert message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("case", "seen"),
    [
        ("no steps", "got 0"),
        ("half a step", "got 2.5"),
        ("beta of 1", "got 1.0"),
        ("beta that is no number", "got nan"),
        ("unknown name", "'exponential'"),
        ("spaced to more", "got 11"),
        ("unknown spacing", "'uniform'"),
    ],
)
def test_errors_name_the_value_seen(case, seen):
    with pytest.raises(InputError, match=seen):
        BAD[case]()
