"""Copies by `copy.deepcopy` and pickle: the same numbers, in arrays of their own, and views that stay views."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import backends
from tests.tinyddpm.tiny_runs import CONFIGS, SIMPLE, UNET, arrays, assert_same, build, make_trainer, scramble
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.samplers.guidance import classifier_free
from tinyddpm.training.checkpoint import Checkpoint
from tinyddpm.training.optimizers import EMA, Adam
from tinyddpm.training.trainer import TrainConfig

Copy = Callable[[Any], Any]
X = np.random.default_rng(0).standard_normal((2, 8, 8, 1), np.float32)


def pickled(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


COPIES = pytest.mark.parametrize("copied", [copy.deepcopy, pickled], ids=["deepcopy", "pickle"])


@COPIES
@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_model_has_parameters_and_gradients_of_its_own(copied: Copy, backend: str, kind: str) -> None:
    model = scramble(build(CONFIGS[kind], backends.get(backend)))
    diffusion = Diffusion(Schedule.cosine(50))
    # Fills the gradients, and where there is a recorder, gives it something to hold
    for _ in range(2):
        diffusion.training_step(model, X, step=0)
        wanted = model(X, 7)
    twin = copied(model)
    assert type(twin) is type(model)
    assert twin.config == model.config
    np.testing.assert_array_equal(twin.params, model.params)
    np.testing.assert_array_equal(twin.grads, model.grads)
    np.testing.assert_array_equal(twin(X, 7), wanted)
    for named, flat in ((twin.named_params(), twin.params), (twin.named_grads(), twin.grads)):
        assert named.keys() == model.named_params().keys()
        assert all(np.shares_memory(view, flat) for view in named.values())

    twin.params[...] = 0
    assert not np.any(twin.named_params()["conv_in.weight"])
    assert np.any(twin(X, 7) != wanted)
    np.testing.assert_array_equal(model(X, 7), wanted)
    before = model.grads.copy()
    diffusion.training_step(twin, X, step=1)
    np.testing.assert_array_equal(model.grads, before)
    assert np.any(twin.grads != before)
    assert np.any(twin.named_grads()["conv_out.bias"])


@COPIES
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_trainer_goes_on_to_the_same_numbers(copied: Copy, backend: str) -> None:
    training = TrainConfig(steps=4, batch_size=4, lr=1e-2, warmup_steps=1, accumulate=2)
    trainer = make_trainer(UNET, training, backend=backends.get(backend))
    for _ in range(2):
        trainer.take_step()
    twin = copied(trainer)
    assert twin.optimizer.params is twin.model.params
    assert twin.model.params is not trainer.model.params
    for _ in range(2):
        trainer.take_step()
    assert twin.step == 2
    for _ in range(2):
        twin.take_step()
    assert_same(arrays(twin), arrays(trainer))


@COPIES
def test_an_optimizer_and_an_average_go_on_by_themselves(copied: Copy) -> None:
    params, grads = np.ones(5, np.float32), np.arange(5, dtype=np.float32)
    optimizer, ema = Adam(params), EMA(params)
    optimizer.step(grads, ema=ema)
    twin, average = copied((optimizer, ema))
    kept = params.copy()
    twin.step(grads, ema=average)
    np.testing.assert_array_equal(params, kept)
    optimizer.step(grads, ema=ema)
    np.testing.assert_array_equal(twin.params, params)
    np.testing.assert_array_equal(average.params, ema.params)
    assert (twin.steps, average.updates) == (2, 2)


@COPIES
def test_what_samples(copied: Copy) -> None:
    model = scramble(build(UNET))
    diffusion = Diffusion(Schedule.cosine(50), "v", label_dropout=0.2)
    guided = classifier_free(model, 2.0)
    checkpoint = Checkpoint(model, diffusion, ema=EMA(model.params), step=3)
    again = copied(checkpoint)
    assert again.step == 3
    assert again.diffusion.prediction == "v"
    np.testing.assert_array_equal(again.diffusion.schedule.betas, diffusion.schedule.betas)
    np.testing.assert_array_equal(again.sampling_model()(X, 3), checkpoint.sampling_model()(X, 3))
    labels = np.array([1, 2])
    np.testing.assert_array_equal(copied(guided)(X, 3, labels=labels), guided(X, 3, labels=labels))


@COPIES
def test_a_model_in_float64_stays_one(copied: Copy) -> None:
    twin = copied(build(SIMPLE, dtype="float64"))
    assert twin.dtype == "float64"
    assert twin(X, 0).dtype == np.float64
