"""Arguments of a wrong kind or range: each constructor and function refuses them in one line, before any work.

What belongs to one subject alone stands beside it (`networks/test_model_inputs.py`, `diffusion/test_schedules.py` and
others); here is what used to pass unseen, or to fail deep inside.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tinyddpm.tiny_runs import UNET, build, images, scramble
from tinyddpm.checks import as_floats
from tinyddpm.data import Batches, Dataset
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import SPACINGS, Schedule
from tinyddpm.errors import InputError
from tinyddpm.evaluation.classifier import Classifier, ClassifierConfig
from tinyddpm.evaluation.loss_by_level import loss_by_noise_level
from tinyddpm.evaluation.quality import quality
from tinyddpm.generation.images import draw
from tinyddpm.networks.unet import UNet, UNetConfig
from tinyddpm.samplers import ddim, ddpm
from tinyddpm.samplers.guidance import classifier_free
from tinyddpm.training.checkpoint import Checkpoint, save
from tinyddpm.training.optimizers import EMA, Adam
from tinyddpm.training.run_config import DataConfig, DiffusionConfig, RunConfig
from tinyddpm.training.trainer import TrainConfig, Trainer

MODEL = scramble(build(UNET))
NUMBER = MODEL.params.size
DIFFUSION = Diffusion(Schedule.cosine(100))
ALL_DROPPED = Diffusion(Schedule.cosine(100), label_dropout=1.0)
SETS = images(8)
CLASSIFIER = Classifier(ClassifierConfig((8, 8), 1, (8,), 10), MODEL.backend)
X = np.zeros((2, 8, 8, 1), np.float32)
FLOAT16 = MODEL.params.astype(np.float16)
SHORT = np.zeros(3, np.float32)
DOUBLE = MODEL.params.astype(np.float64)


def sampled(*arguments: Any, sampler: Any = ddim, **options: Any) -> None:
    """The first step of a walk."""
    next(sampler(*arguments, **{"steps": 2} | options))


def trained(diffusion: Diffusion, labels: Any, **more: Any) -> None:
    diffusion.training_step(MODEL, X, **{"step": 0, "labels": labels} | more)


def trainer(**parts: Any) -> None:
    known = {"model": MODEL, "diffusion": DIFFUSION, "batches": Batches(SETS, 2, 0), "config": TrainConfig()}
    Trainer(**known | parts)


def saved(**parts: Any) -> None:
    save("never.safetensors", **{"model": MODEL, "diffusion": DIFFUSION} | parts)


Case = tuple[Callable[[], Any], str]

MODELS: list[Case] = [
    (lambda: MODEL(X, 0, dropout_key=5), "dropout_key must be a tuple (seed, step), or None, got 5"),
    (lambda: MODEL(X, 0, tape=()), "tape must be a list, such as [], or None, got ()"),
    (lambda: MODEL([[1.0], [2.0, 3.0]], 0), "images must be an array of floating-point numbers"),
    (lambda: MODEL(X.astype(np.uint8), 0), "bytes 0 … 255 become images in [-1, 1] by tinyddpm.data.pixels.to_unit"),
    (lambda: MODEL(X.astype(np.complex64), 0), "images must be real in float32, got an array of complex64"),
    (lambda: MODEL.backward(X, []), "the tape is empty; call the model with tape=[]"),
    (lambda: MODEL.with_params(FLOAT16), "float32 or float64"),
    (lambda: MODEL.with_params(MODEL.params.astype(">f4")), ">f4"),
    (lambda: MODEL.with_params(MODEL.params.astype(np.longdouble)), "float32 or float64"),
    (lambda: MODEL.with_params(np.zeros(2 * NUMBER, np.float32)[::2]), "gaps"),
    (lambda: UNet(UNET, backend=MODEL.backend, params=FLOAT16), "got an array of float16"),
]
OPTIMIZERS: list[Case] = [
    (lambda: Adam(FLOAT16), "cast them, as by .astype('float32')"),
    (lambda: Adam(np.arange(3)), "int64"),
    (lambda: Adam([1.0, 2.0]), "got [1.0, 2.0]"),  # type: ignore[arg-type]
    (lambda: Adam(np.ones((2, 2))), "of shape (2, 2)"),
    (lambda: Adam(np.frombuffer(bytes(12), np.float32)), "this array is read-only; pass a copy of it"),
    (lambda: Adam(SHORT, lr=math.nan), "lr must be a number"),
    (lambda: Adam(SHORT, backend="numpy"), "backend must be a Backend"),  # type: ignore[arg-type]
    (lambda: Adam(SHORT).step(SHORT.astype(complex)), "grads must be real numbers"),
    (lambda: Adam(SHORT).step(SHORT.astype(int)), "grads must be floating-point numbers"),
    (lambda: Adam(SHORT).step(SHORT, ema=EMA(np.zeros(4, np.float32))), "ema must be of the parameters"),
    (lambda: Adam(SHORT).step(SHORT, ema=EMA(np.zeros(3))), "float64"),
    (lambda: Adam(SHORT).step(SHORT, ema=0.9), "ema must be a EMA"),  # type: ignore[arg-type]
    (lambda: EMA(FLOAT16), "float16"),
    (lambda: EMA([1.0]), "got [1.0]"),  # type: ignore[arg-type]
    (lambda: EMA(SHORT, backend="numpy"), "backend must be a Backend"),  # type: ignore[arg-type]
    (lambda: EMA(SHORT).update(SHORT.astype(int)), "params must be floating-point numbers"),
]
PROCESS: list[Case] = [
    (lambda: Diffusion("cosine"), "schedule must be a Schedule, such as Schedule.cosine(1000), got 'cosine'"),  # type: ignore[arg-type]
    *(
        (lambda t=t: DIFFUSION.q_sample(X, t, X), words)
        for t, words in (
            (-1, "t must lie in 0 … 99, the schedule's 100 steps, got -1 … -1"),
            (100, "got 100 … 100"),
            (np.array([0, 100]), "got 0 … 100"),
            (1.5, "t must be a whole index 0 … 99 of the schedule, got 1.5"),
            (True, "got True"),
            ("3", "got '3'"),
            (None, "got None"),
            (np.zeros(3, int), "one for each of the 2 images, got shape (3,)"),
            (np.zeros(1, int), "got shape (1,)"),
            (np.zeros((2, 1), int), "got shape (2, 1)"),
        )
    ),
    (lambda: DIFFUSION.q_sample(X, 0, X[:1]), "noise must have the shape of x0, (2, 8, 8, 1), got (1, 8, 8, 1)"),
    (lambda: DIFFUSION.q_sample(X.astype(np.uint8), 0, X), "x0 must be floating-point numbers"),
    (lambda: DIFFUSION.q_sample(X, 0, X.astype(int)), "noise must be floating-point numbers"),
    *(
        (lambda name=name: getattr(DIFFUSION, name)(X, -1, X), "got -1 … -1")
        for name in (
            "target",
            "to_x0",
            "to_eps",
            "eps_from_x0",
            "mean_from_eps",
        )
    ),
    (lambda: DIFFUSION.posterior_mean(X, X, -1), "got -1 … -1"),
    (lambda: DIFFUSION.log_variance(-1), "got -1 … -1"),
    (lambda: trained(ALL_DROPPED, [0, 77]), "labels must lie in 0 … 10 (10 means no label), got 0 … 77"),
    (lambda: trained(ALL_DROPPED, [0, -1]), "got -1 … 0"),
    (lambda: trained(ALL_DROPPED, [0.5, 1.0]), "labels must be 2 integers, got float64"),
    (lambda: trained(ALL_DROPPED, [0]), "got int64 of shape (1,)"),
    (lambda: trained(DIFFUSION, None, step=-1), "step must be a whole number in 0 … 4294967295, got -1"),
    (lambda: trained(DIFFUSION, None, step=2**32), "got 4294967296"),
    (lambda: trained(DIFFUSION, None, step=0.5), "got 0.5"),
    (lambda: trained(DIFFUSION, None, seed=-1), "seed must be"),
    (lambda: DIFFUSION.training_step(MODEL, X[:0], step=0), "at least one image, got shape (0, 8, 8, 1)"),
    (lambda: DIFFUSION.training_step("model", X, step=0), "model must be a Model"),  # type: ignore[arg-type]
]
SCHEDULES: list[Case] = [
    (lambda: Schedule(np.full(3, 0.1), np.array([0.0, 0.5, 1.0])), "timesteps must be whole numbers"),
    (lambda: Schedule(np.full(3, 0.1), np.array([2, 1, 0])), "ascending"),
    (lambda: Schedule(np.full(3, 0.1), np.array([-1, 0, 1])), "from 0 up"),
    (lambda: Schedule(np.full(3, 0.1), np.arange(3), name=3), "a schedule's name must be a text, got 3"),  # type: ignore[arg-type]
    (lambda: Schedule.from_betas("abc"), "betas must be floating-point numbers"),  # type: ignore[arg-type]
    (lambda: Schedule.linear(10, beta_start="a"), "beta_start must be a number in (0, 1), got 'a'"),  # type: ignore[arg-type]
    (lambda: Schedule.linear(2000, beta_end=1.5), "beta_end must be a number in (0, 1), got 1.5"),
    (lambda: Schedule.linear(10, rescale="no"), "rescale must be True or False"),  # type: ignore[arg-type]
    (lambda: Schedule.quadratic(100, beta_start=-1e-4), "beta_start"),
    (lambda: Schedule.cosine(10, s=-0.1), "s must be a number in [0, inf), got -0.1"),
    (lambda: Schedule.cosine(10, max_beta=2), "max_beta must be a number in (0, 1), got 2"),
    (lambda: Schedule.sigmoid(10, tau="x"), "tau must be a number"),  # type: ignore[arg-type]
    (lambda: Schedule.sigmoid(10, start=math.nan), "start must be a number"),
    (lambda: Schedule.by_name(["cosine"]), "schedule must be one of"),  # type: ignore[arg-type]
    (lambda: Schedule.by_name(np.array(["cosine", "linear"])), "schedule must be one of"),  # type: ignore[arg-type]
]
SAMPLERS: list[Case] = [
    (lambda: sampled(MODEL, DIFFUSION, X.shape, steps=True), "steps must be a whole number in 1 … 100"),
    (lambda: sampled(MODEL, DIFFUSION, X.shape, eta="1"), "eta must be a number"),
    (lambda: sampled(MODEL, DIFFUSION, X.shape, clip="no"), "clip must be True or False, got 'no'"),
    (lambda: sampled(MODEL, DIFFUSION, X.shape, spacing=None), "one of leading, trailing, linspace, karras, got None"),
    (lambda: sampled(MODEL, DIFFUSION, X.shape, threshold="0.9"), "threshold must be a number in (0, 1], got '0.9'"),
    (lambda: sampled(MODEL, DIFFUSION, X.shape, threshold=True), "got True"),
    (lambda: sampled(MODEL, DIFFUSION, X.shape, threshold=0), "got 0"),
    (lambda: sampled(MODEL, DIFFUSION, X.shape, threshold=1.01), "got 1.01"),
    (lambda: sampled(MODEL, DIFFUSION, X.shape, threshold=0.9, clip=False), "threshold 0.9 is a way to clip"),
    (lambda: sampled(MODEL, DIFFUSION, (8, 8, 1)), "shape must be that of images, (N, H, W, C)"),
    (lambda: sampled(MODEL, DIFFUSION, 16), "got 16"),
    (lambda: sampled(MODEL, DIFFUSION, (2, 8, -8, 1)), "each number of shape must be a whole number of at least 1"),
    (lambda: sampled(MODEL, DIFFUSION, (2, 8, 8.0, 1)), "got 8.0"),
    (lambda: sampled(MODEL, "cosine", X.shape), "diffusion must be a Diffusion"),
    (lambda: sampled(MODEL, "cosine", X.shape, sampler=ddpm), "diffusion must be a Diffusion"),
    (lambda: sampled("model", DIFFUSION, X.shape), "a sampler asks a model or a function"),
    (lambda: sampled(MODEL, DIFFUSION, X.shape, x_T=X.astype(int)), "x_T must be floating-point numbers"),
    (lambda: sampled(MODEL, DIFFUSION, X.shape, x_T="noise"), "x_T must be floating-point numbers"),
    (lambda: sampled(MODEL, DIFFUSION, X.shape, labels=[0, 99]), "labels must lie in 0 … 10"),
    (lambda: classifier_free("model", 2.0), "model must be a Model"),  # type: ignore[arg-type]
    (lambda: classifier_free(MODEL, "2"), "guidance_scale must be a number"),  # type: ignore[arg-type]
]
TRAINING: list[Case] = [
    (lambda: TrainConfig(recompute=1), "recompute must be True or False, got 1"),  # type: ignore[arg-type]
    (lambda: TrainConfig(lr=10**400), "lr must be a number in (0, 1]"),
    (lambda: TrainConfig(lr_decay=np.zeros(2)), "lr_decay must be one of"),  # type: ignore[arg-type]
    (lambda: UNetConfig(norm_eps=np.zeros(1)), "norm_eps must be a number"),  # type: ignore[arg-type]
    (lambda: UNetConfig(time_embedding=["resblock"]), "time_embedding must be one of"),  # type: ignore[arg-type]
    (lambda: trainer(model="model"), "model must be a Model"),
    (lambda: trainer(diffusion="cosine"), "diffusion must be a Diffusion"),
    (lambda: trainer(batches=SETS), "batches must be a Batches"),
    (lambda: trainer(config={}), "config must be a TrainConfig"),
    (lambda: trainer(step=-1), "step must be a whole number"),
    (lambda: trainer(ema=EMA(SHORT)), "ema must be of the parameters"),
    (lambda: trainer(optimizer=Adam(DOUBLE)), "optimizer must be of the parameters"),
    (lambda: RunConfig(1, 2, 3, 4), "data must be a DataConfig"),  # type: ignore[arg-type]
    (lambda: RunConfig(DataConfig(), "UNet", DiffusionConfig(), TrainConfig()), "got 'UNet'"),  # type: ignore[arg-type]
    (lambda: Checkpoint("model", DIFFUSION), "model must be a Model"),  # type: ignore[arg-type]
    (lambda: Checkpoint(MODEL, "cosine"), "diffusion must be a Diffusion"),  # type: ignore[arg-type]
    (lambda: Checkpoint(MODEL, DIFFUSION, step=-1), "step must be a whole number"),
    (lambda: saved(step=1.5), "step must be a whole number"),
    (lambda: saved(ema=EMA(SHORT)), "ema must be of the parameters"),
    (lambda: saved(ema=EMA(DOUBLE)), "ema must be of the parameters"),
    (lambda: saved(optimizer=Adam(DOUBLE)), "optimizer must be of the parameters"),
    (lambda: saved(extra=[1]), "extra must be a dictionary of JSON values, got [1]"),
]
DATA: list[Case] = [
    (lambda: Batches(SETS.images, 2, 0), "dataset must be a Dataset"),  # type: ignore[arg-type]
    (lambda: Batches(SETS, 2, 0, flip="no"), "flip must be True or False, got 'no'"),  # type: ignore[arg-type]
    (lambda: Dataset("n", [[1]]), "images must be a NumPy array, got [[1]]"),  # type: ignore[arg-type]
    (lambda: Dataset("n", SETS.images, [0] * 8), "labels must be a NumPy array"),  # type: ignore[arg-type]
    (lambda: Dataset(5, SETS.images), "a set's name must be a text, got 5"),  # type: ignore[arg-type]
    (lambda: Dataset("n", SETS.images, SETS.labels, "0123456789"), "class_names must be a tuple"),  # type: ignore[arg-type]
    (lambda: loss_by_noise_level(MODEL, DIFFUSION, SETS, 0), "levels must be a whole number of at least 1, got 0"),
    (lambda: loss_by_noise_level(MODEL, DIFFUSION, SETS, 2, seed=-1), "seed must be"),
    (lambda: loss_by_noise_level(MODEL, DIFFUSION, SETS.images, 2), "dataset must be a Dataset"),  # type: ignore[arg-type]
    (lambda: loss_by_noise_level("model", DIFFUSION, SETS, 2), "model must be a Model"),  # type: ignore[arg-type]
    (lambda: loss_by_noise_level(MODEL, DIFFUSION, SETS.take([]), 2), "random has no images"),
    (lambda: quality(CLASSIFIER, SETS.images / 255, SETS, SETS), "the classifier sees uint8 of shape (N, 8, 8, 1)"),
    (lambda: quality(CLASSIFIER, SETS.images[:, :4], SETS, SETS), "images of 4x8 are none of 8x8"),
    (lambda: quality(CLASSIFIER, SETS.images, SETS.images, SETS), "train must be a Dataset"),  # type: ignore[arg-type]
    (lambda: quality(CLASSIFIER, SETS.images, SETS, SETS.take([])), "test must have images with labels, got 0"),
    (lambda: quality("mine", SETS.images, SETS, SETS), "classifier must be a Classifier"),  # type: ignore[arg-type]
    (lambda: quality(CLASSIFIER, [[1]], SETS, SETS), "samples must be uint8"),  # type: ignore[arg-type]
    (lambda: Classifier("small"), "config must be a ClassifierConfig"),  # type: ignore[arg-type]
    (lambda: draw(Checkpoint(MODEL, DIFFUSION), 2, 0), "steps must be a whole number in 1 … 100"),
    (lambda: draw(Checkpoint(MODEL, DIFFUSION), 2, 2, label=1.5), "1.5 is not a label"),  # type: ignore[arg-type]
    (lambda: draw(Checkpoint(MODEL, DIFFUSION), 2, 2, label=True), "True is not a label"),
    (lambda: draw(Checkpoint(MODEL, DIFFUSION), 2, 2, guidance="2"), "guidance must be a number"),  # type: ignore[arg-type]
    (lambda: draw(MODEL, 2), "checkpoint must be a Checkpoint"),  # type: ignore[arg-type]
    (lambda: as_floats("x", np.array([None])), "x must be floating-point numbers, got an array of object"),
]
CASES = MODELS + OPTIMIZERS + PROCESS + SCHEDULES + SAMPLERS + TRAINING + DATA


@pytest.mark.parametrize(("call", "words"), CASES, ids=[words for _, words in CASES])
def test_it_is_refused_in_one_line(call: Callable[[], Any], words: str) -> None:
    before = MODEL.params.copy(), MODEL.grads.copy()
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert not Path("never.safetensors").exists()
    np.testing.assert_array_equal(MODEL.params, before[0])
    np.testing.assert_array_equal(MODEL.grads, before[1])


def test_nothing_moves_where_a_step_is_refused() -> None:
    params = np.ones(3, np.float32)
    optimizer = Adam(params)
    with pytest.raises(InputError):
        optimizer.step(np.ones(3, int))
    assert optimizer.steps == 0
    assert params.tolist() == [1, 1, 1]
    assert not optimizer.m.any()


def test_one_step_starts_from_noise_by_every_spacing() -> None:
    for spacing in SPACINGS:
        (state,) = ddim(MODEL, DIFFUSION, X.shape, steps=1, spacing=spacing)
        assert state.t == 99
    assert [row.t for row in loss_by_noise_level(MODEL, DIFFUSION, SETS, 1)] == [99]
