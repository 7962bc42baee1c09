"""Timesteps, labels and the training step against Algorithm 1 by hand and gradients worked out independently."""

import math

import numpy as np
import pytest
from scipy import stats

import backends
from tests.tinyddpm.diffusion.small import SCHEDULES, ScaleAndShift, batch, tiny_unet
from tinyddpm.diffusion import objective
from tinyddpm.diffusion.objective import LOSSES
from tinyddpm.diffusion.process import PREDICTIONS, Diffusion
from tinyddpm.diffusion.schedules import Schedule

# Those of a single prediction; the bound is in test_learned_variance
BY_ELEMENT = [loss for loss in LOSSES if loss != "vlb"]

# Timesteps


@pytest.mark.equation("Ho et al. 2020, algorithm 1")
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


@pytest.mark.equation("Ho et al. 2020, algorithm 1", "Ho et al. 2020, eq. 14")
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("loss", BY_ELEMENT)
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


@pytest.mark.equation("Ho et al. 2020, algorithm 1")
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
        def random_normal(self, *args, dtype=None, first=0):
            drawn.append(dtype)
            return backends.OPS["random_normal"].forward(np, *args, dtype=dtype, first=first)

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
@pytest.mark.parametrize("loss", BY_ELEMENT)
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
    assert trained["key"] == (8, 3, 0)
    assert trained["tape"] == []
    assert evaluated["key"] is None
    assert evaluated["tape"] is None


# Labels: pitfall 23


@pytest.mark.equation("Ho & Salimans 2022, algorithm 1")
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
