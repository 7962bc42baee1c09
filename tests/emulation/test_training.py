"""A network on the stand-in: its loss and every gradient are those of the NumPy backend."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import backends
from benchmarks.workloads import TINY
from tests.emulation.compiler import missing
from tests.emulation.device import cupy_backend
from tests.emulation.launch import statistics
from tinyddpm import Diffusion, Schedule, UNet

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

CONFIG = replace(TINY, num_heads=2, groups=4)


def loss_and_gradients(backend: Any) -> tuple[float, np.ndarray]:
    model = UNet(CONFIG, backend, seed=1)
    x0 = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 1)).astype(np.float32)
    loss = Diffusion(Schedule.linear(100)).training_step(model, x0, step=3)
    return float(loss), np.array(backend.to_numpy(model.grads))


def test_a_training_step() -> None:
    loss, gradients = loss_and_gradients(backends.get("numpy"))
    statistics()
    with cupy_backend(precision="fp32") as backend:
        found, ours = loss_and_gradients(backend)
    assert statistics()["blocks"] > 0
    assert found == pytest.approx(loss, rel=1e-5)
    assert np.linalg.norm(ours - gradients) <= 1e-5 * np.linalg.norm(gradients)
