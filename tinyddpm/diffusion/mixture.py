"""Exact answers for data drawn from a mixture of Gaussians: a perfect network without training.

If x_0 is a mixture of N(mu_k, Sigma_k), then x_t = sqrt(ab) x_0 + sqrt(1 - ab) eps is a mixture of
N(sqrt(ab) mu_k, S_k), S_k = ab Sigma_k + (1 - ab) I, with the same weights, and all that a perfect network
would have learnt is a closed formula. Images are (N, H, W, C) with H W C = D; ab is alpha_bar, one number
or one for each image, (N,). All is computed in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp
from scipy.special import logsumexp, softmax

from tinyddpm.checks import check_choice
from tinyddpm.diffusion.process import PREDICTIONS
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import InputError

Model = Callable[..., np.ndarray]


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """weights: (K,) summing to 1; means: (K, D); covariances: (K, D, D); image_shape: (H, W, C), H W C = D.

    Raises InputError for other shapes, and for weights that do not sum to 1.
    """

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    image_shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        K, D = np.size(self.weights), int(np.prod(self.image_shape))
        shapes = tuple(np.shape(array) for array in (self.weights, self.means, self.covariances))
        if shapes != ((K,), (K, D), (K, D, D)):
            raise InputError(
                f"a mixture of images {self.image_shape} needs weights, means and covariances of shapes (K,), (K, {D}) "
                f"and (K, {D}, {D}), got {', '.join(map(str, shapes))}"
            )
        if not np.isclose(np.sum(self.weights), 1):
            raise InputError(f"weights of a mixture must sum to 1, got {np.sum(self.weights):g}")

    # The data

    @property
    def mean(self) -> np.ndarray:
        """(D,), of the whole mixture."""
        return self.weights @ self.means

    @property
    def covariance(self) -> np.ndarray:
        """(D, D), of the whole mixture: within the components and between them."""
        apart = self.means - self.mean
        return np.einsum("k,kij->ij", self.weights, self.covariances) + (self.weights * apart.T) @ apart

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """(n, H, W, C) images."""
        chosen = rng.choice(self.weights.size, n, p=self.weights)
        roots = np.linalg.cholesky(self.covariances)
        noise = rng.standard_normal((n, self.means.shape[1]))
        return (self.means[chosen] + np.einsum("nij,nj->ni", roots[chosen], noise)).reshape(n, *self.image_shape)

    def marginal(self, ab: float) -> "GaussianMixture":
        """The distribution of x_t."""
        identity = np.eye(self.means.shape[1])
        covariances = ab * self.covariances + (1 - ab) * identity
        return GaussianMixture(self.weights, ab**0.5 * self.means, covariances, self.image_shape)

    # What depends on x_t

    @cached_property
    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues (K, D) and eigenvectors (K, D, D) of the covariances: those of S_k have the same vectors."""
        return np.linalg.eigh(self.covariances)

    def along_axes(self, x: np.ndarray, ab: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """For each component x_t - sqrt(ab) mu along the axes, (N, D), and its variance there, (D,) or (N, D)."""
        rows, ab = self.flat(x, ab)
        values, axes = self.axes
        z = [(rows - np.sqrt(ab) * mu) @ vectors for mu, vectors in zip(self.means, axes, strict=True)]
        return z, [ab * value + (1 - ab) for value in values]

    def log_joint(self, x: np.ndarray, ab: Any) -> np.ndarray:
        """(N, K): log of weight times density of x_t, for each component."""
        columns = []
        for weight, z, variance in zip(self.weights, *self.along_axes(x, ab), strict=True):
            squares = np.einsum("nd,nd->n", z, z / variance)
            columns.append(np.log(weight) - 0.5 * (squares + np.sum(np.log(2 * np.pi * variance), axis=-1)))
        return np.stack(columns, axis=-1)

    def log_density(self, x: np.ndarray, ab: Any) -> np.ndarray:
        """(N,): log density of x_t."""
        return logsumexp(self.log_joint(x, ab), axis=-1)

    def responsibilities(self, x: np.ndarray, ab: Any) -> np.ndarray:
        """(N, K): the probability that x_t came from each component."""
        return softmax(self.log_joint(x, ab), axis=-1)

    def x0(self, x: np.ndarray, ab: Any) -> np.ndarray:
        """E[x_0 | x_t]: of each component mu + sqrt(ab) Sigma S^-1 (x_t - sqrt(ab) mu), by responsibility."""
        shares, (_, ab_) = self.responsibilities(x, ab), self.flat(x, ab)
        total = shares @ self.means
        for k, (z, variance) in enumerate(zip(*self.along_axes(x, ab), strict=True)):
            values, vectors = (table[k] for table in self.axes)
            total += shares[:, k, None] * ((np.sqrt(ab_) * values / variance * z) @ vectors.T)
        return total.reshape(x.shape)

    def score(self, x: np.ndarray, ab: Any) -> np.ndarray:
        """Gradient of the log density: of each component -S^-1 (x_t - sqrt(ab) mu), by responsibility."""
        shares = self.responsibilities(x, ab)
        total = np.zeros((len(x), self.means.shape[1]))
        for k, (z, variance) in enumerate(zip(*self.along_axes(x, ab), strict=True)):
            total -= shares[:, k, None] * ((z / variance) @ self.axes[1][k].T)
        return total.reshape(x.shape)

    def eps(self, x: np.ndarray, ab: Any) -> np.ndarray:
        """E[eps | x_t] = -sqrt(1 - ab) score (Song et al. 2021, "Score-based generative modeling", section 3.1)."""
        return -np.sqrt(1 - self.as_image(ab)) * self.score(x, ab)

    def v(self, x: np.ndarray, ab: Any) -> np.ndarray:
        """E[v | x_t], v = sqrt(ab) eps - sqrt(1 - ab) x_0 (Salimans & Ho 2022, section 4)."""
        signal = self.as_image(ab)
        return np.sqrt(signal) * self.eps(x, ab) - np.sqrt(1 - signal) * self.x0(x, ab)

    # A perfect network and a perfect sampler

    def model(self, schedule: Schedule, prediction: str = "eps") -> Model:
        """model(x, t, labels=None) that predicts exactly; t are the schedule's timesteps 0 … T-1.

        Raises InputError for a prediction other than "eps", "x0" and "v".
        """
        check_choice("prediction", prediction, PREDICTIONS)
        exact = {"eps": self.eps, "x0": self.x0, "v": self.v}[prediction]

        def predict(x: np.ndarray, t: Any, labels: Any = None) -> np.ndarray:
            return exact(x, schedule.alpha_bars[np.asarray(t)]).astype(x.dtype)

        return predict

    def flow(self, x: np.ndarray, ab: float) -> np.ndarray:
        """The end x_0 of the probability flow that passes x_t at ab, by an integrator of order 8.

        With sqrt(ab) = cos(phi), sqrt(1 - ab) = sin(phi), the flow is dx / dphi = v (Salimans & Ho 2022,
        appendix D), smooth down to phi = 0.
        """

        def slope(phi: float, rows: np.ndarray) -> np.ndarray:
            return self.v(rows.reshape(x.shape), np.cos(phi) ** 2).reshape(-1)

        start = np.arccos(ab**0.5)
        solved = solve_ivp(slope, (start, 0.0), x.reshape(-1), method="DOP853", rtol=1e-10, atol=1e-12)
        return solved.y[:, -1].reshape(x.shape)

    # Shapes

    def flat(self, x: np.ndarray, ab: Any) -> tuple[np.ndarray, Any]:
        """x as (N, D) in float64, ab as a number or (N, 1)."""
        ab = np.asarray(ab, np.float64)
        return np.asarray(x, np.float64).reshape(len(x), -1), ab[:, None] if ab.ndim else ab

    def as_image(self, ab: Any) -> np.ndarray:
        """ab as a number or (N, 1, 1, 1)."""
        ab = np.asarray(ab, np.float64)
        return ab.reshape(-1, 1, 1, 1) if ab.ndim else ab


def three_blobs() -> GaussianMixture:
    """Images of 2x2 pixels from three well separated Gaussians with correlated pixels, inside [-1, 1]."""
    rng = np.random.default_rng(5)
    roots = rng.uniform(-0.1, 0.1, (3, 4, 4))
    means = np.array([[0.5, 0.4, -0.5, 0.1], [-0.5, 0.3, 0.4, -0.4], [0.0, -0.5, 0.1, 0.5]])
    covariances = roots @ roots.transpose(0, 2, 1) + 0.005 * np.eye(4)
    return GaussianMixture(np.array([0.5, 0.3, 0.2]), means, covariances, (2, 2, 1))
