"""What training and sampling promise as a whole: resuming to the bit, stopping at NaN, sampling from the average
and with the weights of the moment."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends
from backends import NonFiniteError
from tinyddpm.data import Batches, Dataset
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.generation.images import draw
from tinyddpm.networks.simple_unet import SimpleUNet, SimpleUNetConfig
from tinyddpm.training.checkpoint import Checkpoint
from tinyddpm.training.optimizers import EMA
from tinyddpm.training.run_config import DataConfig, DiffusionConfig, RunConfig
from tinyddpm.training.run_folder import CHECKPOINTS, METRICS, Run
from tinyddpm.training.trainer import TrainConfig, Trainer

BACKEND = backends.get("numpy")
MODEL = SimpleUNetConfig(image_size=8, base_channels=4, channel_mults=(1, 2), groups=2, dropout=0.1, num_classes=10)


def run_config(steps: int) -> RunConfig:
    training = TrainConfig(steps=steps, batch_size=4, lr=1e-2, warmup_steps=2, ema_decay=0.9, lr_decay="constant")
    return RunConfig(DataConfig("digits"), MODEL, DiffusionConfig(timesteps=50), training, checkpoint_every=2)


def trained(run: Run) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Takes the remaining steps as the command line does. Returns the state at the end and the logged steps."""
    for metrics in run.trainer.run():
        run.record(metrics)
        if run.due():
            run.checkpoint()
    trainer = run.trainer
    state = {
        "params": trainer.model.params,
        "average": trainer.ema.params,
        "m": trainer.optimizer.m,
        "v": trainer.optimizer.v,
        "counts": np.array([trainer.step, trainer.optimizer.steps, trainer.ema.updates]),
    }
    log = (run.folder / METRICS).read_text(encoding="utf-8").splitlines()
    return state, [json.loads(line) for line in log]


def in_a_folder(function: Callable[[Path], None]) -> None:
    """A test of the suite that wants a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        function(Path(folder))


def test_interrupted_and_resumed_training_is_the_same_to_the_bit() -> None:
    with tempfile.TemporaryDirectory() as folder:
        straight, log = trained(Run.create(Path(folder, "straight"), run_config(6), BACKEND))
        halfway, _ = trained(Run.create(Path(folder, "resumed"), run_config(3), BACKEND))
        resumed, resumed_log = trained(Run.resume(Path(folder, "resumed"), BACKEND, steps=6))
    assert [row["step"] for row in log] == [1, 2, 3, 4, 5, 6]
    assert resumed_log == log
    for name, value in straight.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)
        assert np.any(halfway[name] != value)


def trainer_on_noise(channels: int = 4, backend: backends.Backend = BACKEND) -> Trainer:
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), dtype=np.uint8)
    config = TrainConfig(steps=3, batch_size=4, lr=1e-3, warmup_steps=0)
    model = SimpleUNet(
        SimpleUNetConfig(image_size=8, base_channels=channels, channel_mults=(1, 2), groups=2), backend=backend
    )
    return Trainer(model, Diffusion(Schedule.cosine(50)), Batches(Dataset("noise", images), 4, 0), config)


def stops_unchanged(trainer: Trainer, message: str) -> None:
    """The next step raises NonFiniteError with the message, and the state is that before it."""
    before = [a.copy() for a in (trainer.model.params, trainer.ema.params, trainer.optimizer.m, trainer.optimizer.v)]
    with pytest.raises(NonFiniteError, match=message), np.errstate(all="ignore"):
        trainer.take_step()
    after = trainer.model.params, trainer.ema.params, trainer.optimizer.m, trainer.optimizer.v
    for now, then in zip(after, before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert trainer.step == trainer.optimizer.steps == trainer.ema.updates == 1


def test_an_overflow_stops_training_with_its_operation_named() -> None:
    trainer = trainer_on_noise()
    trainer.take_step()
    trainer.model.named_params()["conv_out.weight"][...] = 1e38
    stops_unchanged(trainer, r"^step 2: operation \w+ \(number \d+\) returned NaN or infinity from finite arguments")


def test_nan_in_a_parameter_stops_training_with_its_name() -> None:
    trainer = trainer_on_noise()
    trainer.take_step()
    trainer.model.named_params()["conv_in.bias"][1] = np.nan
    stops_unchanged(trainer, r"^step 2: .*parameter conv_in\.bias holds")


def test_nan_is_not_saved_and_the_good_checkpoints_stay() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(folder, run_config(4), BACKEND)
        trained(run)
        good = {path.name: path.read_bytes() for path in Path(folder, CHECKPOINTS).iterdir()}
        assert len(good) == 2
        for flat in (run.trainer.model.params, run.trainer.ema.params):
            kept = flat[3]
            flat[3] = np.nan
            with pytest.raises(NonFiniteError):
                run.checkpoint()
            flat[3] = kept
            assert {path.name: path.read_bytes() for path in Path(folder, CHECKPOINTS).iterdir()} == good


def test_samples_are_drawn_from_the_averaged_weights() -> None:
    model = SimpleUNet(MODEL, BACKEND)
    model.params[...] = np.random.default_rng(1).standard_normal(model.params.shape)
    average = EMA(np.random.default_rng(2).standard_normal(model.params.shape).astype(np.float32), backend=BACKEND)
    diffusion = Diffusion(Schedule.cosine(50))
    assert Checkpoint(model, diffusion, ema=average).sampling_model().params is average.params
    assert Checkpoint(model, diffusion).sampling_model() is model

    drawn, of_the_average, of_the_model = (
        draw(checkpoint, 3, 4)[0]
        for checkpoint in (
            Checkpoint(model, diffusion, ema=average),
            Checkpoint(model.with_params(average.params), diffusion),
            Checkpoint(model, diffusion),
        )
    )
    np.testing.assert_array_equal(drawn, of_the_average)
    assert np.any(drawn != of_the_model)


def test_predictions_between_training_steps_are_those_of_the_weights_of_the_moment() -> None:
    # Sixteen channels and eighty tiles, so that the Numba backend transforms all weights before it uses them
    trainer = trainer_on_noise(channels=16, backend=backends.get("numba"))
    rng = np.random.default_rng(0)
    for params in (trainer.model.params, trainer.ema.params):
        params[...] = 0.2 * rng.standard_normal(params.shape)
    averaged = trainer.model.with_params(trainer.ema.params)
    for _ in range(3):
        x, t = rng.standard_normal((20, 8, 8, 1), np.float32), 40
        for model in (trainer.model, averaged):
            wanted = SimpleUNet(model.config, backend=BACKEND).with_params(model.params.copy())(x, t)
            np.testing.assert_allclose(model(x, t), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
        trainer.take_step()
