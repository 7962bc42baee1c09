"""Every kind of sudden end, and what comes after it: the end is told of, nothing since the last checkpoint is lost, and
the run that is resumed ends with the files of one that nothing happened to."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import backends
from tests.tinyddpm import sudden_ends
from tests.tinyddpm.sudden_ends import PLACES
from tests.tinyddpm.tiny_runs import QUICK, SIMPLE_OPTIONS, invoke, outcome, rows, succeed
from tinyddpm.training.run_folder import checkpoints, open_checkpoint

NUMPY = backends.get("numpy")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")

PICTURES = ["--samples", "2", "--sample-steps", "2", "--sample-every", "3"]
TRAIN = ["train", *SIMPLE_OPTIONS, *QUICK, *PICTURES, "--steps", "8", "--checkpoint-every", "2"]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes | None]:
    """The files of a run that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    succeed(*TRAIN, "--out", folder)
    found = outcome(folder)
    assert {"samples-00000003.png", "denoising.gif", "loss.png", "checkpoints/step-00000008.safetensors"} <= set(found)
    return found


class Training:
    """A training in a process of its own."""

    def __init__(self, fork: Callable[..., Any], home: Path) -> None:
        self.fork, self.home, self.folder = fork, home, home / "run"
        self.out, self.err, self.status = home / "out", home / "err", None

    def start(self, function: Callable[..., None], *more: Any, arguments: list[str] | None = None) -> Any:
        arguments = [*TRAIN, "--out", str(self.folder)] if arguments is None else arguments
        return self.fork(function, arguments, self.out, self.err, *more)

    def end(self, process: Any) -> int:
        """Its exit status, negative for a signal."""
        process.join(60)
        assert process.exitcode is not None, "it goes on for ever"
        return process.exitcode

    def go_on(self) -> None:
        """What a person does next: resumes, or begins where nothing is there yet."""
        if (self.folder / "config.json").exists():
            succeed("train", "--resume", self.folder, "--backend", "numpy", *PICTURES)
        else:
            succeed(*TRAIN, "--out", self.folder)

    def line(self) -> str:
        """The one line on stderr; click begins a new one after Ctrl-C."""
        (line,) = self.err.read_text().strip().splitlines()
        return line


@pytest.fixture
def training(fork: Callable[..., Any], tmp_path: Path) -> Training:
    return Training(fork, tmp_path)


@pytest.mark.parametrize("number", SIGNALS, ids=[number.name for number in SIGNALS])
@pytest.mark.parametrize("place", PLACES)
def test_signals(training: Training, undisturbed: Any, place: str, number: signal.Signals) -> None:
    status = training.end(training.start(sudden_ends.train_and_get, place, number))
    if number == signal.SIGKILL:
        assert status == -signal.SIGKILL
    elif place == "in the first second":
        assert status == 130
        assert training.line() == "error: interrupted"
        assert not training.folder.exists()
    elif place == "in a picture at the end":
        assert status == 130
        resume = re.escape(shlex.join(["tinyddpm", "train", "--resume", str(training.folder)]))
        assert re.fullmatch(rf"error: interrupted; go on with: {resume} \(the pictures .*\)", training.line())
    else:
        assert status == 130
        assert training.err.read_text() == ""
        found = re.search(r"stopped at step (\d) of|stopped at step (\d); go on with: ", training.out.read_text())
        assert found is not None
        step = int(found[1] or found[2])
        assert step == {"in a save": 4, "in a picture while training": 3}.get(place, 5)
        assert open_checkpoint(training.folder, NUMPY).step == step == len(rows(training.folder))
    training.go_on()
    assert outcome(training.folder) == undisturbed
    assert [row["step"] for row in rows(training.folder)] == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("number", SIGNALS[1:], ids=[number.name for number in SIGNALS[1:]])
def test_a_signal_that_the_parent_process_ignores(training: Training, undisturbed: Any, number: signal.Signals) -> None:
    """As nohup does SIGHUP, and a shell SIGINT for what it runs in the background."""
    for place in ("in the first second", "in a step"):
        assert training.end(training.start(sudden_ends.train_and_get, place, number, True)) == 0
        assert outcome(training.folder) == undisturbed
        training.folder.rename(training.home / place)


@pytest.mark.parametrize("stderr", ["stderr open", "stderr closed"])
def test_a_pipe_that_nobody_reads(training: Training, undisturbed: Any, stderr: str) -> None:
    err = training.err if stderr == "stderr open" else None
    arguments = [*TRAIN, "--out", str(training.folder)]
    assert training.end(training.fork(sudden_ends.train, arguments, None, err)) == 0
    if err is not None:
        assert training.line() == "warning: nothing more can be printed (its reader has left); the work goes on"
    assert outcome(training.folder) == undisturbed


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_an_output_file_on_a_full_disk(training: Training, undisturbed: Any) -> None:
    arguments = [*TRAIN, "--out", str(training.folder)]
    assert training.end(training.fork(sudden_ends.train, arguments, Path("/dev/full"), training.err)) == 0
    assert "warning: nothing more can be printed (No space left on device)" in training.line()
    assert outcome(training.folder) == undisturbed


@pytest.mark.parametrize(
    ("kind", "file", "remedy", "step"),
    [
        ("a disk full for the log", "metrics.jsonl: File too large", "make room", 4),
        ("a disk full for a checkpoint", "step-00000004.safetensors: File too large", "make room", 2),
        ("a disk full for a picture", "denoising.gif: File too large", "make room", 8),
        ("a disk that is write-protected", "metrics.jsonl: Read-only file system", "permissions", 4),
    ],
)
def test_a_disk_that_fails(training: Training, undisturbed: Any, kind: str, file: str, remedy: str, step: int) -> None:
    arguments = [*TRAIN, "--out", str(training.folder)]
    # What is printed would fill the disk before the log does
    out = Path(os.devnull) if kind == "a disk full for the log" else training.out
    process = training.fork(sudden_ends.train_and_meet, kind, training.folder, arguments, out, training.err)
    assert training.end(process) == 2
    line = training.line()
    assert line.startswith("error: cannot use ")
    for words in (file, remedy, f"then go on with: tinyddpm train --resume {training.folder}"):
        assert words in line
    assert ("the pictures alone" if step == 8 else f"(at step {step} of 8)") in line
    assert checkpoints(training.folder)[-1][0] == step
    if file.startswith("metrics") and "large" in file:
        assert not (training.folder / "metrics.jsonl").read_text().endswith("\n")
    training.go_on()
    assert outcome(training.folder) == undisturbed


@pytest.mark.parametrize("kind", ["a folder that is moved", "a folder that is replaced"])
def test_a_folder_that_is_lost(training: Training, undisturbed: Any, kind: str) -> None:
    arguments = [*TRAIN, "--out", str(training.folder)]
    process = training.fork(sudden_ends.train_and_meet, kind, training.folder, arguments, training.out, training.err)
    assert training.end(process) == 2
    assert f"{training.folder}" in training.line()
    if training.folder.exists():
        assert "config.json" not in outcome(training.folder)
        for path in (training.folder / "checkpoints").glob("*"):
            path.unlink()
        for path in training.folder.glob("*"):
            path.rmdir()
        training.folder.rmdir()
    (training.home / "moved").rename(training.folder)
    training.go_on()
    assert outcome(training.folder) == undisturbed


def test_folders_that_cannot_be_flushed(training: Training, undisturbed: Any) -> None:
    assert training.end(training.start(sudden_ends.train_unable_to_flush_folders)) == 0
    assert outcome(training.folder) == undisturbed


def test_a_terminal_that_is_closed(tmp_path: Path) -> None:
    """A real one, with a progress bar on it: the signal comes, and nothing can be written there any more."""
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    fcntl = pytest.importorskip("fcntl")
    master, terminal = pty.openpty()
    arguments = [*SIMPLE_OPTIONS, *QUICK, "--lr-decay", "constant", "--steps", "100000", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, "-m", "tinyddpm", "train", *arguments],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    try:
        os.close(terminal)
        wait_until((tmp_path / "run" / "metrics.jsonl").exists)
        os.close(master)
        assert process.wait(60) == 130
    finally:
        process.kill()
    assert open_checkpoint(tmp_path / "run", NUMPY).step == len(rows(tmp_path / "run")) > 0
    assert not (tmp_path / "run" / ".lock").exists()


class TestTwoWriters:
    def test_the_second_is_refused_and_the_first_goes_on(self, training: Training, undisturbed: Any) -> None:
        there, go = training.home / "there", training.home / "go"
        first = training.start(sudden_ends.train_and_wait, "in a step", there, go)
        wait_until(there.exists)
        before = outcome(training.folder)
        for arguments in ([*TRAIN, "--out", training.folder], ["train", "--resume", training.folder]):
            result = invoke(*arguments)
            assert result.exit_code == 2
            assert f"{training.folder} is in use: process {first.pid} on " in result.stderr
            assert len(result.stderr.splitlines()) == 1
            assert outcome(training.folder) == before
        go.touch()
        assert training.end(first) == 0
        assert outcome(training.folder) == undisturbed

    @pytest.mark.parametrize("resumed", [False, True], ids=["new", "resumed"])
    def test_two_at_once(self, training: Training, undisturbed: Any, resumed: bool) -> None:
        arguments = [*TRAIN, "--out", str(training.folder)]
        if resumed:
            training.end(training.start(sudden_ends.train_and_get, "in a step", signal.SIGKILL))
            arguments = ["train", "--resume", str(training.folder), "--backend", "numpy", *PICTURES]
        others = [Training(training.fork, training.home / name) for name in ("a", "b")]
        for other in others:
            other.home.mkdir()
        processes = [other.start(sudden_ends.train, arguments=arguments) for other in others]
        statuses = [other.end(process) for other, process in zip(others, processes, strict=True)]
        # Where one is over before the other begins, that finds a run
        assert sorted(statuses) in ([0, 2], [0, 0] if resumed else [0, 2])
        for other, status in zip(others, statuses, strict=True):
            assert status == 0 or re.search(r"is in use|already holds a run", other.line())
        assert outcome(training.folder) == undisturbed
        assert [row["step"] for row in rows(training.folder)] == [1, 2, 3, 4, 5, 6, 7, 8]


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def test_there_are_enough_kinds() -> None:
    assert len(PLACES) * len(SIGNALS) >= 24
