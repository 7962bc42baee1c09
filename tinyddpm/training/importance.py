"""Timesteps drawn by how much they weigh in the bound: importance sampling from the losses seen so far."""

import numpy as np

# Losses of each timestep that are remembered, and the share of draws that stays uniform
REMEMBERED = 10
UNIFORM_SHARE = 0.001


class Importance:
    """p_t proportional to sqrt(E[L_t^2]) (Nichol & Dhariwal 2021, eq. 18), from the last ten losses of each timestep.

    losses: (T, 10) float64, the latest last; counts: (T,) int64, how many of them there are. Until every timestep has
    its ten, all chances are equal. Raises ValueError for arrays of other shapes.
    """

    def __init__(self, T: int, losses: np.ndarray | None = None, counts: np.ndarray | None = None) -> None:
        self.losses = np.zeros((T, REMEMBERED)) if losses is None else np.array(losses, np.float64)
        self.counts = np.zeros(T, np.int64) if counts is None else np.array(counts, np.int64)
        if self.losses.shape != (T, REMEMBERED) or self.counts.shape != (T,):
            raise ValueError(f"losses are ({T}, {REMEMBERED}) and counts ({T},), got {self.losses.shape}")

    def chances(self) -> np.ndarray:
        """(T,) float64, their sum 1; a thousandth is uniform, so that none is ever 0."""
        T = len(self.counts)
        if np.any(self.counts < REMEMBERED):
            return np.full(T, 1.0 / T)
        weights = np.sqrt(np.mean(self.losses**2, axis=1))
        return (1.0 - UNIFORM_SHARE) * weights / np.sum(weights) + UNIFORM_SHARE / T

    def note(self, t: np.ndarray, losses: np.ndarray) -> None:
        """Remembers each image's term L_t at its timestep t, both (N,), in their order."""
        for index, loss in zip(t, losses, strict=True):
            self.losses[index] = np.append(self.losses[index, 1:], loss)
            self.counts[index] = min(self.counts[index] + 1, REMEMBERED)
