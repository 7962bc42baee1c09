"""What a run writes for TensorBoard, by its own reader; through ends in the middle, and without the package."""

import builtins
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tinyddpm.tiny_runs import QUICK, SIMPLE_OPTIONS, invoke, rows, succeed, tree
from tinyddpm.reporting.tensorboard_log import TensorboardLog
from tinyddpm.training.run_folder import Run, checkpoints

TO_TENSORBOARD = ["--log-to", "tensorboard", "--backend", "numpy", "--samples", 4, "--sample-steps", 2]
TRAIN = ["train", *SIMPLE_OPTIONS, *QUICK, "--steps", 12, "--checkpoint-every", 5, "--validate-every", 4]


def read(folder: Path) -> Any:
    """TensorBoard's own view of the run."""
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed; run: pip install -e '.[tensorboard]'",
    )
    found = reader.EventAccumulator(str(folder), size_guidance={reader.SCALARS: 0, reader.IMAGES: 0})
    return found.Reload()


def check_equals_metrics(folder: Path) -> None:
    """Every number of metrics.jsonl is there once, and none else."""
    found, logged = read(folder), rows(folder)
    keys = {key for row in logged for key in row} - {"step"}
    assert set(found.Tags()["scalars"]) == keys >= {"loss", "grad_norm", "lr", "validation_loss", "validation_loss_ema"}
    for key in keys:
        expected = [(row["step"], np.float32(row[key])) for row in logged if key in row]
        assert [(event.step, np.float32(event.value)) for event in found.Scalars(key)] == expected


def test_all_numbers_and_pictures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed; run: pip install -e '.[tensorboard]'")
    run = tmp_path / "run"
    succeed(*TRAIN, *TO_TENSORBOARD, "--sample-every", 5, "--out", run)
    check_equals_metrics(run)
    shown = read(run).Images("samples")
    assert [image.step for image in shown] == [5, 10, 12]
    for image, name in zip(shown, ("samples-00000005.png", "samples-00000010.png", "samples.png"), strict=True):
        assert image.encoded_image_string == (run / name).read_bytes()
        with Image.open(io.BytesIO(image.encoded_image_string)) as picture:
            assert picture.size == (image.width, image.height)


def test_nothing_of_it_by_default(tmp_path: Path) -> None:
    succeed(*TRAIN, "--out", tmp_path / "run")
    assert not [name for name in tree(tmp_path / "run") if "tfevents" in name]


def test_a_resumed_run_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at step 8 after a checkpoint at 5: steps 6 to 8 are taken twice, and count once."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed; run: pip install -e '.[tensorboard]'")
    run, killed = tmp_path / "run", tmp_path / "killed"
    record, scalars = Run.record, TensorboardLog.scalars

    def stop(self: Run, metrics: Any) -> None:
        if metrics.step == 9:
            shutil.copytree(run, killed)
        record(self, metrics)

    def flushed(self: TensorboardLog, metrics: Any) -> None:
        scalars(self, metrics)
        self.flush()

    monkeypatch.setattr(Run, "record", stop)
    monkeypatch.setattr(TensorboardLog, "scalars", flushed)
    succeed(*TRAIN, *TO_TENSORBOARD, "--out", run)
    monkeypatch.undo()
    assert [event.step for event in read(killed).Scalars("loss")] == list(range(1, 9))
    (killed / ".lock").unlink(missing_ok=True)
    assert checkpoints(killed)[-1][0] == 5
    succeed("train", "--resume", killed, *TO_TENSORBOARD)
    check_equals_metrics(killed)
    assert rows(killed) == rows(run)


def test_without_the_package_one_line_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *more: Any, **options: Any) -> Any:
        if name.startswith("tensorboard"):
            raise ModuleNotFoundError("No module named 'tensorboard'")
        return real(name, *more, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    result = invoke(*TRAIN, *TO_TENSORBOARD, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: --log-to tensorboard needs a package (No module named 'tensorboard'); "
        "run: pip install 'tinyddpm[tensorboard]', or leave it out\n"
    )
    assert not (tmp_path / "run").exists()
