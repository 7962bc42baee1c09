"""Ranks for real: processes that mpiexec starts, and what a person sees of them."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends
from tests.tinyddpm.ranks.test_shared_batches import TOLERANCE
from tests.tinyddpm.ranks.under_mpi import needs_mpi, run, start
from tests.tinyddpm.tiny_runs import QUICK, UNET_OPTIONS, outcome, rows, succeed
from tinyddpm.training.run_folder import open_checkpoint

pytestmark = [needs_mpi, pytest.mark.slow]
NUMPY = backends.get("numpy")
PROGRAM = ("-m", "tests.tinyddpm.ranks.under_mpi")
TINYDDPM = ("-m", "tinyddpm")
TRAIN = [*TINYDDPM, "train", *UNET_OPTIONS, *QUICK, "--checkpoint-every", "5", "--lr", "1e-3"]
# Seconds within which the others end after one has
SOON = 20


def ended_well(size: int, *arguments: object) -> str:
    code, out, err = run(size, *arguments)
    assert code == 0, out + err
    return out


def test_one_to_four_ranks_train_alike(tmp_path: Path):
    found = {}
    for name, size in {"1": 1, "2": 2, "3": 3, "3 again": 3, "4": 4}.items():
        ended_well(size, *PROGRAM, tmp_path / f"{name}.npz")
        with np.load(tmp_path / f"{name}.npz") as file:
            found[name] = dict(file)
    for key, expected in found["1"].items():
        tolerance = TOLERANCE[key.split()[0]] * np.abs(expected).max()
        for name in ("2", "3", "4"):
            np.testing.assert_allclose(found[name][key], expected, rtol=0, atol=tolerance, err_msg=key)
        assert found["3 again"][key].tobytes() == found["3"][key].tobytes()


def weights(folder: Path) -> np.ndarray:
    checkpoint = open_checkpoint(folder, NUMPY)
    assert checkpoint.ema is not None
    return np.stack([checkpoint.model.params, checkpoint.ema.params])


def losses(folder: Path) -> np.ndarray:
    return np.array([row["loss"] for row in rows(folder)])


def test_the_command_gives_one_run_and_one_voice(tmp_path: Path):
    alone = tmp_path / "alone"
    succeed(*TRAIN[2:], "--steps", 8, "--out", alone)
    for size in (2, 3):
        folder = tmp_path / str(size)
        out = ended_well(size, *TRAIN, "--steps", 8, "--out", folder)
        assert out.count("step 8/8") == 1
        assert f"{size} ranks share each batch, " in out
        assert sorted(outcome(folder)) == sorted(outcome(alone))
        np.testing.assert_allclose(losses(folder), losses(alone), rtol=1e-5)
        np.testing.assert_allclose(weights(folder), weights(alone), rtol=0, atol=1e-5)


def test_a_run_of_two_goes_on_with_three_and_with_one(tmp_path: Path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    succeed(*TRAIN[2:], "--steps", 12, "--lr-decay", "constant", "--out", alone)
    ended_well(2, *TRAIN, "--steps", 4, "--lr-decay", "constant", "--warmup-steps", 1, "--out", shared)
    ended_well(3, *TINYDDPM, "train", "--resume", shared, "--backend", "numpy", "--steps", 8, "--samples", 0)
    succeed("train", "--resume", shared, "--backend", "numpy", "--steps", 12, "--samples", 0)
    assert [row["step"] for row in rows(shared)] == list(range(1, 13))
    np.testing.assert_allclose(losses(shared)[:1], losses(alone)[:1], rtol=1e-5)
    again = tmp_path / "again"
    succeed(*TRAIN[2:], "--steps", 4, "--lr-decay", "constant", "--warmup-steps", 1, "--out", again)
    for steps in (8, 12):
        succeed("train", "--resume", again, "--backend", "numpy", "--steps", steps, "--samples", 0)
    np.testing.assert_allclose(losses(shared), losses(again), rtol=1e-5)
    np.testing.assert_allclose(weights(shared), weights(again), rtol=0, atol=1e-5)


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes that mpiexec has started, below its own helpers."""
    found, parents = [], [process.pid]
    while parents:
        children = [
            int(child)
            for parent in parents
            for task in Path(f"/proc/{parent}/task").glob("*/children")
            for child in task.read_text().split()
        ]
        found += [child for child in children if b"tinyddpm" in Path(f"/proc/{child}/cmdline").read_bytes()]
        parents = [child for child in children if child not in found]
    return sorted(found)


def wait_for(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_twenty_kills_and_every_time_it_goes_on(tmp_path: Path):
    """A random rank of two or three is killed at a random moment, from its first second to the middle of a save; the
    run goes on from the last checkpoint, and in the end it is that of a process to which nothing happened."""
    rng, folder, resumed = random.Random(5), tmp_path / "run", []
    training = ["--lr-decay", "constant", "--warmup-steps", "5"]
    for kill in range(20):
        begun = (folder / "config.json").exists()
        resumption = [*TINYDDPM, "train", "--resume", folder, "--backend", "numpy", "--samples", 0]
        process = start(
            rng.choice([2, 3]), *(resumption if begun else [*TRAIN, *training, "--steps", 1000, "--out", folder])
        )
        with process:
            wait_for(lambda process=process: len(ranks_of(process)) >= 2)
            if kill % 4:
                before = losses(folder).size if (folder / "metrics.jsonl").exists() else 0
                wait_for(
                    lambda before=before: (
                        (folder / "metrics.jsonl").exists()
                        and (folder / "metrics.jsonl").read_text().count("\n") > before
                    )
                )
            time.sleep(rng.random() * 0.5)
            os.kill(rng.choice(ranks_of(process)), signal.SIGKILL)
            out, _ = process.communicate(timeout=SOON)
        assert process.returncode != 0
        if kill % 4:
            assert f"if one of them ends, all do; then go on with: tinyddpm train --resume {folder}" in out
        if (folder / "config.json").exists():
            resumed.append(open_checkpoint(folder, NUMPY).step)
    assert resumed == sorted(resumed), "a checkpoint was lost"
    steps = resumed[-1] + 3
    succeed("train", "--resume", folder, "--backend", "numpy", "--steps", steps, "--samples", 0)
    assert not list(folder.rglob("*.part*")), "something is left half-written"
    assert [row["step"] for row in rows(folder)] == list(range(1, steps + 1))
    alone = tmp_path / "alone"
    succeed(*TRAIN[2:], *training, "--steps", steps, "--out", alone)
    np.testing.assert_allclose(losses(folder), losses(alone), rtol=1e-3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_to_one_rank_stops_all_after_a_checkpoint(tmp_path: Path, number: signal.Signals):
    folder = tmp_path / "run"
    with start(2, *TRAIN, "--steps", 100000, "--out", folder) as process:
        wait_for((folder / "metrics.jsonl").exists)
        os.kill(ranks_of(process)[-1], number)
        out, err = process.communicate(timeout=SOON)
    assert process.returncode == 130, out + err
    step = open_checkpoint(folder, NUMPY).step
    assert f"stopped at step {step}; go on with: tinyddpm train --resume {folder}" in out
    assert len(rows(folder)) == step


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "nowhere"], "evaluate is the work of one process; start it without mpiexec"),
        (["train", "--batch-size", "1", *QUICK[:2]], "2 ranks cannot share batches of 1 images"),
        (["train", "--resume", "nowhere"], "nowhere holds no run"),
        (["sample", "nowhere", "-o", "x.npz"], "nowhere"),
    ],
)
def test_an_error_is_told_once(tmp_path: Path, arguments: list[str], message: str):
    out = ["--out", str(tmp_path / "run")] if arguments[0] == "train" and "--resume" not in arguments else []
    code, _, err = run(2, *TINYDDPM, *arguments, *out)
    assert code == 2
    assert err.count("error: ") == 1
    assert message in err


def test_ranks_of_other_options_or_data_are_named(tmp_path: Path):
    first = [*TRAIN, "--out", tmp_path / "run"]
    code, _, err = run(1, *first, ":", "-n", "1", sys.executable, *first, "--steps", 7)
    assert code == 2
    assert "rank 1 has --steps 7, rank 0 has " in err
    assert not (tmp_path / "run").exists()


def test_an_error_of_one_rank_alone_ends_all_with_its_name(tmp_path: Path):
    """No rank but the last is told of what it meets in the middle of its steps."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from tinyddpm.cli import main\n"
        "from tinyddpm.diffusion.process import Diffusion\n"
        "from tinyddpm.ranks import world\n"
        "learn, calls = Diffusion.learn, []\n"
        "def broken(*arguments, **more):\n"
        "    calls.append(1)\n"
        "    if world().rank == 1 and len(calls) == 3:\n"
        "        raise {'memory': MemoryError('none left'), 'bug': ZeroDivisionError('a bug')}[KIND]\n"
        "    return learn(*arguments, **more)\n"
        "Diffusion.learn = broken\n"
        "KIND, *arguments = sys.argv[1:]\n"
        "main(arguments)\n"
    )
    for kind, code, words in (
        ("memory", 2, "error: rank 1: not enough memory"),
        ("bug", 1, "ZeroDivisionError: a bug"),
    ):
        folder = tmp_path / kind
        began = time.monotonic()
        returned, _, err = run(2, program, kind, *TRAIN[2:], "--out", folder)
        assert returned == code
        assert words in err
        assert time.monotonic() - began < SOON + 20
        assert open_checkpoint(folder, NUMPY).step == 0


def test_drawing_together_gives_the_bytes_that_one_draws(tmp_path: Path):
    model = tmp_path / "model"
    succeed(*TRAIN[2:], "--steps", 3, "--lr", 0.5, "--warmup-steps", 0, "--out", model)
    drawing = ["-n", 11, "--batch-size", 2, "--steps", 2, "--backend", "numpy", "-o"]
    succeed("sample", model, *drawing, tmp_path / "alone.npz")
    succeed("sample", model, *drawing, tmp_path / "alone")
    for size in (2, 3):
        assert f"wrote {tmp_path / f'{size}.npz'}" in ended_well(
            size, *TINYDDPM, "sample", model, *drawing, tmp_path / f"{size}.npz"
        )
        assert (tmp_path / f"{size}.npz").read_bytes() == (tmp_path / "alone.npz").read_bytes()
        ended_well(size, *TINYDDPM, "sample", model, *drawing, tmp_path / f"{size}")
        assert {p.name: p.read_bytes() for p in (tmp_path / f"{size}").iterdir()} == {
            p.name: p.read_bytes() for p in (tmp_path / "alone").iterdir()
        }
    ended_well(2, *TINYDDPM, "sample", model, *drawing, tmp_path / "grid.png")
    assert (tmp_path / "grid.png").exists()


def test_the_processors_are_shared_out():
    out = ended_well(2, *TINYDDPM, "doctor", *UNET_OPTIONS, *QUICK[:4])
    each = max(1, backends.thread_count.processors() // 2)
    assert f"ranks: 2, 2 of them on this machine, {each} thread" in out
    assert (
        "threads: 1 (TINYDDPM_THREADS)" in run(2, *TINYDDPM, "doctor", *UNET_OPTIONS, *QUICK[:4], TINYDDPM_THREADS=1)[1]
    )


def test_an_mpiexec_of_another_mpi_is_noticed(tmp_path: Path):
    code, _, err = run_alone(tmp_path, OMPI_COMM_WORLD_SIZE="2")
    assert code == 2
    assert "mpiexec started 2 processes, but mpi4py's library (MPICH" in err


def run_alone(tmp_path: Path, **environment: str) -> tuple[int, str, str]:
    """`tinyddpm train` without mpiexec, in an environment like that of another one."""
    command = [sys.executable, *TRAIN, "--steps", "1", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr
