"""Classifier-free guidance: linear between the unconditional and the conditional network, and beyond."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import backends
from tinyddpm import samplers
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import InputError
from tinyddpm.networks.simple_unet import SimpleUNet, SimpleUNetConfig
from tinyddpm.samplers.guidance import classifier_free

CONFIG = SimpleUNetConfig(image_size=4, base_channels=4, channel_mults=(1, 2), groups=2, num_classes=3)
LABELS = np.array([0, 1, 2])


def network(num_classes: int | None = 3) -> SimpleUNet:
    """A U-Net in float64 at random parameters."""
    config = dataclasses.replace(CONFIG, num_classes=num_classes)
    model = SimpleUNet(config, backend=backends.get("numpy"), dtype="float64")
    model.params[:] = 0.5 * np.random.default_rng(1).standard_normal(model.params.shape)
    return model


MODEL = network()
X = np.random.default_rng(2).standard_normal((3, 4, 4, 1))


def test_scale_1_is_the_conditional_network():
    np.testing.assert_array_equal(classifier_free(MODEL, 1.0)(X, 5, labels=LABELS), MODEL(X, 5, labels=LABELS))


def test_scale_0_is_the_unconditional_network():
    no_label = np.full(3, 3)
    np.testing.assert_array_equal(classifier_free(MODEL, 0.0)(X, 5, labels=LABELS), MODEL(X, 5, labels=no_label))
    assert np.abs(MODEL(X, 5) - MODEL(X, 5, labels=LABELS)).max() > 1e-3


@settings(deadline=None, max_examples=30)
@given(st.floats(-3, 10), st.integers(0, 99))
def test_output_is_linear_in_the_scale(scale, t):
    conditional, unconditional = MODEL(X, t, labels=LABELS), MODEL(X, t)
    guided = classifier_free(MODEL, scale)(X, t, labels=LABELS)
    np.testing.assert_allclose(guided, scale * conditional + (1 - scale) * unconditional, rtol=1e-12, atol=1e-12)


@pytest.mark.equation("Ho & Salimans 2022, eq. 6")
def test_scale_above_1_leads_away_from_the_unconditional_network():
    conditional, unconditional = MODEL(X, 5, labels=LABELS), MODEL(X, 5)
    guided = classifier_free(MODEL, 3.0)(X, 5, labels=LABELS)
    # Ho & Salimans 2022, eq. 6, with w = 2
    np.testing.assert_allclose(guided, (1 + 2) * conditional - 2 * unconditional, rtol=1e-12, atol=1e-12)


def test_guided_network_samples_like_any_other():
    diffusion = Diffusion(Schedule.cosine(20), prediction="v")
    guided = classifier_free(MODEL, 2.0)
    assert guided.backend is MODEL.backend

    def draw(model: Any, labels: Any) -> np.ndarray:
        return samplers.last(samplers.ddim(model, diffusion, X.shape, steps=5, x_T=X, clip=False, labels=labels)).x

    assert draw(guided, LABELS).shape == X.shape
    assert np.abs(draw(guided, LABELS) - draw(MODEL, LABELS)).max() > 1e-3
    np.testing.assert_array_equal(draw(classifier_free(MODEL, 1.0), LABELS), draw(MODEL, LABELS))
    np.testing.assert_array_equal(draw(classifier_free(MODEL, 0.0), LABELS), draw(MODEL, None))


BAD = {
    "model without classes": (lambda: classifier_free(network(num_classes=None), 2.0), "classes"),
    "no labels": (lambda: classifier_free(MODEL, 2.0)(X, 5), "labels"),
    "no labels at scale 0": (lambda: classifier_free(MODEL, 0.0)(X, 5), "labels"),
    "scale in words": (lambda: classifier_free(MODEL, "strong"), "'strong'"),
    "scale that is no number": (lambda: classifier_free(MODEL, float("nan")), "got nan"),
    "endless scale": (lambda: classifier_free(MODEL, float("inf")), "got inf"),
    "labels out of range": (lambda: classifier_free(MODEL, 2.0)(X, 5, labels=np.array([0, 1, 7])), "7"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_that_names_it(case):
    call, seen = BAD[case]
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert seen in message
    assert "\n" not in message
