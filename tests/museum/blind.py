"""Weak checks, as other projects have them: right code passes, and so does the mistake that each one misses.

They are no tests of the suite. The museum shows with them that a mistake is one that such checks let pass.
"""

from typing import Any

import numpy as np

import backends
from backends.ops.normalization import group_norm, group_norm_backward
from tinyddpm.networks.simple_unet import SimpleUNet, SimpleUNetConfig

BACKEND = backends.get("numpy")


def group_norm_gradient_defect(gamma: np.ndarray, beta: np.ndarray, dy: np.ndarray) -> float:
    """Largest difference between dx and central differences of <y, dy>."""
    x, h = np.random.default_rng(0).standard_normal(dy.shape), 1e-6
    dx, _, _ = group_norm_backward(np, dy, group_norm(np, x, gamma, beta, 2)[1])
    numerical = np.zeros_like(x)
    for place in np.ndindex(*x.shape):
        ahead, behind = x.copy(), x.copy()
        ahead[place] += h
        behind[place] -= h
        difference = group_norm(np, ahead, gamma, beta, 2)[0] - group_norm(np, behind, gamma, beta, 2)[0]
        numerical[place] = np.sum(difference * dy) / (2 * h)
    return float(np.abs(dx - numerical).max())


def cotangent_of_ones() -> None:
    assert group_norm_gradient_defect(np.ones(4), np.zeros(4), np.ones((2, 2, 3, 4))) < 1e-6


def group_norm_gradient_at_its_initial_parameters() -> None:
    dy = np.random.default_rng(1).standard_normal((2, 2, 3, 4))
    assert group_norm_gradient_defect(np.ones(4), np.zeros(4), dy) < 1e-6


def linear_gradients() -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """(gradients, their right values) of a linear map, from random arrays."""
    rng = np.random.default_rng(2)
    x, weight, dy = rng.standard_normal((5, 3)), rng.standard_normal((3, 4)), rng.standard_normal((5, 4))
    _, ctx = BACKEND.linear(x, weight, np.zeros(4))
    return BACKEND.linear_backward(dy, ctx), (dy @ weight.T, x.T @ dy, dy.sum(axis=0))


def shapes_only() -> None:
    for gradient, expected in zip(*linear_gradients(), strict=True):
        assert gradient.shape == expected.shape


def signed_sum() -> None:
    for gradient, expected in zip(*linear_gradients(), strict=True):
        assert abs(np.sum(gradient - expected)) < 1e-10


def backward_runs_and_something_learns() -> None:
    config = SimpleUNetConfig(image_size=4, base_channels=4, channel_mults=(1, 2), groups=2)
    model = SimpleUNet(config, backend=BACKEND)
    model.params[...] = np.random.default_rng(3).standard_normal(model.params.shape)
    tape: list[Any] = []
    y = model(np.ones((1, 4, 4, 1), np.float32), 0, tape=tape)
    model.backward(y, tape)
    assert np.any(model.grads != 0)
