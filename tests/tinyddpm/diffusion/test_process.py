"""Forward process, posterior, predictions and the training step against formulas and gradients worked out
independently."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import backends
from tinyddpm.diffusion import objective
from tinyddpm.diffusion.objective import LOSSES
from tinyddpm.diffusion.process import PREDICTIONS, VARIANCES, Diffusion
from tinyddpm.diffusion.schedules import NAMES, Schedule
from tinyddpm.errors import InputError
from tinyddpm.networks.simple_unet import SimpleUNet, SimpleUNetConfig

SCHEDULES = {name: Schedule.by_name(name, 100) for name in NAMES} | {"one step": Schedule.from_betas(np.array([0.3]))}


def one_pixel(value: float) -> np.ndarray:
    return np.full((1, 1, 1, 1), value)


def batch(n: int, seed: int = 0, shape: tuple[int, ...] = (4, 4, 1)) -> np.ndarray:
    """(n, 4, 4, 1) images in [-1, 1], float64."""
    return np.random.default_rng(seed).uniform(-1, 1, (n, *shape))


class ScaleAndShift:
    """A network of two parameters: output = a x + b t / 1000, with everything that it was given on record."""

    def __init__(self, a: float = 0.7, b: float = -0.4, num_classes: int | None = None) -> None:
        self.backend = backends.get("numpy")
        self.params, self.grads = np.array([a, b]), np.full(2, 7.0)
        self.config = SimpleUNetConfig(image_size=4, num_classes=num_classes)
        self.calls: list[dict[str, Any]] = []

    def __call__(self, x, t, labels=None, tape=None, dropout_key=None):
        time = np.asarray(t).reshape(-1, 1, 1, 1) / 1000
        output = self.params[0] * x + self.params[1] * time
        self.calls.append({"x": x, "t": t, "labels": labels, "tape": tape, "key": dropout_key, "output": output})
        if tape is not None:
            tape.append((x, time))
        return output

    def backward(self, dy, tape):
        x, time = tape.pop()
        self.grads[:] = [np.sum(dy * x), np.sum(dy * time)]
        return self.params[0] * dy


def tiny_unet(num_classes: int | None = None, dropout: float = 0.0) -> SimpleUNet:
    """A U-Net in float64 at random parameters, for at its initial ones the last convolution is zero."""
    config = SimpleUNetConfig(
        image_size=4,
        base_channels=4,
        channel_mults=(1, 2),
        groups=2,
        num_classes=num_classes,
        dropout=dropout,
    )
    model = SimpleUNet(config, backend=backends.get("numpy"), dtype="float64")
    model.params[:] = 0.5 * np.random.default_rng(11).standard_normal(model.params.shape)
    return model


# Forward process


def q_step(schedule: Schedule, x_prev: np.ndarray, t: int, noise: np.ndarray) -> np.ndarray:
    """x_t from x_{t-1} (Ho et al. 2020, eq. 2)."""
    beta = float(schedule.betas[t])
    return math.sqrt(1 - beta) * x_prev + math.sqrt(beta) * noise


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
    small, large = (np.exp(Diffusion(schedule, variance=kind).log_variance(np.arange(100))) for kind in VARIANCES)
    bars = np.cumprod(1 - schedule.betas)
    expected = [schedule.betas[t] * (1 - bars[t - 1]) / (1 - bars[t]) for t in range(1, 100)]
    np.testing.assert_allclose(small[1:], expected, rtol=1e-12)
    np.testing.assert_allclose(large[1:], schedule.betas[1:], rtol=1e-12)
    # at t = 0 the posterior's is 0, and both take its value at t = 1
    np.testing.assert_allclose([small[0], large[0]], expected[0], rtol=1e-12)
    assert np.all(small[1:] < large[1:])


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("steps", [1, 2])
def test_log_variances_of_the_shortest_chains_are_finite(variance, steps):
    diffusion = Diffusion(Schedule.cosine(steps), variance=variance)
    assert np.all(np.isfinite(diffusion.log_variance(np.arange(steps))))


# What the network predicts


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


# Timesteps


def test_timesteps_are_uniform_from_the_first_to_the_last():
    diffusion = Diffusion(Schedule.linear(50))
    t = objective.random_timesteps(diffusion.schedule.T, 50000, step=0, seed=1)
    assert t.shape == (50000,)
    assert t.dtype == np.int64
    counts = np.bincount(t, minlength=50)
    assert counts.size == 50
    assert stats.chisquare(counts).pvalue > 1e-3


def test_timesteps_of_single_images_are_uniform_over_the_steps():
    diffusion = Diffusion(Schedule.linear(21))
    t = [objective.random_timesteps(diffusion.schedule.T, 1, step, seed=0).item() for step in range(1000)]
    assert stats.chisquare(np.bincount(t, minlength=21)).pvalue > 1e-3


def test_timesteps_follow_step_and_seed():
    diffusion = Diffusion(Schedule.linear(1000))
    first = objective.random_timesteps(diffusion.schedule.T, 64, 3, 5)
    np.testing.assert_array_equal(first, objective.random_timesteps(diffusion.schedule.T, 64, 3, 5))
    # the batch's size does not change its first images
    np.testing.assert_array_equal(first[:10], objective.random_timesteps(diffusion.schedule.T, 10, 3, 5))
    assert np.any(first != objective.random_timesteps(diffusion.schedule.T, 64, 4, 5))
    assert np.any(first != objective.random_timesteps(diffusion.schedule.T, 64, 3, 6))


def test_timesteps_of_a_chain_of_one_are_zero():
    assert set(objective.random_timesteps(1, 1000, 0, 0)) == {0}


# The training step


def loss_by_hand(kind: str, delta: float, output: np.ndarray, target: np.ndarray) -> float:
    total = 0.0
    for r in (output - target).reshape(-1).tolist():
        if kind == "mse":
            total += r * r
        elif kind == "l1":
            total += abs(r)
        else:
            total += r * r / 2 if abs(r) <= delta else delta * (abs(r) - delta / 2)
    return total / output.size


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_training_step_is_algorithm_1_worked_by_hand(prediction, loss):
    diffusion = Diffusion(SCHEDULES["cosine"], prediction=prediction, loss=loss, huber_delta=0.5)
    model, x0 = ScaleAndShift(), batch(6)
    value = diffusion.training_step(model, x0, step=4, seed=2)
    (call,) = model.calls
    t = call["t"]
    ab = np.array([math.prod(1 - beta for beta in diffusion.schedule.betas[: i + 1]) for i in t]).reshape(6, 1, 1, 1)
    noise = (call["x"] - np.sqrt(ab) * x0) / np.sqrt(1 - ab)
    target = {"eps": noise, "x0": x0, "v": np.sqrt(ab) * noise - np.sqrt(1 - ab) * x0}[prediction]
    assert isinstance(value, float)
    assert math.isclose(value, loss_by_hand(loss, 0.5, call["output"], target), rel_tol=1e-10)
    # the two gradients, by the derivative of the loss
    r = call["output"] - target
    slope = {"mse": 2 * r, "l1": np.sign(r), "huber": np.clip(r, -0.5, 0.5)}[loss] / r.size
    expected = [np.sum(slope * call["x"]), np.sum(slope * t.reshape(6, 1, 1, 1) / 1000)]
    np.testing.assert_allclose(model.grads, expected, rtol=1e-9)


def test_noise_of_training_is_standard_normal_and_owes_nothing_to_the_images():
    diffusion, model = Diffusion(Schedule.linear(50)), ScaleAndShift()
    x0 = np.repeat(batch(1), 2000, axis=0)
    drawn = [x0.reshape(-1)]
    for key in ({"step": 0, "seed": 0}, {"step": 1, "seed": 0}, {"step": 0, "seed": 1}):
        diffusion.training_step(model, x0, **key, backward=False)
        call = model.calls[-1]
        drawn.append(diffusion.eps_from_x0(call["x"], call["t"], x0).reshape(-1))
        assert stats.kstest(drawn[-1], "norm").pvalue > 1e-3
    # nor to another step or seed
    assert np.abs(np.corrcoef(drawn) - np.eye(4)).max() < 4 / math.sqrt(x0.size)


def test_noise_timesteps_and_dropped_labels_owe_nothing_to_each_other():
    # of one pixel, so that the three are drawn in equal number, place by place
    diffusion, model, n = Diffusion(Schedule.linear(50), label_dropout=0.5), ScaleAndShift(num_classes=1), 20000
    x0 = np.zeros((n, 1, 1, 1))
    diffusion.training_step(model, x0, step=0, labels=np.zeros(n, np.int64), backward=False)
    (call,) = model.calls
    noise = diffusion.eps_from_x0(call["x"], call["t"], x0).reshape(-1)
    correlations = np.corrcoef([noise, noise**2, call["t"], call["labels"]])
    assert np.abs(correlations - np.eye(4)).max() < 4 / math.sqrt(n)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_keeps_the_dtype_of_the_images(dtype):
    model, drawn = ScaleAndShift(), []

    class Noting(backends.NumpyBackend):
        def random_normal(self, *args, dtype=None):
            drawn.append(dtype)
            return backends.OPS["random_normal"].forward(np, *args, dtype=dtype)

    model.backend = Noting()
    Diffusion(SCHEDULES["linear"], prediction="v").training_step(model, batch(2).astype(dtype), step=0)
    assert drawn == [dtype]
    assert model.calls[0]["x"].dtype == dtype


def test_training_tells_the_network_the_timesteps_that_sampling_will():
    # of a shortened chain, the network is given the first chain's timesteps, not the positions
    diffusion, model = Diffusion(Schedule.linear(1000).respaced(10)), ScaleAndShift()
    diffusion.training_step(model, batch(200), step=0)
    assert set(model.calls[0]["t"]) == set(range(99, 1000, 100))


def test_training_step_repeats_to_the_bit_and_follows_step_and_seed():
    diffusion, x0 = Diffusion(SCHEDULES["linear"], loss="huber"), batch(5).astype(np.float32)

    def run(**key):
        model = tiny_unet(dropout=0.2)
        loss = diffusion.training_step(model, x0, **key)
        return loss, model.grads.copy()

    first, again = run(step=7, seed=3), run(step=7, seed=3)
    assert first[0] == again[0]
    np.testing.assert_array_equal(first[1], again[1])
    for other in (run(step=8, seed=3), run(step=7, seed=4)):
        assert other[0] != first[0]
        assert np.any(other[1] != first[1])


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_of_the_whole_training_step_matches_a_complex_step(prediction, loss):
    diffusion = Diffusion(SCHEDULES["linear"], prediction=prediction, loss=loss, huber_delta=0.5, label_dropout=0.4)
    model, x0, labels = tiny_unet(num_classes=3), batch(6), np.array([0, 1, 2, 0, 1, 2])
    value = diffusion.training_step(model, x0, step=5, seed=1, labels=labels)
    # the same step again, from its parts, at parameters that take an imaginary step along a random direction
    direction, be = np.random.default_rng(2).standard_normal(model.params.shape), model.backend
    t = objective.random_timesteps(diffusion.schedule.T, 6, 5, 1)
    kept = objective.drop_labels(labels, 3, diffusion.label_dropout, 5, 1)
    recorder = ScaleAndShift(num_classes=3)
    diffusion.training_step(recorder, x0, step=5, seed=1, labels=labels)
    x_t = recorder.calls[0]["x"]
    stepped = model.with_params(model.params + 1e-30j * direction)
    options = {"delta": 0.5} if loss == "huber" else {}
    target = diffusion.target(x0, t, diffusion.eps_from_x0(x_t, t, x0))
    complex_value, _ = getattr(be, f"{loss}_loss")(stepped(x_t, t, kept), target, **options)
    assert math.isclose(complex_value.real, value, rel_tol=1e-10)
    assert math.isclose(complex_value.imag / 1e-30, model.grads @ direction, rel_tol=1e-10)
    assert abs(model.grads @ direction) > 1e-3


def test_gradient_of_the_whole_training_step_matches_finite_differences():
    diffusion, model, x0 = Diffusion(SCHEDULES["cosine"], prediction="v"), tiny_unet(), batch(4)
    diffusion.training_step(model, x0, step=2, seed=9)
    direction, h = np.random.default_rng(4).standard_normal(model.params.shape), 1e-6
    ahead, behind = (
        diffusion.training_step(model.with_params(model.params + side * direction), x0, step=2, seed=9, backward=False)
        for side in (h, -h)
    )
    assert math.isclose((ahead - behind) / (2 * h), model.grads @ direction, rel_tol=1e-6)


def test_without_backward_the_loss_is_the_same_and_gradients_stay_as_they_were():
    diffusion, model = Diffusion(SCHEDULES["linear"]), tiny_unet()
    model.grads[:] = 7.0
    alone = diffusion.training_step(model, batch(4), step=1, backward=False)
    assert np.all(model.grads == 7.0)
    assert diffusion.training_step(model, batch(4), step=1) == alone
    assert not np.any(model.grads == 7.0)


def test_backward_switches_dropout_on_and_empties_the_tape():
    diffusion, model = Diffusion(SCHEDULES["linear"]), ScaleAndShift()
    diffusion.training_step(model, batch(2), step=3, seed=8)
    diffusion.training_step(model, batch(2), step=3, seed=8, backward=False)
    trained, evaluated = model.calls
    assert trained["key"] == (8, 3)
    assert trained["tape"] == []
    assert evaluated["key"] is None
    assert evaluated["tape"] is None


# Labels: pitfall 23


@pytest.mark.parametrize("share", [0.0, 0.1, 0.7, 1.0])
def test_the_asked_share_of_labels_is_dropped(share):
    labels = np.arange(20000) % 10
    kept = objective.drop_labels(labels, 10, share, step=0, seed=0)
    dropped = kept == 10
    np.testing.assert_array_equal(kept[~dropped], labels[~dropped])
    assert abs(dropped.mean() - share) <= 4 * math.sqrt(share * (1 - share) / labels.size)
    # whichever the label
    counts = np.bincount(labels[dropped], minlength=10)
    if 0 < share < 1:
        assert stats.chisquare(counts).pvalue > 1e-3
        assert np.any(kept != objective.drop_labels(labels, 10, share, step=1, seed=0))
        assert np.any(kept != objective.drop_labels(labels, 10, share, step=0, seed=1))
    np.testing.assert_array_equal(kept, objective.drop_labels(labels, 10, share, step=0, seed=0))
    np.testing.assert_array_equal(labels, np.arange(20000) % 10)


@pytest.mark.parametrize(
    ("share", "unconditional", "conditional"), [(0.0, False, True), (0.5, True, True), (1.0, True, False)]
)
def test_label_dropout_trains_the_unconditional_branch(share, unconditional, conditional):
    diffusion, model = Diffusion(SCHEDULES["linear"], label_dropout=share), tiny_unet(num_classes=2)
    diffusion.training_step(model, batch(16), step=0, labels=np.arange(16) % 2)
    table = model.named_grads()["time.label.table"]
    assert bool(np.all(table[2] != 0)) == unconditional
    assert bool(np.all(table[:2] != 0)) == conditional
    assert bool(np.any(table[2] != 0)) == unconditional
    assert bool(np.any(table[:2] != 0)) == conditional


def test_a_tenth_of_labels_is_dropped_by_default():
    assert Diffusion(SCHEDULES["linear"]).label_dropout == 0.1


def test_training_passes_the_kept_labels_on():
    diffusion, model, labels = (
        Diffusion(SCHEDULES["linear"], label_dropout=0.5),
        ScaleAndShift(num_classes=3),
        [0, 1, 2, 0],
    )
    diffusion.training_step(model, batch(4), step=6, seed=3, labels=labels)
    np.testing.assert_array_equal(
        model.calls[0]["labels"], objective.drop_labels(labels, 3, diffusion.label_dropout, 6, 3)
    )
    diffusion.training_step(model, batch(4), step=6, seed=3)
    assert model.calls[1]["labels"] is None


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
