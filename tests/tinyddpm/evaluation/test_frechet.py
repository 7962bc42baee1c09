"""The Fréchet distance against SciPy's matrix root, closed forms, and what it does not depend on."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyddpm.errors import InputError
from tinyddpm.evaluation.frechet import frechet_between, frechet_distance, gaussian_of

seeds = st.integers(0, 2**32 - 1)


def features(seed: int, count: int, dimensions: int) -> np.ndarray:
    """Correlated numbers around a mean of their own."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, dimensions)) @ rng.standard_normal((dimensions, dimensions)) + rng.normal(size=1)


def independent(a: np.ndarray, b: np.ndarray) -> float:
    """The formula as others compute it: NumPy's covariance, SciPy's root of the product."""
    root = scipy.linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False))
    assert abs(root.imag).max() < 1e-6 * abs(root).max()
    difference = a.mean(axis=0) - b.mean(axis=0)
    return float(difference @ difference + np.trace(np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * root.real))


@pytest.mark.equation("Dowson & Landau 1982, eq. 4", "Heusel et al. 2017, eq. 6")
@given(seed=seeds, dimensions=st.integers(2, 24), more=st.tuples(st.integers(1, 60), st.integers(1, 60)))
@settings(max_examples=30, deadline=None)
def test_it_equals_scipys(seed: int, dimensions: int, more: tuple[int, int]) -> None:
    a, b = (
        features(seed, 3 * dimensions + more[0], dimensions),
        features(seed + 1, 3 * dimensions + more[1], dimensions),
    )
    assert frechet_distance(a, b) == pytest.approx(independent(a, b), rel=1e-8)


def test_the_covariance_is_by_n_less_one() -> None:
    mean, covariance = gaussian_of(np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0]]))
    np.testing.assert_allclose(mean, [1, 1])
    np.testing.assert_allclose(covariance, [[1, 0], [0, 3]])


def test_gaussians_that_share_their_axes() -> None:
    """|mean1 - mean2|^2 + sum (sd1 - sd2)^2, turned by any rotation."""
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.standard_normal((4, 4)))
    first, second = rng.uniform(0.1, 3, (2, 4))
    covariances = [(turn * sd**2) @ turn.T for sd in (first, second)]
    exact = 25 + np.sum((first - second) ** 2)
    found = frechet_between(np.zeros(4), covariances[0], turn @ [3, 0, 4, 0], covariances[1])
    assert found == pytest.approx(exact, rel=1e-12)


def test_singular_gaussians() -> None:
    """Two lines at an angle: tr of the root of the product is their cosine times both deviations."""
    angle = 0.7
    lines = [np.outer(v, v) for v in ([2.0, 0.0], [3 * np.cos(angle), 3 * np.sin(angle)])]
    zero = np.zeros(2)
    assert frechet_between(zero, lines[0], zero, lines[1]) == pytest.approx(4 + 9 - 2 * 6 * np.cos(angle), rel=1e-7)
    assert frechet_between(zero, np.diag([1.0, 0.0]), zero, np.diag([0.0, 1.0])) == pytest.approx(2)


@given(seed=seeds, dimensions=st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_what_it_does_not_depend_on(seed: int, dimensions: int) -> None:
    """Who is first, the order of images, a rotation and a shift of both; a factor comes out squared."""
    rng = np.random.default_rng(seed)
    a, b = features(seed, 30, dimensions), features(seed + 1, 25, dimensions)
    distance = frechet_distance(a, b)
    turn, _ = np.linalg.qr(rng.standard_normal((dimensions, dimensions)))
    shift = rng.standard_normal(dimensions)
    for x, y in ((b, a), (rng.permutation(a), rng.permutation(b)), (a @ turn + shift, b @ turn + shift)):
        assert frechet_distance(x, y) == pytest.approx(distance, rel=1e-8)
    assert frechet_distance(3 * a, 3 * b) == pytest.approx(9 * distance, rel=1e-8)
    assert 0 <= frechet_distance(a, a) < 1e-8 * np.trace(np.cov(a, rowvar=False).reshape(dimensions, dimensions))
    assert frechet_distance(a, a + shift) == pytest.approx(shift @ shift, rel=1e-6)


def test_fewer_images_than_features() -> None:
    for few in (4, 5):
        with pytest.raises(InputError, match=f"in 5 features needs at least 6 images, got {few}; draw more"):
            frechet_distance(features(0, few, 5), features(1, 20, 5))
        with pytest.raises(InputError, match=f"got {few}"):
            frechet_distance(features(0, 20, 5), features(1, few, 5))
    assert frechet_distance(features(0, 6, 5), features(1, 6, 5)) > 0


def test_a_product_without_a_real_root() -> None:
    """Others drop the imaginary part of such a root unseen."""
    zero, no_covariance = np.zeros(2), np.diag([1.0, -0.01])
    for first, second in ((no_covariance, np.eye(2)), (np.eye(2), no_covariance)):
        with pytest.raises(InputError, match=r"no negative eigenvalue, got -0\.01 beside 1"):
            frechet_between(zero, first, zero, second)


@pytest.mark.parametrize(
    "wrong", [np.zeros((3, 2, 2)), np.zeros((3, 2), int), np.zeros((0, 2)), np.full((5, 2), np.nan), [[1.0]]]
)
def test_what_are_no_features(wrong: object) -> None:
    with pytest.raises(InputError, match="features must be"):
        frechet_distance(wrong, features(0, 9, 2))  # type: ignore[arg-type]


def test_gaussians_of_different_dimensions() -> None:
    with pytest.raises(InputError, match="different dimensions"):
        frechet_between(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3))
    with pytest.raises(InputError, match="different dimensions"):
        frechet_distance(features(0, 9, 2), features(0, 9, 3))
