"""The program as a process of its own: `python -m tinyddpm`, and what it loads."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import backends
from tests.tinyddpm.tiny_runs import (
    QUICK,
    SIMPLE_OPTIONS,
    beside_notice,
)
from tinyddpm.generation.images import draw
from tinyddpm.training.run_folder import open_checkpoint

NUMPY = backends.get("numpy")


class TestProcess:
    def run(self, *arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tinyddpm", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **more)

    def test_train_and_sample(self, tmp_path: Path, labelled: Path) -> None:
        done = self.run("train", *SIMPLE_OPTIONS, *QUICK, "--steps", 2, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        *_, left, further = done.stdout.splitlines()
        assert left == "runs/digits: checkpoints, config.json, environment.jsonl, loss.png, metrics.jsonl"
        assert further == "draw more with: tinyddpm sample runs/digits"
        done = self.run("sample", "runs/digits", "-n", 2, "--steps", 2, "-o", "a/b.npy", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, "wrote a/b.npy\n")
        assert beside_notice(done.stderr) == ""
        expected = draw(open_checkpoint(tmp_path / "runs" / "digits", NUMPY), 2, 2)[0]
        difference = np.load(tmp_path / "a" / "b.npy").astype(int) - expected
        assert np.abs(difference).max() <= 1

    def test_errors(self, tmp_path: Path) -> None:
        done = self.run("train", "--lr", "fast", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            "error: Invalid value for '--lr': 'fast' is not a valid float. See: tinyddpm train --help\n"
        )

    def test_a_reader_that_goes_away(self, tmp_path: Path) -> None:
        """As in `tinyddpm train --help | head -1`: no traceback."""
        reading, writing = os.pipe()
        os.close(reading)
        command = [sys.executable, "-m", "tinyddpm", "train", "--help"]
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
        os.close(writing)
        assert "Traceback" not in done.stderr
