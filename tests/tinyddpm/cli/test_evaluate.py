"""`tinyddpm evaluate`: losses, scores, samples that are there already, and their form for machines."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import backends
from tests.tinyddpm.reporting.test_score_table import SCORE
from tests.tinyddpm.tiny_runs import (
    QUICK,
    SIMPLE_OPTIONS,
    beside_notice,
    invoke,
    succeed,
)
from tinyddpm import data
from tinyddpm.evaluation.loss_by_level import NoiseLevelLoss
from tinyddpm.evaluation.quality import Quality, classifier_for, quality
from tinyddpm.generation.images import draw
from tinyddpm.generation.sample_file import load_samples
from tinyddpm.reporting.score_table import table
from tinyddpm.training.run_folder import open_checkpoint

NUMPY = backends.get("numpy")


class TestEvaluate:
    def test_losses_and_scores(self, simple: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = {}

        def score(classifier: Any, samples: Any, train: Any, test: Any, asked: Any) -> Quality:
            seen.update(samples=samples, sets=(len(train), len(test)), asked=asked, size=classifier.config.size)
            return SCORE

        monkeypatch.setattr("tinyddpm.evaluation.quality.quality", score)
        out = succeed("evaluate", simple, "-n", 7, "--steps", 3, "--levels", 4, "--backend", "numpy")
        lines = out.splitlines()
        assert lines[0] == "test loss (mse of eps) on digits:"
        assert [int(line.split()[0]) for line in lines[2:6]] == [0, 16, 33, 49]
        losses = [float(line.split()[2]) for line in lines[2:6]]
        mean, value = lines[6].split()
        assert mean == "mean"
        assert float(value) == pytest.approx(np.mean(losses), abs=1e-4)
        assert "\n".join(lines[7:]) == table(SCORE, "step 3, ddpm, 3 steps, no labels, seed 0", tuple("0123456789"))
        np.testing.assert_array_equal(seen["samples"], draw(open_checkpoint(simple, NUMPY), 7, 3, sampler="ddpm")[0])
        assert (seen["sets"], seen["asked"], seen["size"]) == ((1541, 256), None, (8, 8))

    def test_how_samples_are_drawn(self, labelled: Path, tmp_path: Path) -> None:
        """The options are those of `draw`, and what was asked for goes along; labels in turn unless there are none."""
        checkpoint, path = open_checkpoint(labelled, NUMPY), tmp_path / "a.npz"
        command = ["evaluate", labelled, "-n", 12, "--steps", 2, "--levels", 1, "--backend", "numpy", "--save", path]
        for options, drawing, labels, about in (
            ([], {}, [*range(10), 0, 1], "ddpm, 2 steps, guidance 1, seed 0"),
            (["--sampler", "ddim", "--guidance", 2, "--seed", 5],
             {"sampler": "ddim", "guidance": 2.0, "seed": 5}, [*range(10), 0, 1], "ddim, 2 steps, guidance 2, seed 5"),
            (["--no-labels"], {"unlabelled": True}, None, "ddpm, 2 steps, no labels, seed 0"),
        ):  # fmt: skip
            assert f"12 samples (step 6, {about})" in succeed(*command, *options)
            saved = load_samples(path)
            np.testing.assert_array_equal(saved.images, draw(checkpoint, 12, 2, **drawing)[0])
            np.testing.assert_equal(saved.labels, labels)
            assert saved.about == f"step 6, {about}"

    def test_samples_that_are_drawn_already(self, labelled: Path, tmp_path: Path) -> None:
        run = ["evaluate", labelled, "--levels", 1, "--backend", "numpy"]
        for seed in (0, 1):
            drawn = succeed(*run, "-n", 10, "--steps", 2, "--seed", seed, "--save", tmp_path / f"{seed}.npz")
        files = ["--samples", tmp_path / "1.npz"]
        assert succeed(*run, *files) == drawn
        both = json.loads(succeed(*run, *files, "--samples", tmp_path / "0.npz", "--json"))["quality"]
        assert both["samples"]["images"] == both["sample_shares"]["images"] == 20
        assert both["about"] == ", ".join(f"step 6, ddpm, 2 steps, guidance 1, seed {s}" for s in (1, 0)).replace(
            "1, step", "1; step"
        )
        result = invoke(*run, *files, "-n", 3, "--no-labels", "--save", tmp_path / "2.npz")
        assert result.exit_code == 2
        assert "-n, --no-labels, --save is of samples to be drawn; leave it out beside --samples" in result.stderr

    @pytest.mark.parametrize("label", [None, 3])
    def test_samples_that_sample_has_drawn(self, labelled: Path, tmp_path: Path, label: int | None) -> None:
        """What `tinyddpm sample -o FILE.npz` leaves is scored by its own labels."""
        path, asked = tmp_path / "drawn.npz", [] if label is None else ["--label", label]
        succeed("sample", labelled, "-n", 12, "--steps", 2, *asked, "--backend", "numpy", "-o", path)
        score = ["evaluate", labelled, "--levels", 1, "--backend", "numpy", "--json"]
        seen = json.loads(succeed(*score, "--samples", path))["quality"]
        images, _ = draw(open_checkpoint(labelled, NUMPY), 12, 2, label=label)
        test = data.load("digits", split="test")
        labels = np.full(12, 3) if label == 3 else np.arange(12) % 10
        expected = quality(classifier_for(test, NUMPY), images, data.load("digits"), test, labels)
        what = "" if label is None else f"label {label}, "
        assert seen["about"] == f"step 6, ddpm, 2 steps, guidance 1, {what}seed 0"
        assert seen["sample_shares"]["accuracy"] == pytest.approx(expected.sample_shares.accuracy, abs=1e-6)
        assert seen["samples"]["precision"] == pytest.approx(expected.samples.precision, abs=1e-6)

    def test_with_the_classifier_itself(self, labelled: Path) -> None:
        result = invoke("evaluate", labelled, "-n", 3, "--steps", 2, "--levels", 1)
        assert result.exit_code == 0
        assert beside_notice(result.stderr) == ""
        assert "\nrecognised (≥ 0.9) " in result.stdout

    def test_for_machines(self, labelled: Path) -> None:
        command = ["evaluate", labelled, "-n", 3, "--steps", 2, "--levels", 3, "--backend", "numpy"]
        text, lines = succeed(*command, "--json"), succeed(*command).splitlines()
        seen = json.loads(text)
        assert (seen["data"], seen["step"], seen["prediction"]) == ("digits", 6, "eps")
        assert [f"{row['t']:4d}  {row['alpha_bar']:9.6f}  {row['loss']:6.4f}" for row in seen["levels"]] == lines[2:5]
        assert seen["mean_loss"] == np.mean([row["loss"] for row in seen["levels"]])
        score = seen["quality"]
        assert set(score) == {"about", "frechet_ratio", *Quality.__dataclass_fields__}
        assert score["samples"]["images"] == score["sample_shares"]["images"] == 3
        assert score["samples"]["frechet"] is score["frechet_ratio"] is None
        assert f"{score['sample_shares']['recognised']:.1%}" in lines[13]

    def test_for_machines_a_loss_that_json_cannot_write(
        self, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = ["--data", pictures, "--image-size", 8, *SIMPLE_OPTIONS, *QUICK]
        succeed("train", *options, "--steps", 1, "--out", tmp_path / "run")
        level = NoiseLevelLoss(3, 0.5, float("nan"))
        monkeypatch.setattr("tinyddpm.evaluation.loss_by_level.loss_by_noise_level", lambda *_: [level])
        seen = json.loads(succeed("evaluate", tmp_path / "run", "--json"), parse_constant=pytest.fail)
        assert seen["levels"] == [{"t": 3, "alpha_bar": 0.5, "loss": None}]
        assert seen["mean_loss"] is seen["quality"] is None

    def test_a_folder_of_images_has_losses_only(self, tmp_path: Path, pictures: Path) -> None:
        options = ["--data", pictures, "--image-size", 8, *SIMPLE_OPTIONS, *QUICK]
        succeed("train", *options, "--steps", 1, "--out", tmp_path / "run")
        out = succeed("evaluate", tmp_path / "run", "--levels", 2)
        assert len(out.splitlines()) == 6
        known = "digits, mnist, fashion-mnist"
        assert out.splitlines()[5] == f"no scores of samples: {pictures} has no classifier; there are some for {known}"

    def test_samples_beside_the_nearest_training_images(self, tmp_path: Path, simple: Path, pictures: Path) -> None:
        """Whatever the data: rows of a sample and three training images, two to a line."""
        options = ["--data", pictures, "--image-size", 8, *SIMPLE_OPTIONS, *QUICK]
        succeed("train", *options, "--steps", 1, "--out", tmp_path / "run")
        for run, count, size in ((simple, 20, (8, 8)), (tmp_path / "run", 1, (4, 1))):
            picture = tmp_path / "near.png"
            more = ["-n", count, "--steps", 2, "--levels", 1]
            succeed("evaluate", run, *more, "--nearest", picture, "--save", tmp_path / "a.npz")
            with Image.open(picture) as opened:
                assert opened.size[0] % (size[0] * 10 + 2) == 0
            assert len(load_samples(tmp_path / "a.npz").images) == count

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--save", "a.npy"], "use a name in .npz"),
            (["--nearest", "a.jpg"], "use a name in .png"),
            (["--guidance", 2], "--guidance 2.0 is towards labels, and these samples have none"),
            (["--samples", "missing.npz"], "no samples at missing.npz"),
            (["--seed", -1], "--seed must be"),
            (["--save", "no.npz/a.npz"], "no.npz is a file"),
        ],
    )
    def test_options_that_do_not_fit(
        self, simple: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[Any], words: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "no.npz").write_text("")
        monkeypatch.setattr("tinyddpm.evaluation.loss_by_level.loss_by_noise_level", pytest.fail)
        result = invoke("evaluate", simple, *options)
        assert result.exit_code == 2
        assert words in result.stderr
