"""`tinyddpm export`: the folder that diffusers loads, and models with classes."""

from pathlib import Path

import numpy as np
import pytest

import backends
from tests.tinyddpm.tiny_runs import (
    QUICK,
    invoke,
    succeed,
    tree,
)
from tinyddpm import load_diffusers
from tinyddpm.training.run_folder import open_checkpoint

NUMPY = backends.get("numpy")


class TestExport:
    def test_export_then_load(self, tmp_path: Path, labelled: Path) -> None:
        for name, options in (("average", []), ("raw", ["--raw"])):
            folder = tmp_path / name
            assert succeed("export", labelled, folder, *options).startswith(f"wrote {folder}\nthe model takes labels")
            model, diffusion = load_diffusers(folder, NUMPY)
            checkpoint = open_checkpoint(labelled, NUMPY)
            expected = checkpoint.model if options else checkpoint.sampling_model()
            x = np.random.default_rng(0).standard_normal((2, 8, 8, 1)).astype(np.float32)
            y = model(x, 7, labels=np.array([1, 2]))
            np.testing.assert_allclose(y, expected(x, 7, labels=np.array([1, 2])), rtol=1e-5, atol=1e-6)
            assert np.abs(y).max() > 0
            np.testing.assert_allclose(diffusion.schedule.betas, checkpoint.diffusion.schedule.betas, rtol=1e-6)
        assert tree(tmp_path / "average") != tree(tmp_path / "raw")

    def test_labels(self, tmp_path: Path, labelled: Path) -> None:
        """A pipeline passes none: it is said how to call the network, or one is chosen."""
        out = succeed("export", labelled, tmp_path / "all")
        assert "DDPMPipeline passes none: call its unet(x, t, class_labels=labels) by hand" in out
        assert "0 … 9 or 10 for none" in out
        assert "--label" in out
        full = open_checkpoint(labelled, NUMPY).sampling_model()
        x = np.random.default_rng(0).standard_normal((2, 8, 8, 1)).astype(np.float32)
        for label, number in ((7, 7), ("none", 10)):
            folder = tmp_path / f"only-{label}"
            assert succeed("export", labelled, folder, "--label", label) == f"wrote {folder}\n"
            model, _ = load_diffusers(folder, NUMPY)
            assert model.config.num_classes is None
            expected = full(x, 7, labels=np.array([number, number]))
            np.testing.assert_allclose(model(x, 7), expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            (["--model", "simple"], "cannot express a SimpleUNet"),
            (["--attention-resolutions", "8,4"], "num_heads=1"),
            (["--time-embedding", "input"], "time_embedding='resblock'"),
            ([], ""),
        ],
    )
    def test_training_says_what_could_not_be_exported(self, tmp_path: Path, options: list[str], reason: str) -> None:
        small = ["--base-channels", 8, "--groups", 2]
        out = succeed("train", *small, *QUICK, *options, "--steps", 1, "--out", tmp_path / "run")
        notes = [line for line in out.splitlines() if line.startswith("note: `tinyddpm export` could not write this")]
        assert len(notes) == (1 if reason else 0)
        assert reason in "".join(notes)
        export = invoke("export", tmp_path / "run", tmp_path / "out")
        assert export.exit_code == (2 if reason else 0)
        assert reason in export.stderr
        advised = succeed("doctor", *small, *options)
        assert ("note `tinyddpm export` could not write this" in advised) == bool(reason)
