"""The kernel distance (KID) between two sets of features: unbiased, whatever their counts."""

import math

import numpy as np

from tinyddpm.checks import LARGEST_SEED, check_whole
from tinyddpm.errors import InputError
from tinyddpm.evaluation.frechet import checked_features

SUBSETS = 10
LARGEST_SUBSET = 1000


def kernel_distance(
    first: np.ndarray, second: np.ndarray, subsets: int = SUBSETS, size: int | None = None, seed: int = 0
) -> tuple[float, float]:
    """The squared maximum mean discrepancy of features (N, D) and (M, D), and its standard error.

    The mean of `mmd` over `subsets` pairs of subsets of `size` images (Bińkowski et al. 2018, section 4), which share
    no image, so that their spread tells the error (the block test of Zaremba et al. 2013). size: by default as many as
    there are, up to 1000. Raises InputError for fewer than 2 images in each subset.
    """
    first, second = checked_features(first), checked_features(second)
    subsets, seed = check_whole("subsets", subsets, 2), check_whole("seed", seed, 0, LARGEST_SEED)
    most = min(len(first), len(second)) // subsets
    if most < 2:
        counts = f"{len(first)} and {len(second)}"
        raise InputError(f"{subsets} subsets need at least {2 * subsets} images on either side, got {counts}")
    size = min(most, LARGEST_SUBSET) if size is None else check_whole("size", size, 2, most)
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(len(features))[: subsets * size].reshape(subsets, size) for features in (first, second)]
    values = [mmd(first[a], second[b]) for a, b in zip(*chosen, strict=True)]
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(subsets))


def mmd(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate of the squared discrepancy of x (N, D) and y (M, D) (Gretton et al. 2012, eq. 3).

    Pairs of an image with itself do not count; the estimate may be negative.
    """
    n, m = len(x), len(y)
    within_x, within_y = kernel(x, x), kernel(y, y)
    return float(
        (within_x.sum() - np.trace(within_x)) / (n * (n - 1))
        + (within_y.sum() - np.trace(within_y)) / (m * (m - 1))
        - 2 * kernel(x, y).mean()
    )


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x·y / D + 1)^3 of every pair, (N, M) (Bińkowski et al. 2018, section 4)."""
    return (x @ y.T / x.shape[1] + 1) ** 3
