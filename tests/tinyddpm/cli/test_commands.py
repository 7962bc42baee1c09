"""The command line as it is used: every command with every kind of output."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import backends
from tests.tinyddpm.tiny_runs import (
    QUICK,
    SIMPLE_OPTIONS,
    UNET_OPTIONS,
    arrays,
    assert_same,
    images,
    invoke,
    outcome,
    rows,
    succeed,
    tree,
)
from tinyddpm.cli import main
from tinyddpm.training.run_folder import open_checkpoint, read_config
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
