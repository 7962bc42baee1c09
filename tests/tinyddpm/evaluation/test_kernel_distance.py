"""The kernel distance against plain loops, and that it is unbiased."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyddpm.errors import InputError
from tinyddpm.evaluation import kernel_distance as module
from tinyddpm.evaluation.kernel_distance import kernel_distance, mmd

seeds = st.integers(0, 2**32 - 1)


def by_loops(x: np.ndarray, y: np.ndarray) -> float:
    """Means of the kernel over all pairs of different images, one pair at a time."""

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3)

    within = [np.mean([kernel(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]) for z in (x, y)]
    return float(sum(within) - 2 * np.mean([kernel(a, b) for a in x for b in y]))


@pytest.mark.equation("Gretton et al. 2012, eq. 3")
@given(seed=seeds, n=st.integers(2, 7), m=st.integers(2, 7), dimensions=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_it_equals_the_loops(seed: int, n: int, m: int, dimensions: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, dimensions)), 0.5 * rng.standard_normal((m, dimensions)) + 1
    assert mmd(x, y) == pytest.approx(by_loops(x, y), rel=1e-10, abs=1e-12)


def test_by_hand() -> None:
    """In one dimension, of 1, -1 against 0, 1: kernels 0 within the first, 1 within the second, 1, 8, 1, 0 between."""
    assert mmd(np.array([[1.0], [-1.0]]), np.array([[0.0], [1.0]])) == pytest.approx(0 + 1 - 2 * 10 / 4)


def test_it_is_unbiased() -> None:
    """From the same distribution it is zero on the average, from ten images as from a hundred."""
    rng = np.random.default_rng(0)
    for count, repeats in ((10, 4000), (100, 200)):
        values = [mmd(*rng.standard_normal((2, count, 3))) for _ in range(repeats)]
        error = np.std(values) / np.sqrt(repeats)
        assert abs(np.mean(values)) < 4 * error
        # With images paired with themselves, it would be about this much
        assert 8 / count > 10 * error


def test_the_standard_error_is_that_of_repetitions() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 60, 400, 3))
    found = [kernel_distance(a, b, subsets=8, size=40) for a, b in zip(x, y, strict=True)]
    spread = np.std([value for value, _ in found])
    assert np.mean([error for _, error in found]) == pytest.approx(spread, rel=0.25)


def test_subsets_share_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def noted(x: np.ndarray, y: np.ndarray) -> float:
        seen.append((x, y))
        return float(len(seen))

    monkeypatch.setattr(module, "mmd", noted)
    x, y = np.arange(47.0)[:, None], np.arange(100.0, 133.0)[:, None]
    value, error = kernel_distance(x, y, subsets=4)
    assert (value, error) == pytest.approx((2.5, np.std([1, 2, 3, 4], ddof=1) / 2))
    for side, pool in ((0, x), (1, y)):
        chosen = np.concatenate([pair[side] for pair in seen])
        assert len(np.unique(chosen)) == len(chosen) == 4 * 8
        assert np.isin(chosen, pool).all()
        assert not np.array_equal(chosen, np.sort(chosen, axis=0)), "not at random"
    kernel_distance(x, y, subsets=4, size=5)
    assert len(seen[-1][0]) == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"subsets": 11}, "11 subsets need at least 22 images on either side, got 20 and 30"),
        ({"subsets": 1}, "got 1"),
        ({"size": 3}, "size must be a whole number in 2 … 2"),
        ({"seed": -1}, "seed"),
    ],
)
def test_too_few(options: dict[str, int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        kernel_distance(np.zeros((20, 2)), np.zeros((30, 2)), **options)
