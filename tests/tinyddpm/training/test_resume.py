"""A run that was stopped, interrupted or killed goes on as if it never had been, bit for bit."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends
from tests.tinyddpm.tiny_runs import (
    CONFIGS,
    QUICK,
    SIMPLE_OPTIONS,
    UNET_OPTIONS,
    arrays,
    assert_same,
    images,
    invoke,
    make_trainer,
    outcome,
    rows,
    run_config,
    spied,
    succeed,
    tree,
)
from tinyddpm import data
from tinyddpm.cli import main
from tinyddpm.training.checkpoint import load, save
from tinyddpm.training.run_folder import Run, checkpoints, open_checkpoint, read_config
from tinyddpm.training.trainer import TrainConfig, Trainer

NUMPY = backends.get("numpy")


def on_host(trainer: Trainer) -> dict[str, Any]:
    """`arrays`, as NumPy arrays."""
    to_numpy = trainer.model.backend.to_numpy
    return {name: to_numpy(value) if hasattr(value, "shape") else value for name, value in arrays(trainer).items()}


def resumed(path: Path, training: TrainConfig, trainer: Trainer, backend: backends.Backend = NUMPY) -> Trainer:
    """A trainer in another process's shoes: all state from the file, the data set loaded a second time."""
    save(path, trainer.model, trainer.diffusion, optimizer=trainer.optimizer, ema=trainer.ema, step=trainer.step)
    seen = load(path, backend)
    batches = data.Batches(images(), training.batch_size, training.seed, flip=True)
    return Trainer(seen.model, seen.diffusion, batches, training, seen.optimizer, seen.ema, seen.step)


class TestTrainer:
    @pytest.mark.parametrize(
        ("kind", "training"),
        [
            ("UNet", TrainConfig(20, 3, 0.01, 4, "cosine", 0.01, 0.5, 0.9, accumulate=2, seed=3)),
            ("UNet", TrainConfig(20, 3, 0.01, 15, "constant", accumulate=1)),
            ("SimpleUNet", TrainConfig(20, 3, 0.01, 4, "cosine", 0.01, 0.5, 0.9, accumulate=2, seed=3)),
            ("SimpleUNet", TrainConfig(20, 8, 0.01, 0, "cosine", clip_norm=float("inf"))),
        ],
    )
    def test_twenty_steps_are_ten_and_ten(self, tmp_path: Path, kind: str, training: TrainConfig) -> None:
        whole = make_trainer(CONFIGS[kind], training)
        batches, metrics = spied(whole), list(whole.run())

        first = make_trainer(CONFIGS[kind], training)
        first_batches = spied(first)
        first_metrics = [metrics for _, metrics in zip(range(10), first.run(), strict=False)]
        second = resumed(tmp_path / "c", training, first)
        assert second.step == 10
        second_batches, second_metrics = spied(second), list(second.run())

        assert first_batches + second_batches == batches == list(range(20 * training.accumulate))
        assert first_metrics + second_metrics == metrics
        assert_same(arrays(second), arrays(whole))

    def test_on_the_backend_of_this_machine(self, tmp_path: Path) -> None:
        """Whose kernels may work in place: nothing may be shared that was not before."""
        backend = backends.get("auto")
        training = TrainConfig(12, 3, 0.01, 2, "cosine", 0.01, 0.5, 0.9, accumulate=2)
        whole, halves = (make_trainer(CONFIGS["UNet"], training, backend=backend) for _ in range(2))
        metrics = list(whole.run())
        seen = [metrics for _, metrics in zip(range(6), halves.run(), strict=False)]
        halves = resumed(tmp_path / "c", training, halves, backend)
        assert seen + list(halves.run()) == metrics
        assert_same(on_host(halves), on_host(whole))

    def test_a_stop_after_every_step(self, tmp_path: Path) -> None:
        training = TrainConfig(6, 3, 0.01, 2)
        whole = make_trainer(CONFIGS["SimpleUNet"], training)
        expected = list(whole.run())
        trainer, seen = make_trainer(CONFIGS["SimpleUNet"], training), []
        for _ in range(6):
            seen.append(trainer.take_step())
            trainer = resumed(tmp_path / "c", training, trainer)
        assert seen == expected
        assert_same(arrays(trainer), arrays(whole))

    @pytest.mark.parametrize(
        "forgotten", ["optimizer.m", "optimizer.v", "optimizer.steps", "ema.updates", "ema.params"]
    )
    def test_forgetting_any_part_would_be_seen(self, tmp_path: Path, forgotten: str) -> None:
        """The comparison above is no empty one: each part of the state has a say in the end."""
        training = TrainConfig(8, 3, 0.01, 2, ema_decay=0.9)
        whole = make_trainer(CONFIGS["SimpleUNet"], training)
        first = make_trainer(CONFIGS["SimpleUNet"], training)
        for _ in whole.run():
            if first.step < 4:
                first.take_step()
        second = resumed(tmp_path / "c", training, first)
        owner, name = forgotten.split(".")
        holder = getattr(second, owner)
        setattr(holder, name, 0 * getattr(holder, name))
        for _ in second.run():
            pass
        with pytest.raises(AssertionError):
            assert_same(arrays(second), arrays(whole))


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """at_step(k, signal, …): the process gets these signals as step k has been logged, once."""

    def arm(step: int, *signals: signal.Signals) -> None:
        waiting = list(signals)
        record = Run.record.__wrapped__ if hasattr(Run.record, "__wrapped__") else Run.record

        def recording(run: Run, metrics: Any) -> None:
            record(run, metrics)
            while metrics.step == step and waiting:
                signal.raise_signal(waiting.pop(0))

        recording.__wrapped__ = record  # type: ignore[attr-defined]
        monkeypatch.setattr(Run, "record", recording)

    return arm


LONG = ["--flip", "--accumulate", "2", "--lr-decay", "cosine", "--steps", "20", "--checkpoint-every", "5"]


class TestCommandLine:
    @pytest.mark.parametrize("options", [[*UNET_OPTIONS, "--dropout", "0.1"], SIMPLE_OPTIONS], ids=["UNet", "simple"])
    def test_interrupted_twice_is_as_never_interrupted(
        self, tmp_path: Path, at_step: Callable[..., None], options: list[str]
    ) -> None:
        common = [*options, *QUICK, *LONG, "--samples", "2", "--sample-steps", "3"]
        whole, halves = tmp_path / "whole", tmp_path / "two halves"
        succeed("train", *common, "--out", whole)

        at_step(7, signal.SIGINT)
        result = invoke("train", *common, "--out", halves)
        assert result.exit_code == 130
        assert result.stdout.endswith(f"stopped at step 7; go on with: tinyddpm train --resume '{halves}'\n")
        assert result.stderr == ""
        assert [row["step"] for row in rows(halves)] == [1, 2, 3, 4, 5, 6, 7]
        assert open_checkpoint(halves, NUMPY).step == 7
        assert not (halves / "samples.png").exists()

        after = ["--backend", "numpy", "--samples", "2", "--sample-steps", "3"]
        at_step(13, signal.SIGTERM)
        result = invoke("train", "--resume", halves, *after)
        assert result.exit_code == 130
        assert f"resuming {halves} at step 7\n" in result.stdout
        assert "stopped at step 13" in result.stdout

        assert "resuming" in succeed("train", "--resume", halves, *after)
        assert outcome(halves) == outcome(whole)
        assert {"samples.png", "denoising.gif", "loss.png", "metrics.jsonl", "config.json"} <= set(tree(whole))

    def test_second_ctrl_c_does_not_wait(self, tmp_path: Path, at_step: Callable[..., None]) -> None:
        common = [*SIMPLE_OPTIONS, *QUICK, "--steps", "6", "--checkpoint-every", "2"]
        whole, halves = tmp_path / "whole", tmp_path / "halves"
        succeed("train", *common, "--out", whole)
        at_step(3, signal.SIGINT, signal.SIGINT)
        result = invoke("train", *common, "--out", halves)
        assert result.exit_code == 130
        assert result.stderr.strip() == (
            f"error: interrupted; go on with: tinyddpm train --resume {halves} (at step 2 of 6)"
        )
        assert open_checkpoint(halves, NUMPY).step == 2
        assert [row["step"] for row in rows(halves)] == [1, 2, 3]
        succeed("train", "--resume", halves, "--samples", 0, "--backend", "numpy")
        assert outcome(halves) == outcome(whole)

    def test_ctrl_c_at_the_last_step_finishes(self, tmp_path: Path, at_step: Callable[..., None]) -> None:
        at_step(3, signal.SIGINT)
        out = succeed("train", *SIMPLE_OPTIONS, *QUICK, "--steps", 3, "--out", tmp_path / "run")
        assert "stopped" not in out
        assert (tmp_path / "run" / "loss.png").exists()

    def test_signals_are_handed_back(self, tmp_path: Path, at_step: Callable[..., None]) -> None:
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        at_step(2, signal.SIGTERM)
        assert invoke("train", *SIMPLE_OPTIONS, *QUICK, "--steps", 5, "--out", tmp_path / "run").exit_code == 130
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

    def test_a_new_total_of_steps(self, tmp_path: Path) -> None:
        common = [*SIMPLE_OPTIONS, *QUICK, "--lr-decay", "constant", "--warmup-steps", "2", "--checkpoint-every", "4"]
        whole, halves = tmp_path / "whole", tmp_path / "halves"
        succeed("train", *common, "--steps", 8, "--out", whole)
        succeed("train", *common, "--steps", 4, "--out", halves)
        succeed("train", "--resume", halves, "--steps", 8, "--samples", 0, "--backend", "numpy")
        assert outcome(halves) == outcome(whole)

    def test_a_finished_run_only_gets_its_pictures_again(self, tmp_path: Path) -> None:
        run = tmp_path / "run"
        succeed("train", *SIMPLE_OPTIONS, *QUICK, "--steps", 2, "--samples", 2, "--sample-steps", 2, "--out", run)
        before = tree(run)
        (run / "samples.png").unlink()
        succeed("train", "--resume", run, "--samples", 2, "--sample-steps", 2, "--backend", "numpy")
        assert tree(run) == before

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_real_process_and_a_real_signal(self, tmp_path: Path, number: signal.Signals) -> None:
        run = tmp_path / "run"
        arguments = [*SIMPLE_OPTIONS, *QUICK, "--lr-decay", "constant", "--steps", "100000", "--out", str(run)]
        process = subprocess.Popen(
            [sys.executable, "-m", "tinyddpm", "train", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            wait_until(lambda: (run / "metrics.jsonl").exists() or process.poll() is not None)
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 130, err
        assert err == ""
        found = re.search(r"stopped at step (\d+); go on with: tinyddpm (train --resume .*)\n", out)
        assert found is not None
        step = int(found[1])
        assert open_checkpoint(run, NUMPY).step == step == len(rows(run))
        succeed(*shlex.split(found[2]), "--steps", step + 2, "--samples", 0, "--backend", "numpy")
        assert [row["step"] for row in rows(run)] == list(range(1, step + 3))


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Polls often: the moments that follow are to be anywhere in the other process's work."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


# Run in a forked process of its own: imports are shared, so that a start takes milliseconds


def quiet() -> None:
    """No output from a process that is to be killed."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)


def run_command(*arguments: str) -> None:
    quiet()
    main(list(arguments))


def train_until_file_operation(folder: Path, fatal: int) -> None:
    """Creates or resumes the small run in folder, and is killed in front of its fatal-th operation on files there."""
    quiet()
    count = 0

    def step(*_: Any) -> None:
        nonlocal count
        count += 1
        if count == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename", "os.remove", "os.mkdir") and str(arguments[0]).startswith(str(folder)):
            step()

    fsync = os.fsync
    os.fsync = lambda number: (step(), fsync(number))[1]  # type: ignore[func-returns-value]
    sys.addaudithook(audit)
    train_small(folder)


def train_small(folder: Path) -> None:
    """Two steps, each with a checkpoint of which one is kept."""
    if (folder / "config.json").exists():
        run = Run.resume(folder, NUMPY)
    else:
        run = Run.create(folder, run_config(steps=2, checkpoint_every=1, keep=1), NUMPY)
    for metrics in run.trainer.run():
        run.record(metrics)
        run.checkpoint()


class TestKilled:
    def test_at_twenty_random_moments(self, tmp_path: Path, fork: Callable[..., Any]) -> None:
        whole, run = tmp_path / "whole", tmp_path / "run"
        options = ["train", *SIMPLE_OPTIONS, *QUICK, "--steps", "60", "--checkpoint-every", "1"]
        resume = ["train", "--resume", str(run), "--samples", "0", "--backend", "numpy"]
        succeed(*options, "--out", whole)
        rng, last = np.random.default_rng(9), 0
        for _ in range(20):
            there = (run / "config.json").exists()
            process = fork(run_command, *(resume if there else [*options, "--out", str(run)]))
            wait_until(partial(reached, run, last + int(rng.integers(0, 4)), process))
            time.sleep(rng.uniform(0, 0.05))
            process.kill()
            process.join()
            if not (run / "config.json").exists():
                continue
            assert read_config(run) == read_config(whole)
            found = checkpoints(run)
            assert 1 <= len(found) <= 3
            for step, path in found:
                assert load(path, NUMPY).step == step
            assert found[-1][0] >= last
            last = found[-1][0]
        assert last > 5
        succeed(*resume)
        assert outcome(run) == outcome(whole)

    def test_in_front_of_every_operation_on_files(self, tmp_path: Path, fork: Callable[..., Any]) -> None:
        whole = tmp_path / "whole"
        train_small(whole)
        expected, fatal, code = tree(whole), 0, -signal.SIGKILL
        while code == -signal.SIGKILL:
            fatal += 1
            folder = tmp_path / f"run{fatal}"
            process = fork(train_until_file_operation, folder, fatal)
            process.join(60)
            code = process.exitcode
            if (folder / "config.json").exists():
                assert open_checkpoint(folder, NUMPY).optimizer is not None
            train_small(folder)
            assert tree(folder) == expected, fatal
        assert code == 0
        assert fatal > 20


def reached(run: Path, step: int, process: Any) -> bool:
    """Whether the run has a checkpoint of that step, or the process has ended before."""
    return any(seen >= step for seen, _ in checkpoints(run)) or not process.is_alive()
