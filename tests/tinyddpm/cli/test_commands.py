"""The command line as it is used: every command with every kind of output."""

import json
import math
import re
import shlex
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
    UNET_OPTIONS,
    arrays,
    assert_same,
    beside_notice,
    images,
    invoke,
    outcome,
    rows,
    succeed,
    tree,
)
from tinyddpm import data
from tinyddpm.cli import main
from tinyddpm.evaluation.loss_by_level import NoiseLevelLoss
from tinyddpm.evaluation.quality import Quality, classifier_for, quality
from tinyddpm.generation.images import draw
from tinyddpm.generation.sample_file import load_samples
from tinyddpm.reporting.score_table import table
from tinyddpm.training.run_folder import checkpoints, open_checkpoint, read_config
from tinyddpm.training.trainer import TrainConfig

NUMPY = backends.get("numpy")
EVERY_OPTION = shlex.split(
    "--data digits --image-size 16 --color --flip --model full --base-channels 12 --channel-mults 1,2,3 "
    "--num-res-blocks 1 --attention-resolutions 8,4 --num-heads 3 --groups 6 --classes --time-embedding input "
    "--dropout 0.25 --schedule sigmoid --timesteps 77 --prediction v --loss huber --variance fixed_large "
    "--steps 1 --batch-size 3 --accumulate 2 --recompute --lr 0.125 --warmup-steps 5 --lr-decay constant "
    "--weight-decay 0.5 --clip-norm 2 --ema-decay 0.75 --seed 9 --checkpoint-every 4 --keep-checkpoints 6 "
    "--validate-every 7 --zero-terminal-snr --weighting min_snr --min-snr-gamma 3"
)
# Those that go with none of the above
LEARNED_OPTIONS = shlex.split("--variance learned --loss vlb --timestep-sampling importance")


@pytest.fixture(scope="module")
def simple(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the simple U-Net."""
    folder = tmp_path_factory.mktemp("runs") / "simple"
    succeed("train", *SIMPLE_OPTIONS, *QUICK, "--steps", 3, "--out", folder)
    return folder


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the full U-Net with classes, trained so fast that its output is not zero."""
    folder = tmp_path_factory.mktemp("runs") / "labelled"
    succeed("train", *UNET_OPTIONS, *QUICK, "--steps", 6, "--lr", 0.5, "--warmup-steps", 0, "--out", folder)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of 24 photographs of two kinds and several sizes, and a file that is none."""
    for i, image in enumerate(np.random.default_rng(0).integers(0, 256, (24, 20, 16, 3)).astype(np.uint8)):
        place = tmp_path / "photos" / ("cats" if i % 2 else "dogs")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[: 12 + i % 3]).save(place / f"{i}.png")
    (tmp_path / "photos" / "cats" / "broken.png").write_bytes(b"no picture")
    return tmp_path / "photos"


class TestHelp:
    @pytest.mark.parametrize("command", ["train", "sample", "evaluate", "doctor", "export"])
    @pytest.mark.parametrize("flag", ["--help", "-h"])
    def test_every_command(self, command: str, flag: str) -> None:
        out = succeed(command, flag)
        assert out.startswith(f"Usage: main {command} [OPTIONS]")
        options = [option for option in main.commands[command].params if option.param_type_name == "option"]
        for option in options:
            assert max(option.opts, key=len) in out
            assert option.help, option.name  # type: ignore[attr-defined]

    def test_of_the_program(self) -> None:
        out = succeed("--help")
        for command in ("train", "sample", "evaluate", "doctor", "export"):
            assert f"\n  {command} " in out
        assert succeed() == out

    def test_version(self) -> None:
        assert re.fullmatch(r"main, version \d+\.\d+\.\d+\n", succeed("--version"))


class TestTrain:
    def test_what_it_says_and_leaves(self, tmp_path: Path) -> None:
        run = tmp_path / "new" / "run"
        result = invoke(
            "train", *UNET_OPTIONS[:-1], *QUICK, "--steps", 20, "--samples", 5, "--sample-steps", 3, "--out", run
        )
        assert result.exit_code == 0
        assert result.stderr == ""
        first, *steps, last, further = result.stdout.splitlines()
        config = read_config(run)
        count = open_checkpoint(run, NUMPY).model.params.shape[0]
        assert first == f"UNet of {count:,} parameters on numpy, digits 8x8x1, 20 steps of 4 out of 1,541 images"
        assert len(steps) == 20
        assert all(
            re.fullmatch(rf"step {i + 1}/20  loss \d\.\d{{4}} \(mean of {i + 1}\)  [\d.]+ steps/s  \d+ s left", line)
            for i, line in enumerate(steps)
        )
        files = ["checkpoints", "config.json", "denoising.gif", "environment.jsonl", "loss.png", "metrics.jsonl"]
        files += ["samples.png"]
        assert last == f"{run}: {', '.join(files)}"
        assert further == f"draw more with: tinyddpm sample {run}"
        assert sorted(path.name for path in run.iterdir()) == files
        assert len(rows(run)) == 20
        assert config.training.steps == 20
        with Image.open(run / "denoising.gif") as picture:
            assert getattr(picture, "n_frames", 1) == 3
        with Image.open(run / "samples.png") as picture:
            # three by two of 8 pixels with gaps of 2, enlarged until 512 is reached
            assert picture.size == (32 * 24, 22 * 24)

    def test_options_reach_the_configuration(self, tmp_path: Path) -> None:
        run = tmp_path / "run"
        succeed("train", *EVERY_OPTION, "--samples", 0, "--backend", "numpy", "--out", run)
        config = read_config(run)
        assert config.data.to_dict() == {
            "name": "digits",
            "image_size": 16,
            "color": True,
            "data_dir": None,
            "flip": True,
        }
        model = config.model.to_dict()
        chosen = {
            "image_size": 16,
            "in_channels": 3,
            "base_channels": 12,
            "channel_mults": [1, 2, 3],
            "num_res_blocks": 1,
            "attention_resolutions": [8, 4],
            "num_heads": 3,
            "groups": 6,
            "num_classes": 10,
            "time_embedding": "input",
            "dropout": 0.25,
        }
        assert {key: model[key] for key in chosen} == chosen
        assert list(config.diffusion.to_dict().values()) == [
            *("sigmoid", 77, "v", "huber", "fixed_large"),
            *(True, "min_snr", 3.0),
        ]
        assert config.training == TrainConfig(1, 3, 0.125, 5, "constant", 0.5, 2.0, 0.75, 2, 9, True)
        assert (config.checkpoint_every, config.keep_checkpoints, config.validate_every) == (4, 6, 7)

    def test_options_of_the_bound_reach_the_configuration(self, tmp_path: Path) -> None:
        options = [*SIMPLE_OPTIONS, *LEARNED_OPTIONS, *QUICK, "--steps", 1, "--out", tmp_path / "run"]
        succeed("train", *options)
        config = read_config(tmp_path / "run")
        assert (config.diffusion.variance, config.diffusion.loss) == ("learned", "vlb")
        assert config.training.timestep_sampling == "importance"

    def test_every_option_of_the_configuration_is_tried_above(self) -> None:
        elsewhere = {"--config", "--epochs", "--data-dir", "--backend", "--precision", "--no-graph", "--threads"}
        options = {option.opts[0] for option in main.commands["doctor"].params}
        assert options - elsewhere == {option for option in EVERY_OPTION + LEARNED_OPTIONS if option.startswith("--")}

    @pytest.mark.parametrize(
        ("epochs", "batch", "accumulate", "steps"), [(0.01, 4, 1, 4), (0.02, 4, 2, 4), (1e-9, 4, 1, 1), (1, 771, 1, 2)]
    )
    def test_epochs(self, tmp_path: Path, epochs: float, batch: int, accumulate: int, steps: int) -> None:
        options = [*SIMPLE_OPTIONS, "--epochs", epochs, "--batch-size", batch, "--accumulate", accumulate]
        succeed("train", *options, "--samples", 0, "--backend", "numpy", "--out", tmp_path / "run")
        assert len(rows(tmp_path / "run")) == steps

    def test_short_runs_warm_up_for_a_tenth(self, tmp_path: Path) -> None:
        succeed("train", *SIMPLE_OPTIONS, *QUICK, "--steps", 20, "--lr", 0.5, "--out", tmp_path / "run")
        assert read_config(tmp_path / "run").training.warmup_steps == 2
        assert [row["lr"] for row in rows(tmp_path / "run")[:3]] == [0.25, 0.5, 0.5]

    def test_pictures_while_training(self, tmp_path: Path) -> None:
        run = tmp_path / "run"
        options = ["--steps", 5, "--sample-every", 2, "--samples", 3, "--sample-steps", 2]
        succeed("train", *SIMPLE_OPTIONS, *QUICK, *options, "--out", run)
        assert {"samples-00000002.png", "samples-00000004.png", "samples.png"} <= set(tree(run))
        assert "samples-00000005.png" not in tree(run)
        plain = tmp_path / "plain"
        succeed("train", *SIMPLE_OPTIONS, *QUICK, "--steps", 5, "--out", plain)
        assert_same(arrays(open_checkpoint(run, NUMPY)), arrays(open_checkpoint(plain, NUMPY)))

    def test_same_seed_same_run_and_another_seed_another(self, tmp_path: Path) -> None:
        for name, seed in (("a", 3), ("b", 3), ("c", 4)):
            succeed("train", *SIMPLE_OPTIONS, *QUICK, "--steps", 2, "--seed", seed, "--out", tmp_path / name)
        assert outcome(tmp_path / "a") == outcome(tmp_path / "b")
        assert tree(tmp_path / "a" / "checkpoints") != tree(tmp_path / "c" / "checkpoints")

    def test_a_folder_of_images(self, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        result = invoke(
            "train",
            "--data",
            pictures,
            "--image-size",
            8,
            *UNET_OPTIONS,
            "--attention-resolutions",
            "",
            *QUICK,
            "--steps",
            2,
        )
        assert result.exit_code == 0
        assert result.stderr == (
            "warning: skipped 1 file that is not a readable image: cats/broken.png\n"
            "warning: 22 of 22 images are not square: only their centre is used\n"
        )
        assert "photos 8x8x3" in result.stdout
        checkpoint = open_checkpoint(tmp_path / "runs" / "photos", NUMPY)
        assert checkpoint.model.config.num_classes == 2

    def test_default_place_is_named_after_the_data(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "inner").mkdir()
        monkeypatch.chdir(tmp_path / "inner")
        Image.fromarray(images(1).images[0, ..., 0]).save("image.png")
        for number, name in enumerate((".", "../inner", "../inner/")):
            result = invoke("train", "--data", name, "--image-size", 8, *SIMPLE_OPTIONS, *QUICK, "--steps", 1)
            assert result.exit_code == (0 if number == 0 else 2)
            assert str(Path("runs") / "inner") in result.output
        succeed("train", *SIMPLE_OPTIONS, *QUICK, "--steps", 1)
        assert sorted(path.name for path in Path("runs").iterdir()) == ["digits", "inner"]

    def test_fewer_timesteps_than_the_sampler_takes_unless_told(self, tmp_path: Path) -> None:
        options = [*SIMPLE_OPTIONS, "--steps", 1, "--batch-size", 4, "--timesteps", 7, "--samples", 1]
        succeed("train", *options, "--backend", "numpy", "--out", tmp_path / "run")
        with Image.open(tmp_path / "run" / "denoising.gif") as picture:
            assert 1 < getattr(picture, "n_frames", 1) <= 7
        succeed("sample", tmp_path / "run", "-n", 1, "-o", tmp_path / "out.npy")

    def test_training_that_diverges(self, tmp_path: Path) -> None:
        run = tmp_path / "run"
        options = ["--steps", 9, "--lr", 1, "--weight-decay", 1e39, "--warmup-steps", 0, "--checkpoint-every", 1]
        result = invoke("train", *SIMPLE_OPTIONS, *QUICK, *options, "--out", run)
        assert result.exit_code == 1
        assert re.fullmatch(r"error: training stopped, .* hold NaN or infinity; lower lr.*\n", result.stderr)
        checkpoint = open_checkpoint(run, NUMPY)
        assert np.isfinite(checkpoint.model.params).all()
        assert checkpoint.step == 0
        assert len(rows(run)) == 1

    def test_learning_rate_that_explodes_names_the_operation(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(TrainConfig, "learning_rate", lambda self, step: 1e37 if step > 2 else 1e-3)
        run = tmp_path / "run"
        result = invoke("train", *SIMPLE_OPTIONS, *QUICK, "--steps", 9, "--checkpoint-every", 1, "--out", run)
        assert result.exit_code == 1
        assert re.fullmatch(r"error: training stopped, step \d: operation \w+ .*lower lr.*\n", result.stderr)
        assert np.isfinite(open_checkpoint(run, NUMPY).model.params).all()


class TestSample:
    def expected(self, run: Path, count: int, steps: int, **more: Any) -> np.ndarray:
        return draw(open_checkpoint(run, NUMPY), count, steps, **more)[0]

    @pytest.mark.parametrize(
        ("options", "more"),
        [
            ("", {}),
            ("--sampler ddim --eta 0.5 --seed 3", {"sampler": "ddim", "eta": 0.5, "seed": 3}),
            ("--sampler ddim --keep-eps", {"sampler": "ddim", "keep_eps": True}),
            ("--sampler ddpm --no-clip", {"sampler": "ddpm", "clip": False}),
            ("--spacing leading --clip", {"spacing": "leading"}),
            ("--spacing linspace --seed 18446744073709551615", {"spacing": "linspace", "seed": 2**64 - 1}),
            ("--sampler euler --spacing karras", {"sampler": "euler", "spacing": "karras"}),
            ("--sampler heun", {"sampler": "heun"}),
            ("--sampler dpm_solver --threshold 0.9", {"sampler": "dpm_solver", "threshold": 0.9}),
            ("--sampler pndm --guidance 1.5", {"sampler": "pndm", "guidance": 1.5}),
            ("--label 3", {"label": 3}),
            ("--label 9 --guidance 2.5", {"label": 9, "guidance": 2.5}),
            ("--guidance 0", {"guidance": 0.0}),
        ],
    )
    def test_options_reach_the_sampler(
        self, tmp_path: Path, labelled: Path, options: str, more: dict[str, Any]
    ) -> None:
        path = tmp_path / "out.npy"
        out = succeed("sample", labelled, "-n", 5, "--steps", 4, *options.split(), "--backend", "numpy", "-o", path)
        assert out == f"wrote {path}\n"
        np.testing.assert_array_equal(np.load(path), self.expected(labelled, 5, 4, **more))

    def test_the_average_unless_raw(self, tmp_path: Path, labelled: Path) -> None:
        for name, options in (("average", []), ("raw", ["--raw"])):
            succeed("sample", labelled, "-n", 2, "--steps", 3, *options, "-o", tmp_path / f"{name}.npy")
        average, raw = np.load(tmp_path / "average.npy"), np.load(tmp_path / "raw.npy")
        np.testing.assert_array_equal(average, self.expected(labelled, 2, 3))
        assert not np.array_equal(average, raw)
        checkpoint = open_checkpoint(labelled, NUMPY)
        checkpoint.ema = None
        np.testing.assert_array_equal(raw, draw(checkpoint, 2, 3)[0])

    def test_png_gif_and_folder(self, tmp_path: Path, simple: Path) -> None:
        for name in ("grid.png", "steps.GIF", "new/folder"):
            succeed("sample", simple, "-n", 3, "--steps", 5, "-o", tmp_path / name)
        expected = self.expected(simple, 3, 5)
        assert sorted(tree(tmp_path)) == [
            "grid.png", "new", "new/folder", *(f"new/folder/{i:05d}.png" for i in range(3)), "steps.GIF"
        ]  # fmt: skip
        for i in range(3):
            with Image.open(tmp_path / "new" / "folder" / f"{i:05d}.png") as picture:
                np.testing.assert_array_equal(np.asarray(picture), expected[i, ..., 0])
        with Image.open(tmp_path / "grid.png") as picture:
            # two by two of 8 pixels with gaps of 2, enlarged until 512 is reached
            factor = math.ceil(512 / 22)
            assert picture.size == (22 * factor, 22 * factor)
            small = np.asarray(picture)[::factor, ::factor]
        np.testing.assert_array_equal(small[2:10, 12:20], expected[1, ..., 0])
        with Image.open(tmp_path / "steps.GIF") as picture:
            assert getattr(picture, "n_frames", 1) == 5

    @pytest.mark.parametrize(("columns", "rows_"), [(1, 3), (2, 2), (3, 1)])
    def test_columns_of_a_grid(self, tmp_path: Path, simple: Path, columns: int, rows_: int) -> None:
        for name in ("grid.png", "steps.gif"):
            succeed("sample", simple, "-n", 3, "--steps", 2, "--columns", columns, "-o", tmp_path / name)
            with Image.open(tmp_path / name) as picture:
                assert picture.width * (2 + 10 * rows_) == picture.height * (2 + 10 * columns)

    def test_a_gif_has_no_more_columns_than_images(self, tmp_path: Path, simple: Path) -> None:
        succeed("sample", simple, "-n", 20, "--steps", 2, "--columns", 20, "-o", tmp_path / "steps.gif")
        with Image.open(tmp_path / "steps.gif") as picture:
            assert picture.width * 12 == picture.height * 162

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--columns", 0], "--columns must be a whole number in 1 … 2 (the number of images), got 0"),
            (["--columns", 3], "--columns must be a whole number in 1 … 2 (the number of images), got 3"),
            (["--columns", 2, "-o", "x.npy"], "--columns 2 is of a grid; leave it out, or write to a name in .png"),
            (["--columns", 2, "-o", "folder"], "--columns 2 is of a grid; leave it out"),
        ],
    )
    def test_columns_that_cannot_be(self, simple: Path, options: list[Any], words: str) -> None:
        result = invoke("sample", simple, "-n", 2, "--steps", 2, *options)
        assert result.exit_code == 2
        assert words in result.stderr

    def test_default_name_and_checkpoint_file(
        self, tmp_path: Path, simple: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        _, path = checkpoints(simple)[-1]
        assert succeed("sample", path, "-n", 1, "--steps", 2) == "wrote samples.png\n"
        assert (tmp_path / "samples.png").exists()

    def test_older_checkpoints_too(self, tmp_path: Path, labelled: Path) -> None:
        (_, older), (_, newer) = checkpoints(labelled)
        for name, path in (("older", older), ("newer", newer), ("run", labelled)):
            succeed("sample", path, "-n", 2, "--steps", 2, "-o", tmp_path / f"{name}.npy")
        older_images, newer_images, images_ = (np.load(tmp_path / f"{name}.npy") for name in ("older", "newer", "run"))
        assert np.array_equal(newer_images, images_)
        assert not np.array_equal(older_images, newer_images)


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
        assert seen["about"] == "drawn.npz"
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


class TestDoctor:
    def test_all_is_well(self) -> None:
        out = succeed("doctor", *SIMPLE_OPTIONS)
        assert out.endswith("\nall is well\n")
        assert "WARN" not in out
        assert "backend numpy: works" in out

    def test_the_defaults_are_well(self) -> None:
        assert succeed("doctor").endswith("all is well\n")

    def test_warnings(self, tmp_path: Path) -> None:
        (tmp_path / "grey").mkdir()
        Image.new("L", (8, 8), 128).save(tmp_path / "grey" / "a.png")
        options = ["--data", tmp_path / "grey", "--image-size", 8, "--steps", 1]
        out = succeed("doctor", *SIMPLE_OPTIONS, *options)
        warned = [line for line in out.splitlines() if line.startswith("WARN")]
        assert len(warned) == 3
        assert "data range: bytes 128 … 128" in warned[0]
        assert "batch: a step takes 64 of 1 images" in warned[1]
        assert "untrained ones make up 10.0%" in warned[2]
        assert out.endswith("some checks warn; see above\n")


def test_config_json_is_for_people_too(simple: Path) -> None:
    text = (simple / "config.json").read_text()
    assert text.endswith("}\n")
    assert json.loads(text)["diffusion"]["timesteps"] == 50
    assert '\n  "data": {\n    "name": "digits",' in text
