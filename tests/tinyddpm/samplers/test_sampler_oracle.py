"""Samplers with a perfect network: right distribution, right order, against closed formulas.

"sigma" is the standard error of the statistic with that many images; four of them, plus a stated allowance for
the finite number of steps, bound each difference. All seeds are fixed.
"""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from tinyddpm import samplers
from tinyddpm.diffusion.mixture import GaussianMixture, three_blobs
from tinyddpm.diffusion.process import FIXED_VARIANCES, Diffusion
from tinyddpm.diffusion.schedules import NAMES, Schedule
from tinyddpm.errors import InputError

BLOBS = three_blobs()
# weight, mean and standard deviation of each
PEAKS = [(0.7, -0.5, 0.2), (0.3, 0.4, 0.1)]


def two_peaks() -> GaussianMixture:
    """Images of one pixel."""
    weights, means, stds = np.array(PEAKS).T
    return GaussianMixture(weights, means.reshape(2, 1), stds.reshape(2, 1, 1) ** 2, (1, 1, 1))


def one_blob(mean: float, std: float) -> GaussianMixture:
    """Images of one pixel from N(mean, std^2)."""
    return GaussianMixture(np.ones(1), np.full((1, 1), mean), np.full((1, 1, 1), std**2), (1, 1, 1))


def noise(n: int, *image_shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, *image_shape))


def images(sampler, data: GaussianMixture, schedule: Schedule, x_T: np.ndarray, variance="fixed_small", **options):
    """The images of a sampler with the perfect network, never clipped."""
    diffusion = Diffusion(schedule, variance=variance)
    states = sampler(data.model(schedule), diffusion, x_T.shape, x_T=x_T, clip=False, **options)
    return samplers.last(states).x


# The oracle itself


@pytest.mark.parametrize("ab", [0.999, 0.6, 0.01])
def test_score_is_the_gradient_of_the_log_density(ab):
    x, v, h = BLOBS.marginal(ab).sample(20, np.random.default_rng(0)), noise(20, 2, 2, 1, seed=1), 1e-5
    numeric = (BLOBS.log_density(x + h * v, ab) - BLOBS.log_density(x - h * v, ab)) / (2 * h)
    exact = np.sum(BLOBS.score(x, ab) * v, axis=(1, 2, 3))
    np.testing.assert_allclose(exact, numeric, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ab", [0.999, 0.6, 0.01])
def test_expected_x0_and_score_agree_by_tweedies_formula(ab):
    # sqrt(ab) E[x_0 | x_t] = x_t + (1 - ab) score (Efron 2011): the two are worked out apart in the oracle
    x = BLOBS.marginal(ab).sample(50, np.random.default_rng(0))
    np.testing.assert_allclose(ab**0.5 * BLOBS.x0(x, ab), x + (1 - ab) * BLOBS.score(x, ab), atol=1e-12)


@pytest.mark.parametrize("ab", [0.99, 0.5, 0.01])
def test_expected_x0_matches_an_integral(ab):
    data = two_peaks()
    grid = np.linspace(-4, 4, 20001)
    prior = sum(weight * stats.norm.pdf(grid, mean, std) for weight, mean, std in PEAKS)
    x = np.linspace(-2, 2, 9).reshape(-1, 1, 1, 1)
    weights = prior * stats.norm.pdf(x.reshape(-1, 1), ab**0.5 * grid, (1 - ab) ** 0.5)
    expected = weights @ grid / weights.sum(axis=1)
    np.testing.assert_allclose(data.x0(x, ab).reshape(-1), expected, atol=1e-10)
    densities = weights.sum(axis=1) * (grid[1] - grid[0])
    np.testing.assert_allclose(np.exp(data.log_density(x, ab)), densities, rtol=1e-9)


def test_oracle_takes_one_timestep_or_one_for_each_image():
    schedule, x = Schedule.cosine(100), noise(3, 2, 2, 1)
    for prediction in ("eps", "x0", "v"):
        model = BLOBS.model(schedule, prediction)
        together = model(x, np.array([5, 50, 99]))
        for row, t in enumerate([5, 50, 99]):
            np.testing.assert_allclose(together[row], model(x[row : row + 1], t)[0], rtol=1e-12)


def test_flow_of_a_gaussian_is_the_map_between_its_whitenings():
    data = GaussianMixture(np.ones(1), BLOBS.means[:1], BLOBS.covariances[:1], (2, 2, 1))
    ab, x = 0.001, noise(10, 2, 2, 1)
    values, vectors = np.linalg.eigh(data.covariances[0])
    factors = np.sqrt(values / (ab * values + 1 - ab))
    z = (x.reshape(10, 4) - ab**0.5 * data.means[0]) @ vectors
    expected = data.means[0] + (factors * z) @ vectors.T
    np.testing.assert_allclose(data.flow(x, ab).reshape(10, 4), expected, atol=1e-8)


def test_flow_keeps_quantiles_in_one_dimension():
    data = two_peaks()

    def cdf(x, ab):
        parts = [(w, stats.norm(ab**0.5 * mean, (ab * std**2 + 1 - ab) ** 0.5)) for w, mean, std in PEAKS]
        return sum(w * part.cdf(x) for w, part in parts)

    x = np.linspace(-2, 2, 9).reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(cdf(data.flow(x, 0.01), 1.0), cdf(x, 0.01), atol=1e-8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"means": np.zeros((3, 5))}, "(K, 4)"),
        ({"covariances": np.zeros((3, 4))}, "got (3,), (3, 4), (3, 4)"),
        ({"weights": np.full(3, 0.5)}, "weights of a mixture must sum to 1, got 1.5"),
        ({"image_shape": (2, 3, 1)}, "a mixture of images (2, 3, 1)"),
    ],
)
def test_a_mixture_that_is_none_gets_one_line(change, words):
    with pytest.raises(InputError) as caught:
        dataclasses.replace(BLOBS, **change)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_so_does_a_prediction_that_there_is_not():
    with pytest.raises(InputError, match="prediction must be one of eps, x0, v, got 'noise'"):
        BLOBS.model(Schedule.cosine(10), "noise")


# The right distribution


# A component's largest covariance error times the number of steps, measured with 40,000 images and 50 to 250
# steps, rounded up by a fifth: the samplers are of first order, and noise in the steps makes the constant larger
BIAS = {("cosine", 0.0): 19, ("linear", 0.0): 32, ("cosine", 1.0): 40, ("linear", 1.0): 60}


def assert_distributed(x: np.ndarray, data: GaussianMixture, bias: float) -> None:
    """Shares, and means and covariances of the whole and of each component, within 4 sigma and the bias.

    bias: allowance for covariances, as a share of the variances; a third of it in units of the standard
    deviation for means, a tenth of it for the components' shares.
    """
    rows, n = x.reshape(len(x), -1), len(x)
    owner = data.responsibilities(x, 1.0).argmax(axis=1)
    for k, weight in enumerate(data.weights):
        deviation = math.sqrt(weight * (1 - weight))
        assert abs(np.mean(owner == k) - weight) < (4 / math.sqrt(n) + bias / 10) * deviation, k
    assert_moments(rows, data.mean, data.covariance, bias)
    for k in range(data.weights.size):
        assert_moments(rows[owner == k], data.means[k], data.covariances[k], bias)


def assert_moments(rows: np.ndarray, mean: np.ndarray, covariance: np.ndarray, bias: float) -> None:
    n, stds = len(rows), np.sqrt(np.diag(covariance))
    assert np.all(np.abs(rows.mean(axis=0) - mean) < (4 / math.sqrt(n) + bias / 3) * stds)
    apart = rows - mean
    products = apart[:, :, None] * apart[:, None, :]
    sigma = products.std(axis=0) / math.sqrt(n)
    assert np.all(np.abs(products.mean(axis=0) - covariance) < 4 * sigma + bias * np.outer(stds, stds))


def test_the_data_pass_for_themselves():
    assert_distributed(BLOBS.sample(20000, np.random.default_rng(0)), BLOBS, bias=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_ddpm_over_1000_steps_draws_from_the_data(name):
    x = images(samplers.ddpm, BLOBS, Schedule.by_name(name), noise(8000, 2, 2, 1), seed=1)
    assert_distributed(x, BLOBS, BIAS[name, 1.0] / 1000)


@pytest.mark.parametrize("name", ["cosine", "linear"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_draws_from_the_data(name, eta):
    x = images(samplers.ddim, BLOBS, Schedule.by_name(name), noise(8000, 2, 2, 1), seed=2, eta=eta, steps=200)
    assert_distributed(x, BLOBS, BIAS[name, eta] / 200)


@pytest.mark.parametrize("sampler", [samplers.ddpm, samplers.ddim])
def test_the_bounds_can_tell_a_wrong_distribution(sampler):
    heavier = GaussianMixture(np.array([0.4, 0.4, 0.2]), BLOBS.means, BLOBS.covariances, BLOBS.image_shape)
    wider = GaussianMixture(BLOBS.weights, BLOBS.means, 1.8 * BLOBS.covariances, BLOBS.image_shape)
    moved = GaussianMixture(BLOBS.weights, BLOBS.means + 0.05, BLOBS.covariances, BLOBS.image_shape)
    x = images(sampler, BLOBS, Schedule.cosine(1000), noise(8000, 2, 2, 1), seed=3, steps=150)
    assert_distributed(x, BLOBS, BIAS["cosine", 1.0] / 150)
    for wrong in (heavier, wider, moved):
        with pytest.raises(AssertionError):
            assert_distributed(x, wrong, BIAS["cosine", 1.0] / 150)


@pytest.mark.parametrize("prediction", ["x0", "v"])
@pytest.mark.parametrize("sampler", samplers.SAMPLERS.values())
def test_what_the_network_predicts_makes_no_difference(sampler, prediction):
    schedule, x_T = Schedule.linear(1000), noise(50, 2, 2, 1)
    results = [
        samplers.last(
            sampler(
                BLOBS.model(schedule, kind),
                Diffusion(schedule, prediction=kind),
                x_T.shape,
                x_T=x_T,
                steps=50,
                clip=False,
            )
        ).x
        for kind in ("eps", prediction)
    ]
    np.testing.assert_allclose(results[0], results[1], atol=1e-9)


# One Gaussian: all is linear, and known exactly


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_ddim_of_a_gaussian_is_the_known_linear_map(name, spacing, steps):
    mean, std = 0.3, 0.2
    schedule, x_T = Schedule.by_name(name, 200), np.linspace(-3, 3, 13).reshape(-1, 1, 1, 1)
    kept = schedule.spaced_indices(steps, spacing)
    factor = 1.0
    for j in reversed(range(steps)):
        ab, prev = schedule.alpha_bars[kept[j]], (schedule.alpha_bars[kept[j - 1]] if j else 1.0)
        # the x_0 expected for x_t - sqrt(ab) mean = 1, less the mean, and with it the noise
        x0 = math.sqrt(ab) * std**2 / (ab * std**2 + 1 - ab)
        factor *= math.sqrt(prev) * x0 + math.sqrt(1 - prev) * (1 - math.sqrt(ab) * x0) / math.sqrt(1 - ab)
    expected = mean + factor * (x_T - math.sqrt(schedule.alpha_bars[kept[-1]]) * mean)
    x = images(samplers.ddim, one_blob(mean, std), schedule, x_T, steps=steps, spacing=spacing)
    np.testing.assert_allclose(x, expected, atol=1e-9)


def test_ddim_of_a_gaussian_over_many_steps_is_its_probability_flow():
    mean, std = 0.3, 0.2
    schedule, x_T = Schedule.cosine(1000), np.linspace(-3, 3, 13).reshape(-1, 1, 1, 1)
    ab = schedule.alpha_bars[-1]
    exact = mean + std * (x_T - math.sqrt(ab) * mean) / math.sqrt(ab * std**2 + 1 - ab)
    errors = [
        np.abs(images(samplers.ddim, one_blob(mean, std), schedule, x_T, steps=n) - exact).max() for n in (250, 1000)
    ]
    # first order: 4 times the steps, a quarter of the error; x_T = 3 lies 3 std from the mean
    assert 0.2 * errors[0] < errors[1] < 0.3 * errors[0]
    assert errors[1] < 0.005 * 3 * std


def chain_of_a_gaussian(schedule: Schedule, kept: np.ndarray, mean: float, std: float, variance: str):
    """Mean and variance that ancestral sampling over the kept steps ends in, from N(0, 1).

    x_{t-1} and x_t are jointly Gaussian with known moments, so the expectation of one given the other is the
    regression line; the step then adds noise of the posterior's or the forward variance.
    """
    m, v = 0.0, 1.0
    for j in reversed(range(len(kept))):
        ab, prev = schedule.alpha_bars[kept[j]], (schedule.alpha_bars[kept[j - 1]] if j else 1.0)
        alpha = ab / prev
        total, total_prev = ab * std**2 + 1 - ab, prev * std**2 + 1 - prev
        slope = math.sqrt(alpha) * total_prev / total
        m = math.sqrt(prev) * mean + slope * (m - math.sqrt(ab) * mean)
        added = (1 - alpha) * ((1 - prev) / (1 - ab) if variance == "fixed_small" else 1.0)
        v = slope**2 * v + (added if j else 0.0)
    return m, v


@pytest.mark.parametrize("variance", FIXED_VARIANCES)
@pytest.mark.parametrize("steps", [2, 5, 20, 100])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_ddpm_over_few_steps_uses_the_shortened_chains_betas(name, steps, variance):
    n, mean, std = 20000, 0.3, 0.4
    schedule = Schedule.by_name(name)
    m, v = chain_of_a_gaussian(schedule, schedule.spaced_indices(steps), mean, std, variance)
    x = images(samplers.ddpm, one_blob(mean, std), schedule, noise(n, 1, 1, 1), variance, seed=4, steps=steps)
    assert abs(x.mean() - m) < 4 * math.sqrt(v / n)
    assert abs(x.var() / v - 1) < 4 * math.sqrt(2 / n)


def test_ddpms_error_falls_with_the_number_of_steps():
    n, mean, std = 20000, 0.3, 0.4
    schedule = Schedule.linear(1000)
    errors = {}
    for variance in FIXED_VARIANCES:
        variances = [
            images(samplers.ddpm, one_blob(mean, std), schedule, noise(n, 1, 1, 1), variance, seed=5, steps=steps).var()
            for steps in (5, 20, 160)
        ]
        errors[variance] = np.abs(np.array(variances) / std**2 - 1)
        assert np.all(errors[variance][1:] < 0.6 * errors[variance][:-1]), errors
    # the small variance is the one for data that are a single point (Ho et al. 2020, section 3.2), not for these
    assert np.all(errors["fixed_large"] < errors["fixed_small"]), errors


# The right order


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_ddims_error_falls_at_first_order(name):
    schedule, x_T = Schedule.by_name(name, 3200), noise(64, 2, 2, 1)
    exact = BLOBS.flow(x_T, float(schedule.alpha_bars[-1]))
    counts = np.array([10, 20, 40, 80, 160, 320])
    errors = [
        np.sqrt(np.mean((images(samplers.ddim, BLOBS, schedule, x_T, steps=int(n)) - exact) ** 2)) for n in counts
    ]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert 0.85 <= slope <= 1.25, (slope, errors)
    assert np.all(np.diff(errors) < 0)
    assert errors[-1] < 0.006
