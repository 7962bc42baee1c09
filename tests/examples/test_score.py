"""The score and Langevin's sampler of the examples against closed forms, the toy's gradients by complex step."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np

import backends
from tinyddpm.diffusion.mixture import three_blobs
from tinyddpm.diffusion.schedules import Schedule


def example(name: str) -> ModuleType:
    """The example's module, its main part not run."""
    path = Path(__file__).parents[2] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LANGEVIN = example("09_score_and_langevin")
TOY = example("08_points_and_arrows")


def test_score_is_the_gradient_of_the_log_density_of_z():
    blobs, schedule = three_blobs(), Schedule.linear(1000)
    z = np.random.default_rng(0).standard_normal((5, 2, 2, 1))
    for i in (10, 300, 999):
        seen = LANGEVIN.score(blobs.model(schedule), schedule, z, i).reshape(5, -1)
        # z = x / sqrt(alpha_bar) is the data blurred by sigma: its density by central differences
        root, ab = schedule.sqrt_alpha_bars[i], schedule.alpha_bars[i]
        for axis, step in enumerate(1e-5 * np.eye(4).reshape(4, 2, 2, 1)):
            above, below = (blobs.log_density(root * (z + sign * step), ab) for sign in (1, -1))
            np.testing.assert_allclose(seen[:, axis], (above - below) / 2e-5, rtol=1e-5, atol=1e-7)


def test_langevin_gives_mean_and_covariance_of_the_mixture():
    blobs, schedule, n = three_blobs(), Schedule.cosine(1000), 4000
    indices = LANGEVIN.levels(schedule, 40, largest=20.0)
    assert np.all(np.diff(indices) <= 0)
    assert indices[-1] == 0
    z = 20 * np.random.default_rng(1).standard_normal((n, 2, 2, 1))
    rows = LANGEVIN.langevin(blobs.model(schedule), schedule, z, indices, updates=20, step=0.2).reshape(n, -1)
    # Steps of finite length and as many updates leave a little of the start: about a hundredth, seen
    np.testing.assert_allclose(rows.mean(axis=0), blobs.mean, rtol=0, atol=0.03)
    np.testing.assert_allclose(np.cov(rows.T), blobs.covariance, rtol=0, atol=0.02)


def test_the_toys_backward_is_exact():
    model = TOY.MLP(TOY.Sizes(width=8), backend=backends.get("numpy"), dtype="float64")
    rng = np.random.default_rng(3)
    model.params[...] = 0.5 * rng.standard_normal(model.params.shape)
    x, t, cotangent = rng.standard_normal((6, 1, 1, 2)), np.arange(6) * 100, rng.standard_normal((6, 1, 1, 2))
    tape = []
    model(x, t, tape=tape)
    dx = model.backward(cotangent, tape)
    assert tape == []
    direction, along = rng.standard_normal(x.shape), rng.standard_normal(model.params.shape)
    h = 1e-30
    moved = TOY.MLP(model.config, backend=model.backend, params=model.params + 1j * h * along)
    seen = np.sum(moved.forward(x + 1j * h * direction, t, None, None, None).imag * cotangent) / h
    expected = np.sum(dx * direction) + np.sum(model.grads * along)
    np.testing.assert_allclose(seen, expected, rtol=1e-10)
