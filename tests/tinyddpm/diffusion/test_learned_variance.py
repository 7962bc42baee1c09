"""Learned variances: the bound's terms and the hybrid loss against the posterior by hand; min-SNR weights."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

import backends
from tests.tinyddpm.diffusion.small import batch
from tinyddpm.diffusion import objective
from tinyddpm.diffusion.objective import Loss
from tinyddpm.diffusion.process import PREDICTIONS, Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import InputError
from tinyddpm.networks.simple_unet import SimpleUNet, SimpleUNetConfig

BE = backends.get("numpy")
SCHEDULE = Schedule.cosine(40)
# First and last steps among them; the decoder's are those of t = 0
T = np.array([0, 0, 1, 7, 39])


def tiny(learned: bool = True, seed: int = 11) -> SimpleUNet:
    """A U-Net in float64 at random parameters."""
    config = SimpleUNetConfig(image_size=4, base_channels=4, channel_mults=(1, 2), groups=2, learned_variance=learned)
    model = SimpleUNet(config, backend=BE, dtype="float64")
    model.params[:] = 0.3 * np.random.default_rng(seed).standard_normal(model.params.shape)
    return model


def images() -> np.ndarray:
    """Five images with black, white and grey pixels, of bytes."""
    levels = np.random.default_rng(0).integers(-100, 355, (5, 4, 4, 1))
    return np.clip(levels, 0, 255) / 127.5 - 1


def terms_by_hand(diffusion: Diffusion, x0: np.ndarray, x_t: np.ndarray, output: np.ndarray) -> np.ndarray:
    """L_t of each image in bits per dimension, by the posterior's mean and variance as the papers have them."""
    s, found = diffusion.schedule, []
    for n, t in enumerate(T):
        predicted, v = output[n, ..., :1], output[n, ..., 1:]
        x0_hat = diffusion.to_x0(x_t[n : n + 1], t, predicted[None])[0]
        truth, mean = (diffusion.posterior_mean(x[None], x_t[n : n + 1], t)[0] for x in (x0[n], x0_hat))
        beta, tilde = s.betas[t], s.posterior_variance[max(t, 1)]
        variance = np.exp((v + 1) / 2 * np.log(beta) + (1 - (v + 1) / 2) * np.log(tilde))
        if t == 0:
            law = stats.norm(mean, np.sqrt(variance))
            upper = np.where(x0[n] > 0.999, 1.0, law.cdf(x0[n] + 1 / 255))
            lower = np.where(x0[n] < -0.999, 0.0, law.cdf(x0[n] - 1 / 255))
            nats = -np.log(upper - lower)
        else:
            nats = 0.5 * (np.log(variance / tilde) + (tilde + (truth - mean) ** 2) / variance - 1)
        found.append(np.mean(nats) / np.log(2))
    return np.array(found)


def compared(diffusion: Diffusion, output: np.ndarray, x0: np.ndarray, noise: np.ndarray, **more: Any) -> Any:
    """Loss, each image's, and gradient."""
    loss, (_, bound) = Loss(diffusion.loss), diffusion.weights_and_bound(T, x0, **more)
    losses, gradient = loss(BE, output, diffusion.target(x0, T, noise), None, x0, bound)
    return losses[0], losses[1:], gradient


@pytest.mark.equation("Ho et al. 2020, eq. 5", "Ho et al. 2020, eq. 13", "Nichol & Dhariwal 2021, eq. 15")
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", [SCHEDULE, Schedule.linear(1000).respaced(40)], ids=["whole", "respaced"])
def test_the_bound_is_that_of_the_posterior(prediction: str, schedule: Schedule) -> None:
    diffusion = Diffusion(schedule, prediction=prediction, loss="vlb", variance="learned")
    rng, x0 = np.random.default_rng(1), images()
    noise = rng.standard_normal(x0.shape)
    x_t = diffusion.q_sample(x0, T, noise)
    right, v = diffusion.target(x0, T, noise), rng.uniform(-1.5, 1.5, x0.shape)
    output = np.concatenate([right + 0.01 * rng.standard_normal(x0.shape), v], axis=-1)
    loss, each, _ = compared(diffusion, output, x0, noise)
    terms = terms_by_hand(diffusion, x0, x_t, output)
    # Each stands for all T of the chain
    np.testing.assert_allclose(each, schedule.T * terms, rtol=1e-9, atol=1e-13)
    assert loss == pytest.approx(np.mean(each), rel=1e-12)


@pytest.mark.equation("Nichol & Dhariwal 2021, eq. 16")
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_of_the_hybrid_loss_the_mean_learns_by_the_squared_error_alone_and_v_by_the_bound(prediction: str) -> None:
    rng, x0 = np.random.default_rng(2), images()
    noise, output = rng.standard_normal(x0.shape), rng.standard_normal((*x0.shape[:-1], 2))
    hybrid, alone = (
        Diffusion(SCHEDULE, prediction=prediction, loss=loss, variance="learned") for loss in ("mse", "vlb")
    )
    _, each, gradient = compared(hybrid, output, x0, noise)
    _, bound, whole = compared(alone, output, x0, noise)
    target = hybrid.target(x0, T, noise)
    squares = (output[..., :1] - target) ** 2
    np.testing.assert_allclose(each, squares.mean(axis=(1, 2, 3)) + 0.001 * bound, rtol=1e-12)
    np.testing.assert_allclose(gradient[..., :1], 2 * (output[..., :1] - target) / x0.size, rtol=1e-12)
    np.testing.assert_allclose(gradient[..., 1:], 0.001 * whole[..., 1:], rtol=1e-12)
    assert np.all(np.abs(whole) > 0)


@pytest.mark.parametrize("loss", ["mse", "vlb"])
def test_the_gradient_of_a_whole_step_is_that_of_differences(loss: str) -> None:
    diffusion, model = Diffusion(SCHEDULE, loss=loss, variance="learned"), tiny()
    x0, key = images(), {"step": 3, "seed": 1}
    diffusion.training_step(model, x0, **key)
    # A parameter of v alone, for what is detached shows in differences
    place = model.named_grads()["conv_out.bias"]
    assert np.all(place != 0)
    bias, h = model.named_params()["conv_out.bias"], 1e-5
    sides = []
    for side in (h, -2 * h):
        bias[1] += side
        sides.append(diffusion.training_step(model, x0, **key, backward=False))
    assert place[1] == pytest.approx((sides[0] - sides[1]) / (2 * h), rel=1e-6)


def test_images_drawn_often_weigh_less_so_that_the_expectation_stays() -> None:
    chances = np.random.default_rng(5).dirichlet(np.ones(SCHEDULE.T))
    diffusion, model, x0 = Diffusion(SCHEDULE, loss="vlb", variance="learned"), tiny(), batch(5)
    drawn = diffusion.draw(model, x0, step=0, seed=0, chances=chances)
    t = np.asarray(drawn.timesteps)
    np.testing.assert_allclose(drawn.bound[:, -1], 1 / chances[t], rtol=1e-12)  # type: ignore[index]
    many = objective.random_timesteps(SCHEDULE.T, 200_000, 0, 0, chances=chances)
    np.testing.assert_allclose(np.bincount(many, minlength=SCHEDULE.T) / many.size, chances, atol=4e-3)
    # sum over t of p_t 1 / (T p_t) L_t is the mean of L_t
    assert np.mean(1 / (SCHEDULE.T * chances[many])) == pytest.approx(1, abs=0.15)


@pytest.mark.equation("Nichol & Dhariwal 2021, eq. 15")
def test_variances_lie_between_the_tables_of_the_chain_that_is_walked() -> None:
    for schedule in (SCHEDULE, SCHEDULE.respaced(8)):
        diffusion = Diffusion(schedule, variance="learned")
        for t in range(schedule.T):
            low, high = schedule.posterior_variance[max(t, 1)], schedule.betas[t]
            v = np.array([-1.0, 0.0, 1.0]).reshape(3, 1, 1, 1)
            found = np.exp(diffusion.log_variance(t, v)).ravel()
            np.testing.assert_allclose(found, [low, np.sqrt(low * high), high], rtol=1e-12)


@pytest.mark.parametrize("gamma", [0.5, 5.0])
def test_min_snr_weights_are_of_the_error_of_x0_whatever_is_predicted(gamma: float) -> None:
    x0, rng, t = images(), np.random.default_rng(7), np.array([3, 8, 15, 25, 38])
    noise, guess = rng.standard_normal(x0.shape), rng.uniform(-1, 1, x0.shape)
    losses = []
    for prediction in PREDICTIONS:
        diffusion = Diffusion(SCHEDULE, prediction=prediction, weighting="min_snr", min_snr_gamma=gamma)
        x_t = diffusion.q_sample(x0, t, noise)
        eps = diffusion.eps_from_x0(x_t, t, guess)
        output = {"eps": eps, "x0": guess, "v": diffusion.target(guess, t, eps)}[prediction]
        weights, bound = diffusion.weights_and_bound(t, x0)
        assert bound is None
        losses.append(Loss("mse")(BE, output, diffusion.target(x0, t, noise), weights)[0])
    snr = SCHEDULE.alpha_bars[t] / (1 - SCHEDULE.alpha_bars[t])
    by_hand = np.mean(np.minimum(snr, gamma) * np.mean((guess - x0) ** 2, axis=(1, 2, 3)))
    np.testing.assert_allclose(losses, by_hand, rtol=1e-9)


def test_min_snr_weighs_the_squared_error_of_the_hybrid_loss_and_not_the_bound() -> None:
    plain, weighed = (
        Diffusion(SCHEDULE, variance="learned", weighting=w).weights_and_bound(T, images())
        for w in ("uniform", "min_snr")
    )
    np.testing.assert_array_equal(plain[1][:, 5], weighed[1][:, 5])  # type: ignore[index]
    snr = SCHEDULE.snr[T]
    np.testing.assert_allclose(weighed[1][:, 4], np.minimum(snr, 5) / snr, rtol=1e-12)  # type: ignore[index]


REFUSED = [
    ({"loss": "vlb"}, "variance='fixed_small' does not go with loss='vlb'"),
    ({"loss": "l1", "variance": "learned"}, "variance='learned' does not go with loss='l1'"),
    ({"loss": "huber", "variance": "learned"}, "variance='learned' does not go with loss='huber'"),
    ({"loss": "vlb", "variance": "learned", "weighting": "min_snr"}, "would spoil the bound"),
    ({"weighting": "snr"}, "weighting must be one of uniform, min_snr"),
    ({"min_snr_gamma": 0}, r"min_snr_gamma must be a number in \(0, inf\)"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Diffusion(SCHEDULE, **fields)


@pytest.mark.parametrize("learned", [True, False])
def test_a_network_of_another_output_is_refused(learned: bool) -> None:
    diffusion = Diffusion(SCHEDULE, variance="fixed_small" if learned else "learned")
    with pytest.raises(InputError, match=f"does not go with a network of learned_variance={learned}"):
        diffusion.training_step(tiny(learned), batch(2), step=0)
