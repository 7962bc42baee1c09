"""Forward process, posterior and predictions against formulas worked out independently."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.tinyddpm.diffusion.small import SCHEDULES, batch, tiny_unet
from tinyddpm.diffusion.process import FIXED_VARIANCES, PREDICTIONS, Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import InputError


def one_pixel(value: float) -> np.ndarray:
    return np.full((1, 1, 1, 1), float(value))


# Forward process


def q_step(schedule: Schedule, x_prev: np.ndarray, t: int, noise: np.ndarray) -> np.ndarray:
    """x_t from x_{t-1} (Ho et al. 2020, eq. 2)."""
    beta = float(schedule.betas[t])
    return math.sqrt(1 - beta) * x_prev + math.sqrt(beta) * noise


@pytest.mark.equation("Ho et al. 2020, eq. 4")
@pytest.mark.parametrize("name", SCHEDULES)
def test_q_sample_is_the_composition_of_q_steps_in_its_coefficients(name):
    schedule = SCHEDULES[name]
    diffusion = Diffusion(schedule)
    signal, variance = 1.0, 0.0
    for t in range(schedule.T):
        # x_t is linear in x_{t-1} and the noise: unit vectors read the coefficients off
        keep, add = (
            q_step(schedule, one_pixel(1), t, one_pixel(0)),
            q_step(schedule, one_pixel(0), t, one_pixel(1)),
        )
        signal, variance = keep.item() * signal, keep.item() ** 2 * variance + add.item() ** 2
        direct = (
            diffusion.q_sample(one_pixel(1), t, one_pixel(0)),
            diffusion.q_sample(one_pixel(0), t, one_pixel(1)),
        )
        assert abs(direct[0].item() - signal) < 1e-12
        assert abs(direct[1].item() ** 2 - variance) < 1e-12


@pytest.mark.parametrize("t", [0, 9, 49])
def test_q_sample_is_the_composition_of_q_steps_in_distribution(t):
    diffusion, rng, n = Diffusion(Schedule.linear(50)), np.random.default_rng(3), 20000
    ab, x0 = float(diffusion.schedule.alpha_bars[t]), 0.6
    x = np.full((n, 1, 1, 1), x0)
    for s in range(t + 1):
        x = q_step(diffusion.schedule, x, s, rng.standard_normal(x.shape))
    direct = diffusion.q_sample(np.full((n, 1, 1, 1), x0), t, rng.standard_normal(x.shape))
    for drawn in (x.reshape(-1), direct.reshape(-1)):
        assert abs(drawn.mean() - ab**0.5 * x0) < 4 * math.sqrt((1 - ab) / n)
        assert abs(drawn.var() / (1 - ab) - 1) < 4 * math.sqrt(2 / n)
        assert stats.kstest(drawn, stats.norm(ab**0.5 * x0, (1 - ab) ** 0.5).cdf).pvalue > 1e-3
    assert stats.ks_2samp(x.reshape(-1), direct.reshape(-1)).pvalue > 1e-3


def test_one_t_and_an_array_of_it_agree_and_rows_keep_their_own_t():
    diffusion, x, noise = Diffusion(SCHEDULES["cosine"], prediction="v"), batch(4), batch(4, 1)
    t = np.array([0, 3, 50, 99])
    for method in (
        "q_sample",
        "posterior_mean",
        "mean_from_eps",
        "target",
        "to_x0",
        "to_eps",
        "eps_from_x0",
    ):
        function = getattr(diffusion, method)

        def call(x, t, noise, function=function, method=method):
            return function(x, noise, t) if method == "posterior_mean" else function(x, t, noise)

        together = call(x, t, noise)
        assert together.shape == x.shape
        for row, index in enumerate(t):
            alone = call(x[row : row + 1], int(index), noise[row : row + 1])
            np.testing.assert_allclose(together[row], alone[0], rtol=1e-14, err_msg=method)
            repeated = call(x, np.full(4, index), noise)
            np.testing.assert_allclose(repeated[row], alone[0], rtol=1e-14, err_msg=method)
    np.testing.assert_array_equal(diffusion.log_variance(t), [diffusion.log_variance(int(i)) for i in t])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_images_keep_their_dtype_and_are_not_written_to(dtype):
    diffusion = Diffusion(SCHEDULES["linear"])
    x, noise = batch(2).astype(dtype), batch(2, 1).astype(dtype)
    before = x.copy(), noise.copy()
    for t in (5, np.array([5, 6])):
        assert diffusion.q_sample(x, t, noise).dtype == dtype
        assert diffusion.mean_from_eps(x, t, noise).dtype == dtype
        assert diffusion.posterior_mean(x, noise, t).dtype == dtype
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(noise, before[1])


# Reverse process


@pytest.mark.equation("Ho et al. 2020, eq. 7")
@pytest.mark.parametrize("name", SCHEDULES)
def test_posterior_is_bayes_rule_on_the_joint_gaussian(name):
    schedule = SCHEDULES[name]
    diffusion, x0, x_t = Diffusion(schedule), -0.7, 1.3
    prev = 1.0
    for t, beta in enumerate(schedule.betas.tolist()):
        ab = prev * (1 - beta)
        # given x_0, (x_{t-1}, x_t) has these moments; x_t = sqrt(1 - beta) x_{t-1} + sqrt(beta) noise
        mean = np.sqrt([prev, ab]) * x0
        covariance = np.array(
            [[1 - prev, math.sqrt(1 - beta) * (1 - prev)], [math.sqrt(1 - beta) * (1 - prev), 1 - ab]]
        )
        slope = covariance[0, 1] / covariance[1, 1]
        conditional = mean[0] + slope * (x_t - mean[1])
        variance = covariance[0, 0] - slope * covariance[0, 1]
        assert abs(diffusion.posterior_mean(one_pixel(x0), one_pixel(x_t), t).item() - conditional) < 1e-10
        assert abs(schedule.posterior_variance[t] - variance) < 1e-12
        prev = ab


@pytest.mark.equation("Ho et al. 2020, eq. 11")
@settings(deadline=None)
@given(st.sampled_from(list(SCHEDULES)), st.floats(0, 1, exclude_max=True), st.integers(0, 1000))
def test_algorithm_2_takes_the_mean_of_the_posterior(name, share, seed):
    schedule = SCHEDULES[name]
    diffusion, t = Diffusion(schedule), int(share * schedule.T)
    x, eps = np.random.default_rng(seed).standard_normal((2, 2, 3, 3, 1))
    mean = diffusion.mean_from_eps(x, t, eps)
    via_x0 = diffusion.posterior_mean(diffusion.to_x0(x, t, eps), x, t)
    # x_0 is as large as 1 / sqrt(ab), so the two are near to that many digits
    np.testing.assert_allclose(mean, via_x0, rtol=1e-10, atol=1e-10)


def test_fixed_variances_are_the_posteriors_and_the_forward_one():
    schedule = Schedule.linear(100)
    small, large = (np.exp(Diffusion(schedule, variance=kind).log_variance(np.arange(100))) for kind in FIXED_VARIANCES)
    bars = np.cumprod(1 - schedule.betas)
    expected = [schedule.betas[t] * (1 - bars[t - 1]) / (1 - bars[t]) for t in range(1, 100)]
    np.testing.assert_allclose(small[1:], expected, rtol=1e-12)
    np.testing.assert_allclose(large[1:], schedule.betas[1:], rtol=1e-12)
    # at t = 0 the posterior's is 0, and both take its value at t = 1
    np.testing.assert_allclose([small[0], large[0]], expected[0], rtol=1e-12)
    assert np.all(small[1:] < large[1:])


@pytest.mark.parametrize("variance", FIXED_VARIANCES)
@pytest.mark.parametrize("steps", [1, 2])
def test_log_variances_of_the_shortest_chains_are_finite(variance, steps):
    diffusion = Diffusion(Schedule.cosine(steps), variance=variance)
    assert np.all(np.isfinite(diffusion.log_variance(np.arange(steps))))


# What the network predicts


@pytest.mark.equation("Ho et al. 2020, eq. 15")
@settings(deadline=None)
@given(
    st.sampled_from(list(SCHEDULES)),
    st.sampled_from(PREDICTIONS),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 99),
)
def test_predictions_convert_into_each_other_and_back(name, prediction, share, seed):
    schedule = SCHEDULES[name]
    diffusion, t = Diffusion(schedule, prediction=prediction), int(share * schedule.T)
    rng = np.random.default_rng(seed)
    x0, noise = rng.uniform(-1, 1, (2, 3, 3, 1)), rng.standard_normal((2, 3, 3, 1))
    signal, spread = schedule.sqrt_alpha_bars[t], schedule.sqrt_one_minus_alpha_bars[t]
    x_t = diffusion.q_sample(x0, t, noise)
    output = diffusion.target(x0, t, noise)
    # the rounding of x_t, about 1e-15, is divided by sqrt(ab) on the way to x_0 and by sqrt(1 - ab) to eps
    np.testing.assert_allclose(diffusion.to_x0(x_t, t, output), x0, rtol=0, atol=2e-14 / signal)
    np.testing.assert_allclose(diffusion.to_eps(x_t, t, output), noise, rtol=0, atol=2e-14 / spread)
    np.testing.assert_allclose(diffusion.eps_from_x0(x_t, t, x0), noise, rtol=0, atol=2e-14 / spread)
    # and any output, not only a true one, stands for an x_0 and a noise that make up x_t
    output = rng.standard_normal(x_t.shape)
    x0, noise = diffusion.to_x0(x_t, t, output), diffusion.to_eps(x_t, t, output)
    np.testing.assert_allclose(diffusion.q_sample(x0, t, noise), x_t, rtol=0, atol=1e-13)
    np.testing.assert_allclose(diffusion.target(x0, t, noise), output, rtol=0, atol=2e-13 / signal / spread)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_target_is_what_the_prediction_is_called(prediction):
    schedule, x0, noise = Schedule.linear(100), batch(3), batch(3, 1)
    target = Diffusion(schedule, prediction=prediction).target(x0, 30, noise)
    ab = math.prod(1 - beta for beta in schedule.betas[:31])
    expected = {"eps": noise, "x0": x0, "v": math.sqrt(ab) * noise - math.sqrt(1 - ab) * x0}[prediction]
    np.testing.assert_allclose(target, expected, rtol=1e-12)


# Errors

BAD = {
    "prediction": (lambda: Diffusion(SCHEDULES["linear"], prediction="noise"), "'noise'"),
    "loss": (lambda: Diffusion(SCHEDULES["linear"], loss="l2"), "'l2'"),
    "variance": (lambda: Diffusion(SCHEDULES["linear"], variance="large"), "'large'"),
    "huber_delta of 0": (lambda: Diffusion(SCHEDULES["linear"], huber_delta=0.0), "got 0.0"),
    "endless huber_delta": (lambda: Diffusion(SCHEDULES["linear"], huber_delta=math.inf), "got inf"),
    "huber_delta in words": (lambda: Diffusion(SCHEDULES["linear"], huber_delta="one"), "'one'"),
    "negative label_dropout": (lambda: Diffusion(SCHEDULES["linear"], label_dropout=-0.1), "got -0.1"),
    "label_dropout above 1": (lambda: Diffusion(SCHEDULES["linear"], label_dropout=1.5), "got 1.5"),
    "label_dropout that is no number": (
        lambda: Diffusion(SCHEDULES["linear"], label_dropout=math.nan),
        "got nan",
    ),
    "labels without classes": (
        lambda: Diffusion(SCHEDULES["linear"]).training_step(tiny_unet(), batch(2), step=0, labels=[0, 1]),
        "num_classes",
    ),
    "labels above the classes": (
        lambda: Diffusion(SCHEDULES["linear"], label_dropout=0.0).training_step(
            tiny_unet(num_classes=2), batch(2), step=0, labels=[0, 5]
        ),
        "5",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_that_names_it(case):
    call, seen = BAD[case]
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert seen in message
    assert "\n" not in message
