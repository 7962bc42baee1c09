"""Learned variances and weighted losses on the stand-in: steps replayed from a graph are NumPy's."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import backends
from backends import CupyBackend
from tests.emulation.compiler import missing
from tests.emulation.device import cupy_backend
from tests.emulation.test_training import CONFIG, LIMIT, TRAINING, assert_close, assert_one_graph, differ, state
from tests.tinyddpm.tiny_runs import images
from tinyddpm import Diffusion, Schedule, UNet, data
from tinyddpm.training.trainer import Trainer

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.fixture
def backend() -> Iterator[CupyBackend]:
    with cupy_backend(precision="fp32") as backend:
        yield backend


# Few timesteps, so that each has its ten losses soon; the first is the decoder's
KINDS: dict[str, dict[str, Any]] = {
    "hybrid": {"variance": "learned"},
    "hybrid, min-SNR": {"variance": "learned", "weighting": "min_snr", "prediction": "v"},
    "min-SNR": {"weighting": "min_snr", "prediction": "v"},
    "the bound, by importance": {"variance": "learned", "loss": "vlb", "prediction": "v"},
}


def trainer_of(backend: Any, sampling: str, fields: dict[str, Any]) -> Trainer:
    """On random images, with random weights."""
    model = UNet(replace(CONFIG, learned_variance=fields.get("variance") == "learned"), backend, seed=1)
    noise = 0.1 * np.random.default_rng(2).standard_normal(model.params.shape)
    model.params[...] = backend.asarray(noise, "float32")
    steps, size = (9, 4) if sampling == "importance" else (4, 2)
    training = replace(TRAINING, steps=steps, batch_size=size, timestep_sampling=sampling)
    return Trainer(model, Diffusion(Schedule.cosine(2), **fields), data.Batches(images(), size, 3), training)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_replayed_are_numpys(backend: CupyBackend, kind: str) -> None:
    sampling = "importance" if "importance" in kind else "uniform"
    ours, theirs = (trainer_of(be, sampling, KINDS[kind]) for be in (backend, backends.get("numpy")))
    assert_close(list(ours.run()), list(theirs.run()))
    assert differ(state(ours), state(theirs)) < LIMIT
    assert_one_graph(ours)
    if ours.importance is not None and theirs.importance is not None:
        assert np.ptp(ours.importance.chances()) > 0.01
        np.testing.assert_allclose(ours.importance.losses, theirs.importance.losses, rtol=1e-3)
