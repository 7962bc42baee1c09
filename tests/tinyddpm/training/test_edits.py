"""A resumed run whose config.json was edited, or which gets a new total of steps: nothing is overlooked."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import backends
from tests.tinyddpm.tiny_runs import UNET, arrays, assert_same, images, run_config, succeed, tree
from tinyddpm import data
from tinyddpm.errors import InputError
from tinyddpm.training import checkpoint as checkpoints
from tinyddpm.training.edits import flat, going_over
from tinyddpm.training.run_config import DiffusionConfig
from tinyddpm.training.run_folder import Run, last_checkpoint, read_config
from tinyddpm.training.trainer import TrainConfig

NUMPY = backends.get("numpy")


@pytest.fixture(autouse=True)
def small_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "load", lambda *_, **__: images())


def trained(folder: Path, steps: int = 3, **config: Any) -> Run:
    run = Run.create(folder, run_config(checkpoint_every=1, **config), NUMPY)
    for _ in range(steps):
        run.record(run.trainer.take_step())
        run.checkpoint()
    return run


def edit(folder: Path, key: str, value: Any) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    *outer, last = key.split(".")
    inside = values
    for name in outer:
        inside = inside[name]
    if outer == ["model"]:
        inside = inside["config"]
    assert last in inside
    inside[last] = value
    path.write_text(json.dumps(values))


# A new value for every key of config.json
EDITS = {
    "data.name": "mnist",
    "data.image_size": 8,
    "data.color": False,
    "data.data_dir": "/somewhere",
    "data.flip": False,
    "training.steps": 9,
    "training.batch_size": 5,
    "training.lr": 0.003,
    "training.warmup_steps": 2,
    "training.lr_decay": "constant",
    "training.weight_decay": 0.1,
    "training.clip_norm": 0.5,
    "training.ema_decay": 0.5,
    "training.accumulate": 2,
    "training.seed": 4,
    "training.recompute": True,
    "checkpoint_every": 7,
    "keep_checkpoints": 1,
    "validate_every": 2,
}
REFUSED = {
    "model.kind": "UNet",
    "model.image_size": 16,
    "model.in_channels": 3,
    "model.base_channels": 8,
    "model.channel_mults": [1, 2, 2],
    "model.groups": 4,
    "model.num_classes": 10,
    "model.time_embedding": "resblock",
    "model.dropout": 0.5,
    "diffusion.schedule": "sigmoid",
    "diffusion.timesteps": 40,
    "diffusion.prediction": "v",
    "diffusion.loss": "l1",
    "diffusion.variance": "fixed_large",
    "diffusion.weighting": "min_snr",
    "diffusion.min_snr_gamma": 2.0,
    "init": "other",
    "training.changed_at": 2,
    "training.changed_lr": 0.5,
}
# What does not go with the rest of such a config
ALONE = {"model.learned_variance": True, "training.timestep_sampling": "importance"}


def test_every_key_is_one_of_these() -> None:
    assert set(flat(run_config().to_dict())) == EDITS.keys() | REFUSED.keys() | ALONE.keys() | {
        "diffusion.zero_terminal_snr"
    }


@pytest.mark.parametrize(("key", "value"), ALONE.items())
def test_edits_that_go_with_another_alone(tmp_path: Path, key: str, value: Any) -> None:
    trained(tmp_path)
    edit(tmp_path, key, value)
    with pytest.raises(InputError, match=r"config\.json cannot be used: .*; put it back as it was") as raised:
        Run.resume(tmp_path, NUMPY)
    assert key.rpartition(".")[2] in str(raised.value)


@pytest.mark.parametrize(("key", "value"), EDITS.items())
def test_edits_that_are_taken(tmp_path: Path, key: str, value: Any) -> None:
    before = trained(tmp_path).config
    edit(tmp_path, key, value)
    run = Run.resume(tmp_path, NUMPY)
    then = flat(before.to_dict())[key]
    assert f"{tmp_path / 'config.json'}: {key} is {value!r} from here on; it was {then!r}" in run.changes
    assert flat(run.config.to_dict())[key] == value
    assert run.trainer.optimizer.weight_decay == run.config.training.weight_decay
    assert run.trainer.ema.decay == run.config.training.ema_decay
    assert run.trainer.config == run.config.training
    # Said once, whatever happens next
    assert read_config(tmp_path) == run.config
    again = Run.resume(tmp_path, NUMPY)
    assert again.changes == []
    assert again.config == run.config
    assert_same(arrays(again.trainer), arrays(run.trainer))


def test_another_end_of_the_schedule_is_refused(tmp_path: Path) -> None:
    """Where the prediction would allow it."""
    config = replace(run_config(checkpoint_every=1), diffusion=DiffusionConfig(timesteps=50, prediction="v"))
    Run.create(tmp_path, config, NUMPY).close()
    edit(tmp_path, "diffusion.zero_terminal_snr", True)
    with pytest.raises(InputError, match=r"config\.json: diffusion\.zero_terminal_snr is True, .*; put back "):
        Run.resume(tmp_path, NUMPY)


@pytest.mark.parametrize(("key", "value"), REFUSED.items())
def test_edits_that_are_refused(tmp_path: Path, key: str, value: Any) -> None:
    trained(tmp_path)
    if key == "model.kind":
        path = tmp_path / "config.json"
        unet = run_config(UNET).to_dict()["model"]
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model": unet}))
    else:
        edit(tmp_path, key, value)
    before = tree(tmp_path)
    with pytest.raises(InputError, match=r"config\.json.*; put back ") as raised:
        Run.resume(tmp_path, NUMPY)
    assert key == "model.kind" or f"{key} is" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("key", ["training.weight_decay", "training.ema_decay", "diffusion.prediction", "model.groups"])
def test_checkpoints_that_hold_no_config(tmp_path: Path, key: str) -> None:
    """As those of earlier versions: what they tell by themselves is compared."""
    trainer = trained(tmp_path).trainer
    checkpoints.save(
        last_checkpoint(tmp_path),
        trainer.model,
        trainer.diffusion,
        optimizer=trainer.optimizer,
        ema=trainer.ema,
        step=trainer.step,
    )
    assert Run.resume(tmp_path, NUMPY).changes == []
    edit(tmp_path, key, (EDITS | REFUSED)[key])
    if key in REFUSED:
        with pytest.raises(InputError, match=key):
            Run.resume(tmp_path, NUMPY)
    else:
        assert len(Run.resume(tmp_path, NUMPY).changes) == 1


def test_killed_between_config_and_checkpoint(tmp_path: Path) -> None:
    """The config is written first; the next resumption comes to the same."""
    trained(tmp_path, steps=6)
    old = last_checkpoint(tmp_path).read_bytes()
    run = Run.resume(tmp_path, NUMPY, steps=20)
    new = last_checkpoint(tmp_path).read_bytes()
    last_checkpoint(tmp_path).write_bytes(old)
    again = Run.resume(tmp_path, NUMPY)
    assert again.config == run.config
    assert last_checkpoint(tmp_path).read_bytes() == new


class TestLearningRate:
    @pytest.mark.parametrize("taken", [1, 10, 500, 950, 1000])
    @pytest.mark.parametrize("steps", [1001, 1500, 2000, 100_000])
    def test_no_jump_where_a_run_gets_more_steps(self, taken: int, steps: int) -> None:
        """No change of the rate is much larger than those of a warm-up over a tenth of the steps left, or 100."""
        old = TrainConfig(steps=1000, lr=1e-3, warmup_steps=100)
        plain = replace(old, steps=steps)
        new = going_over(plain, old, taken)
        rates = [new.learning_rate(step) if step >= taken else old.learning_rate(step) for step in range(steps)]
        jumps = [abs(after - before) for before, after in pairwise(rates)]
        assert max(jumps[taken - 1 :], default=0) <= 1.5e-3 / new.steps_of_change
        assert new.learning_rate(steps) == 0
        for step in range(taken + new.steps_of_change, steps):
            assert new.learning_rate(step) == plain.learning_rate(step)

    def test_a_constant_rate_and_the_warm_up_go_on(self) -> None:
        for old, taken in ((TrainConfig(10, lr_decay="constant"), 10), (TrainConfig(1000, warmup_steps=100), 50)):
            new = replace(old, steps=2000)
            assert going_over(new, old, taken) == new

    def test_a_second_change_begins_where_the_first_has_come_to(self) -> None:
        old = TrainConfig(steps=1000, lr=1e-3)
        first = going_over(replace(old, steps=2000), old, 1000)
        second = going_over(replace(first, steps=3000), first, 1050)
        assert (second.changed_at, second.changed_lr) == (1050, first.learning_rate(1049))

    def test_stopping_in_between_makes_no_difference(self, tmp_path: Path) -> None:
        for name in "ab":
            trained(tmp_path / name, steps=6)
        whole = Run.resume(tmp_path / "a", NUMPY, steps=60)
        halves = Run.resume(tmp_path / "b", NUMPY, steps=60)
        for _ in range(4):
            whole.trainer.take_step()
            halves.trainer.take_step()
        halves.checkpoint()
        halves = Run.resume(tmp_path / "b", NUMPY)
        assert halves.changes == []
        for _ in range(4):
            assert whole.trainer.take_step() == halves.trainer.take_step()
        assert_same(arrays(whole.trainer), arrays(halves.trainer))

    def test_the_command_says_what_the_rate_does(self, tmp_path: Path) -> None:
        trained(tmp_path, steps=6)
        options = ["--samples", 0, "--backend", "numpy"]
        out = succeed("train", "--resume", tmp_path, "--steps", 26, *options)
        last, there = (run_config(steps=n).training.learning_rate(k) for n, k in ((6, 5), (26, 7)))
        assert f"learning rate: goes over from {last:.3g} at step 6 to {there:.3g} at step 8, then falls along" in out
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert len(lines) == 26
        rates = [json.loads(line)["lr"] for line in lines]
        assert rates[6] == pytest.approx((rates[5] + run_config(steps=26).training.learning_rate(6)) / 2)

    def test_an_edited_rate_too(self, tmp_path: Path) -> None:
        trained(tmp_path)
        edit(tmp_path, "training.lr", 0.1)
        out = succeed("train", "--resume", tmp_path, "--samples", 0, "--backend", "numpy")
        assert "training.lr is 0.1 from here on; it was 0.001" in out
        assert "learning rate: goes over from" in out
