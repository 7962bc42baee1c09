"""Dynamic thresholding: Saharia et al. 2022, section 2.3."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyddpm import samplers
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.samplers import SAMPLERS
from tinyddpm.samplers.threshold import thresholded


@settings(deadline=None)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3)),
    st.floats(0.01, 1),
    st.floats(0.1, 5),
    st.integers(0, 99),
)
def test_each_image_is_fitted_by_its_own_quantile(shape, share, scale, seed):
    x0 = scale * np.random.default_rng(seed).standard_normal(shape)
    s = np.maximum(1, [np.quantile(np.abs(image), share) for image in x0]).reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(thresholded(x0, share), np.clip(x0, -s, s) / s, rtol=1e-12, atol=1e-12)


def test_an_image_in_range_stays_as_it_is_whatever_is_beside_it():
    inside = np.random.default_rng(0).uniform(-1, 1, (1, 4, 4, 1))
    both = thresholded(np.concatenate([inside, 9 * inside]), 0.9)
    np.testing.assert_array_equal(both[:1], inside)
    assert np.abs(both[1]).max() == 1
    # What lies below the quantile is shrunk, not cut
    assert np.mean(np.abs(both[1]) == 1) < 0.2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_dtype_stays(dtype):
    assert thresholded(np.full((2, 3, 3, 1), 2.0, dtype), 0.9).dtype == dtype


def wild(x, t, labels=None):
    return np.sin(3 * x) + 0.3 * np.cos(t) * x


@pytest.mark.parametrize("sampler", SAMPLERS.values())
def test_samplers_step_from_the_thresholded_image(sampler):
    diffusion, x_T = Diffusion(Schedule.linear(200)), np.random.default_rng(0).standard_normal((3, 4, 4, 1))
    dynamic, plain = (
        list(sampler(wild, diffusion, x_T.shape, steps=8, x_T=x_T, seed=1, threshold=threshold))
        for threshold in (0.6, None)
    )
    free = next(sampler(wild, diffusion, x_T.shape, steps=8, x_T=x_T, seed=1, clip=False))
    np.testing.assert_allclose(dynamic[0].x0, thresholded(free.x0, 0.6), rtol=1e-12)
    assert all(np.abs(state.x0).max() <= 1 for state in dynamic)
    # Not in what is shown alone: the next image follows from it
    assert np.abs(dynamic[0].x - plain[0].x).max() > 1e-6
    assert np.abs(dynamic[-1].x - plain[-1].x).max() > 1e-3


def test_images_do_not_depend_on_those_beside_them():
    diffusion = Diffusion(Schedule.linear(200))
    few, many = (
        samplers.last(samplers.ddim(wild, diffusion, (n, 4, 4, 1), steps=6, seed=2, threshold=0.9)).x for n in (1, 9)
    )
    np.testing.assert_array_equal(few, many[:1])
