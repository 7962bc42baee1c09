"""The Fréchet distance between two sets of features, each taken as a Gaussian."""

import numpy as np

from tinyddpm.checks import told
from tinyddpm.errors import InputError


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """The squared Fréchet distance of the Gaussians that fit two sets of features (Heusel et al. 2017, eq. 6).

    first, second: (N, D) and (M, D). Biased upwards by about 1/N: compare at equal counts only (Chong & Forsyth 2020).
    Raises InputError for sets of other shapes, and for no more images than features, where a covariance is singular.
    """
    return frechet_between(*gaussian_of(first), *gaussian_of(second))


def gaussian_of(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and covariance (D, D), by N - 1, of features (N, D), in float64. Raises InputError unless N > D."""
    features = checked_features(features)
    n, dimensions = features.shape
    if n <= dimensions:
        raise InputError(
            f"a Fréchet distance in {dimensions} features needs at least {dimensions + 1} images, got {n}; draw more"
        )
    mean = features.mean(axis=0)
    centred = features - mean
    return mean, centred.T @ centred / (n - 1)


def frechet_between(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """|mean1 - mean2|^2 + tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2)) (Dowson & Landau 1982, eq. 4).

    means: (D,), covariances: (D, D), symmetric. The product's root has the trace of that of R cov2 R, R the root of
    cov1, which is symmetric: all is real, with no complex part to be dropped. Raises InputError for a covariance with a
    negative eigenvalue beyond rounding, and for dimensions that differ.
    """
    if not (mean1.shape == mean2.shape and cov1.shape == cov2.shape == mean1.shape * 2):
        raise InputError(f"Gaussians of different dimensions: {told(cov1)} and {told(cov2)}")
    root = symmetric_root(cov1)
    trace_of_root = np.trace(symmetric_root(root @ cov2 @ root))
    difference = mean1 - mean2
    distance = difference @ difference + np.trace(cov1) + np.trace(cov2) - 2 * trace_of_root
    # Rounding may leave less than nothing where the Gaussians are equal
    return max(float(distance), 0.0)


def symmetric_root(matrix: np.ndarray) -> np.ndarray:
    """The root of a symmetric (D, D) without negative eigenvalues. Raises InputError for others."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    if values[0] < -1e-8 * max(values[-1], 0) or values[-1] < 0:
        raise InputError(f"a covariance has no negative eigenvalue, got {values[0]:g} beside {values[-1]:g}")
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def checked_features(features: np.ndarray) -> np.ndarray:
    """features as float64. Raises InputError unless they are finite numbers of shape (N, D), with N at least 1."""
    if not isinstance(features, np.ndarray) or features.ndim != 2 or features.dtype.kind != "f" or not features.size:
        raise InputError(f"features must be floating-point numbers of shape (N, D), got {told(features)}")
    if not np.isfinite(features).all():
        raise InputError("features must be finite numbers, got NaN or infinity among them")
    return features.astype(np.float64)
