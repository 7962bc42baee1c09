"""Precision and recall against plain loops and by hand, and the training images nearest to samples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyddpm.errors import InputError
from tinyddpm.evaluation import precision_recall
from tinyddpm.evaluation.nearest_images import beside_nearest, nearest_images
from tinyddpm.evaluation.precision_recall import precision_and_recall

seeds = st.integers(0, 2**32 - 1)


def share_inside(points: np.ndarray, manifold: np.ndarray, k: int) -> float:
    """Equation 1 of Kynkäänniemi et al., one pair of points at a time."""
    reach = []
    for i, a in enumerate(manifold):
        others = sorted(np.linalg.norm(a - b) for j, b in enumerate(manifold) if j != i)
        reach.append(others[k - 1])
    return float(
        np.mean([any(np.linalg.norm(p - m) <= r for m, r in zip(manifold, reach, strict=True)) for p in points])
    )


@pytest.mark.equation("Kynkäänniemi et al. 2019, eq. 1", "Kynkäänniemi et al. 2019, eq. 2")
@given(seed=seeds, n=st.integers(5, 14), m=st.integers(5, 14), k=st.integers(1, 4), block=st.sampled_from([3, 1000]))
@settings(max_examples=40, deadline=None)
def test_they_equal_the_loops(seed: int, n: int, m: int, k: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    real, samples = rng.standard_normal((n, 3)), 0.8 * rng.standard_normal((m, 3)) + 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision_recall, "BLOCK", block)
        found = precision_and_recall(real, samples, k)
    assert found == (share_inside(samples, real, k), share_inside(real, samples, k))


def test_by_hand() -> None:
    """On a line. Each real one's nearest other is 1 away, so that the balls cover 0 … 4 and 8 … 11."""
    real = np.array([[1.0], [2.0], [3.0], [9.0], [10.0]])
    samples = np.array([[0.0], [4.0], [4.1], [11.0]])
    precision, recall = precision_and_recall(real, samples, k=1)
    assert precision == 3 / 4
    # The balls of the samples: 0 ± 4, 4 ± 0.1, 4.1 ± 0.1, 11 ± 6.9
    assert recall == 1


def test_good_samples_of_one_kind_are_precise_and_recall_little() -> None:
    rng = np.random.default_rng(0)
    real = np.concatenate([rng.standard_normal((200, 2)) + centre for centre in ([0, 0], [20, 0], [0, 20], [20, 20])])
    samples = rng.standard_normal((200, 2))
    precision, recall = precision_and_recall(real, samples)
    assert precision > 0.9
    assert 0.2 < recall < 0.26
    assert precision_and_recall(samples, real) == (recall, precision)


def test_of_the_same_images_both_are_one() -> None:
    points = np.random.default_rng(0).standard_normal((50, 4))
    assert precision_and_recall(points, points.copy()) == (1, 1)


def test_a_point_is_not_its_own_neighbour() -> None:
    """Else the first ball of each would reach nowhere, and no sample would be in one."""
    real, samples = np.array([[0.0], [2.0], [4.0]]), np.array([[1.0], [3.0], [5.0]])
    assert precision_and_recall(real, samples, k=1) == (1, 1)


def test_too_few_for_a_neighbour() -> None:
    with pytest.raises(InputError, match="a 3-th neighbour needs at least 4 images, got 9 and 3"):
        precision_and_recall(np.zeros((9, 2)), np.zeros((3, 2)))


# --- the nearest training images ---


def bytes_of(seed: int, count: int, side: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 1)).astype(np.uint8)


@pytest.mark.parametrize("count", [1, 3])
def test_nearest_images_are_the_nearest(count: int) -> None:
    samples, training = bytes_of(0, 5), bytes_of(1, 5000)
    indices, distances = nearest_images(samples, training, count)
    assert indices.shape == distances.shape == (5, count)
    for sample, found, at in zip(samples, indices, distances, strict=True):
        all_of_them = np.sqrt(np.mean((training.astype(float) - sample) ** 2, axis=(1, 2, 3)))
        np.testing.assert_array_equal(found, np.argsort(all_of_them, kind="stable")[:count])
        np.testing.assert_allclose(at, np.sort(all_of_them)[:count], rtol=1e-12)


def test_a_copy_is_at_zero() -> None:
    training = bytes_of(1, 4500, side=28)
    indices, distances = nearest_images(training[[4321, 7]], training)
    np.testing.assert_array_equal(indices, [[4321], [7]])
    assert (distances == 0).all()


def test_samples_beside_their_nearest() -> None:
    samples, training = bytes_of(0, 2), bytes_of(1, 9)
    shown = beside_nearest(samples, training, np.array([[3, 4], [0, 8]]))
    np.testing.assert_array_equal(shown, [samples[0], training[3], training[4], samples[1], training[0], training[8]])


@pytest.mark.parametrize(
    ("samples", "training", "count", "words"),
    [
        (bytes_of(0, 2) / 255, bytes_of(1, 3), 1, "samples must be uint8"),
        (bytes_of(0, 2), bytes_of(1, 3, side=4), 1, "training must be uint8 .* one size for both"),
        (bytes_of(0, 2), bytes_of(1, 3), 4, "1 … 3"),
        (bytes_of(0, 2)[:0], bytes_of(1, 3), 1, "samples"),
    ],
)
def test_what_has_no_nearest_images(samples: np.ndarray, training: np.ndarray, count: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        nearest_images(samples, training, count)
