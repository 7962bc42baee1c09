"""Precision and recall of samples: are they like real images, and is everything real among them?"""

from collections.abc import Iterator

import numpy as np

from tinyddpm.checks import check_whole
from tinyddpm.errors import InputError
from tinyddpm.evaluation.frechet import checked_features

NEIGHBOURS = 3
BLOCK = 1000


def precision_and_recall(real: np.ndarray, samples: np.ndarray, k: int = NEIGHBOURS) -> tuple[float, float]:
    """The share of samples on the manifold of real images, and of real images on that of samples.

    real: features (N, D), samples: (M, D). A manifold is the union of balls around its images, each reaching to the
    k-th nearest other one (Kynkäänniemi et al. 2019, eq. 1 and 2). Both depend on N and M: compare at equal counts
    only. Raises InputError for no more than k images.
    """
    real, samples = checked_features(real), checked_features(samples)
    k = check_whole("k", k)
    if min(len(real), len(samples)) <= k:
        raise InputError(f"a {k}-th neighbour needs at least {k + 1} images, got {len(real)} and {len(samples)}")
    return inside(samples, real, k), inside(real, samples, k)


def inside(points: np.ndarray, manifold: np.ndarray, k: int) -> float:
    """The share of points that lie in a ball of the manifold."""
    reach = radii(manifold, k)
    return float(np.concatenate([(d <= reach).any(axis=1) for _, d in squared_distances(points, manifold)]).mean())


def radii(points: np.ndarray, k: int) -> np.ndarray:
    """The squared distance of each point to its k-th nearest other one."""
    reach = []
    for first, distances in squared_distances(points, points):
        rows = np.arange(len(distances))
        distances[rows, first + rows] = np.inf  # a point is not its own neighbour
        reach.append(np.partition(distances, k - 1, axis=1)[:, k - 1])
    return np.concatenate(reach)


def squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Squared distances of every a (N, D) to every b (M, D), block by block of a, with the number of its first row."""
    squares = (b * b).sum(axis=1)
    for first in range(0, len(a), BLOCK):
        block = a[first : first + BLOCK]
        yield first, (block * block).sum(axis=1)[:, None] + squares - 2 * (block @ b.T)
