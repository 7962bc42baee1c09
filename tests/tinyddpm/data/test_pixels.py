"""Pixel values between bytes and [-1, 1], grey and colour."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from tinyddpm.data import to_uint8, to_unit
from tinyddpm.data.pixels import to_colour, to_grey
from tinyddpm.errors import InputError

BYTES = np.arange(256, dtype=np.uint8)


def test_round_trip_is_exact_for_every_byte():
    x = to_unit(BYTES)
    assert x.dtype == np.float32
    for dtype in (np.float32, np.float64):
        back = to_uint8(x.astype(dtype))
        assert back.dtype == np.uint8
        np.testing.assert_array_equal(back, BYTES)


def test_range_and_spacing():
    x = to_unit(BYTES)
    assert x[0] == -1
    assert x[255] == 1
    np.testing.assert_allclose(x, np.linspace(-1, 1, 256), atol=1e-7)


@settings(deadline=None)
@given(hnp.arrays(np.float32, hnp.array_shapes(max_side=5), elements=st.floats(-1, 1, width=32)))
def test_rounds_to_the_nearest_byte(x):
    back = to_uint8(x)
    assert back.shape == x.shape
    assert np.abs(to_unit(back).astype(np.float64) - x).max() <= 1 / 255 + 1e-6


def test_clips():
    x = np.array([-np.inf, -7, -1.0001, 1.0001, 3, np.inf])
    assert to_uint8(x).tolist() == [0, 0, 0, 255, 255, 255]


def test_refuses():
    with pytest.raises(InputError, match="images are float64; to_unit takes uint8"):
        to_unit(np.zeros(3))
    with pytest.raises(InputError, match="x is uint8"):
        to_uint8(BYTES)
    with pytest.raises(InputError, match="x has 2 NaN among its 3 values"):
        to_uint8(np.array([0, np.nan, np.nan]))


def test_grey_is_pillows_luma():
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), np.uint8)
    grey = to_grey(images)
    assert grey.shape == (3, 4, 5, 1)
    for one, image in zip(grey, images, strict=True):
        np.testing.assert_array_equal(one[..., 0], np.asarray(Image.fromarray(image).convert("L")))


def test_colour_of_grey_and_back():
    grey = BYTES.reshape(4, 8, 8, 1)
    colour = to_colour(grey)
    assert colour.shape == (4, 8, 8, 3)
    assert (colour == grey).all()
    np.testing.assert_array_equal(to_grey(colour), grey)
