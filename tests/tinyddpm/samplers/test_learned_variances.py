"""Samplers of a network that predicts variances too: each sees the prediction alone, and ddpm takes the variances."""

from typing import Any

import numpy as np
import pytest

from tests.tinyddpm.diffusion.test_learned_variance import tiny
from tests.tinyddpm.samplers.test_guidance import CONFIG, LABELS
from tinyddpm import samplers
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import InputError
from tinyddpm.networks.simple_unet import SimpleUNet
from tinyddpm.samplers.guidance import classifier_free

SCHEDULE = Schedule.cosine(30)
SHAPE = (3, 4, 4, 1)


def wild(x: Any, t: int, *, labels: Any = None) -> Any:
    return np.sin(3 * x) + t / 30


def with_v(v: float) -> Any:
    """`wild`, and v everywhere."""
    return lambda x, t, labels=None: np.concatenate([wild(x, t), np.full_like(x, v)], axis=-1)


@pytest.mark.parametrize("steps", [None, 7])
def test_v_of_minus_1_is_fixed_small_and_of_1_is_beta(steps: int | None) -> None:
    learned, options = Diffusion(SCHEDULE, variance="learned"), {"steps": steps, "seed": 2}
    small, large = (
        list(samplers.ddpm(wild, Diffusion(SCHEDULE, variance=kind), SHAPE, **options))
        for kind in ("fixed_small", "fixed_large")
    )
    for v, wanted in ((-1.0, small), (1.0, large)):
        found = list(samplers.ddpm(with_v(v), learned, SHAPE, **options))
        for ours, theirs in zip(found, wanted, strict=True):
            np.testing.assert_allclose(ours.x, theirs.x, rtol=2e-5, atol=2e-5)


def test_variances_may_differ_from_pixel_to_pixel() -> None:
    def model(x: Any, t: int, labels: Any = None) -> Any:
        return np.concatenate([0 * x, np.sign(x)], axis=-1)

    diffusion, x_T = Diffusion(SCHEDULE, variance="learned"), np.random.default_rng(0).standard_normal((5000, 2, 2, 1))
    first = next(samplers.ddpm(model, diffusion, x_T.shape, x_T=x_T, clip=False, steps=6))
    chain = SCHEDULE.respaced(6)
    noise = first.x - x_T / np.sqrt(1 - chain.betas[-1])
    for sign, variance in ((-1, chain.posterior_variance[-1]), (1, chain.betas[-1])):
        assert np.var(noise[np.sign(x_T) == sign]) == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize("name", [name for name in samplers.SAMPLERS if name != "ddpm"])
def test_every_other_sampler_sees_the_prediction_alone(name: str) -> None:
    sampler, options = samplers.SAMPLERS[name], {"steps": 5, "seed": 1}
    found = samplers.last(sampler(with_v(0.3), Diffusion(SCHEDULE, variance="learned"), SHAPE, **options))
    wanted = samplers.last(sampler(wild, Diffusion(SCHEDULE), SHAPE, **options))
    np.testing.assert_array_equal(found.x, wanted.x)


@pytest.mark.parametrize("name", samplers.SAMPLERS)
@pytest.mark.parametrize(("variance", "model"), [("learned", wild), ("fixed_small", with_v(0.0))])
def test_an_output_of_other_channels_is_refused(name: str, variance: str, model: Any) -> None:
    with pytest.raises(InputError, match=f"with variance='{variance}' the network must give"):
        next(samplers.SAMPLERS[name](model, Diffusion(SCHEDULE, variance=variance), SHAPE))


def test_guidance_leaves_the_variances_as_they_are_with_labels() -> None:
    model = SimpleUNet(
        type(CONFIG)(**{**vars(CONFIG), "learned_variance": True}), backend=tiny().backend, dtype="float64"
    )
    model.params[:] = 0.5 * np.random.default_rng(1).standard_normal(model.params.shape)
    x = np.random.default_rng(2).standard_normal(SHAPE)
    conditional, unconditional = model(x, 5, labels=LABELS), model(x, 5)
    guided = classifier_free(model, 3.0)(x, 5, labels=LABELS)
    np.testing.assert_array_equal(guided[..., 1:], conditional[..., 1:])
    mixed = 3 * conditional - 2 * unconditional
    np.testing.assert_allclose(guided[..., :1], mixed[..., :1], rtol=1e-12, atol=1e-12)
    assert np.abs(guided[..., 1:] - mixed[..., 1:]).max() > 1e-3
