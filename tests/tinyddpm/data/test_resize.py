"""Padding and fitting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tinyddpm.data.resize import fit, pad, resize_images
from tinyddpm.errors import InputError


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 5), st.sampled_from([1, 3]))
def test_pad_centres_on_black(height, width, extra, channels):
    size = max(height, width) + extra
    images = np.random.default_rng(0).integers(1, 256, (2, height, width, channels), np.uint8)
    padded = pad(images, size)
    assert padded.shape == (2, size, size, channels)
    assert padded.dtype == np.uint8
    rows, columns = (np.flatnonzero(padded.any(axis=axes)) for axes in ((0, 2, 3), (0, 1, 3)))
    above, below = rows[0], size - 1 - rows[-1]
    left, right = columns[0], size - 1 - columns[-1]
    assert below - above in (0, 1)
    assert right - left in (0, 1)
    np.testing.assert_array_equal(padded[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], images)


def test_pad_refuses_to_shrink():
    with pytest.raises(InputError, match=r"image of 9x4 \(width x height\) .* image_size=8; .* at least 9"):
        pad(np.zeros((4, 9, 1), np.uint8), 8)


def test_fit_scales_the_short_side_and_crops_the_centre():
    # Three bands, 20 wide each: the centre crop of a 60 x 20 image is the middle one.
    bands = np.repeat(np.array([10, 120, 240], np.uint8), 20)
    fitted = np.asarray(fit(Image.fromarray(np.tile(bands, (20, 1))), 10))
    assert fitted.shape == (10, 10)
    assert np.abs(fitted[:, 1:-1].astype(int) - 120).max() <= 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [3, 9])
def test_resize_images_fits_each_image(channels, size):
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 5, channels), np.uint8)
    fitted = resize_images(images, size, "fit")
    assert fitted.shape == (3, size, size, channels)
    for one, image in zip(fitted, images, strict=True):
        expected = fit(Image.fromarray(image if channels == 3 else image[..., 0]), size)
        np.testing.assert_array_equal(one.squeeze(), np.asarray(expected))


def test_resize_images_pads_and_leaves_the_right_size_alone():
    images = np.full((2, 4, 4, 1), 7, np.uint8)
    np.testing.assert_array_equal(resize_images(images, 6, "pad"), pad(images, 6))
    for mode in ("pad", "fit"):
        assert resize_images(images, 4, mode) is images


@pytest.mark.parametrize(("size", "mode"), [((12, 10), "pad"), ((10, 6), "fit"), ((6, 10), "fit")])
def test_oblong(size: tuple[int, int], mode: str) -> None:
    images = np.full((2, 8, 8, 3), 200, np.uint8)
    found = resize_images(images, size, mode)
    assert found.shape == (2, *size, 3)
    assert (found == 200).all() == (mode == "fit")
    if mode == "pad":
        np.testing.assert_array_equal(found[:, 2:10, 1:9], images)
        assert found.sum() == images.sum()


def test_oblong_that_is_too_small_for_padding() -> None:
    with pytest.raises(InputError, match=r"cannot be padded to image_size=\(10, 6\); give image_size .* \(8, 8\), or"):
        resize_images(np.zeros((1, 8, 8, 1), np.uint8), (10, 6), "pad")
