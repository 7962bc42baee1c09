"""Options together: defaults that nobody chose give way, and all commands take what one of them takes."""

import json
from pathlib import Path

import numpy as np
import pytest

import backends
from tests.tinyddpm.tiny_runs import QUICK, SIMPLE_OPTIONS, invoke, succeed, tree
from tinyddpm import data
from tinyddpm.diffusers_format import load_diffusers
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.networks.unet import UNetConfig
from tinyddpm.training.run_folder import open_checkpoint, read_config

NUMPY = backends.get("numpy")
SMALL = ["--base-channels", 4, "--groups", 2]


@pytest.mark.parametrize(
    ("options", "attention"),
    [
        ("--image-size 64 --num-heads 1", (32,)),
        ("--image-size 16", (8,)),
        ("--image-size 28", (14,)),
        ("--channel-mults 1", (8,)),
        ("--image-size 16 --channel-mults 1,2,4", (4,)),
        ("", (4,)),
    ],
)
def test_attention_that_nobody_chose(tmp_path: Path, options: str, attention: tuple[int, ...]) -> None:
    succeed("train", *SMALL, *QUICK, "--steps", 1, *options.split(), "--out", tmp_path / "run")
    model = read_config(tmp_path / "run").model
    assert isinstance(model, UNetConfig)
    assert model.attention_resolutions == attention


@pytest.mark.parametrize("options", [["--base-channels", 6], ["--base-channels", 5, "--channel-mults", "1,3"]])
@pytest.mark.parametrize("network", [[], ["--model", "simple"]])
def test_groups_and_heads_that_nobody_chose(tmp_path: Path, options: list[object], network: list[str]) -> None:
    succeed("train", *QUICK, "--steps", 1, *options, *network, "--out", tmp_path / "run")


@pytest.mark.parametrize("network", [[], ["--model", "simple"]])
def test_oblong_images_through_all_commands(tmp_path: Path, network: list[str]) -> None:
    run = tmp_path / "run"
    out = succeed("train", *SMALL, *network, *QUICK, "--steps", 1, "--image-size", "24x16", "--out", run)
    assert "digits 24x16x1" in out
    succeed("sample", run, "-n", 2, "--steps", 2, "-o", tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").shape == (2, 24, 16, 1)
    for name in ("grid.png", "steps.gif", "folder"):
        succeed("sample", run, "-n", 2, "--steps", 2, "-o", tmp_path / name)
    assert "classifier" in succeed("evaluate", run, "-n", 2, "--steps", 2, "--levels", 1)
    succeed("train", "--resume", run, "--steps", 2, "--samples", 0)
    assert "24x16 can be halved 1 times" in succeed("doctor", *SMALL, *network, "--image-size", "24x16")
    again = tmp_path / "again"
    succeed("train", "--config", run, "--steps", 1, "--samples", 0, "--out", again)
    assert read_config(again).data.image_size == (24, 16)
    (tmp_path / "run.toml").write_text("image_size = [24, 16]\n")
    succeed("doctor", *SMALL, *network, "--config", tmp_path / "run.toml")
    if not network:
        succeed("export", run, tmp_path / "export")
        model, _ = load_diffusers(tmp_path / "export", NUMPY)
        assert model.config.size == (24, 16)


@pytest.mark.parametrize("size", ["64x", "x64", "64x48x3", "64*48", "a", "6.5", ""])
def test_sizes_that_are_none(tmp_path: Path, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("train", "--image-size", size)
    assert result.exit_code == 2
    assert f"{size!r} is no side in pixels, such as 64, or height x width, such as 64x48. See: " in result.stderr


def test_evaluate_measures_nothing_before_its_options_are_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: object, **__: object) -> None:
        raise AssertionError("a loss was measured")

    succeed("train", *SIMPLE_OPTIONS, *QUICK, "--steps", 1, "--out", tmp_path / "run")
    monkeypatch.setattr("tinyddpm.evaluation.loss_by_level.loss_by_noise_level", measure)
    for options in (["--steps", 51], ["--steps", 0], ["--levels", 0], ["-n", 0]):
        assert invoke("evaluate", tmp_path / "run", *options).exit_code == 2
    load = data.load
    monkeypatch.setattr(data, "load", lambda *a, split, **k: load(*a, split=split, **k) if split == "test" else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        invoke("evaluate", tmp_path / "run")


def test_what_is_wrong_is_said_before_the_data_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("the data were loaded")

    succeed("train", *SIMPLE_OPTIONS, *QUICK, "--steps", 1, "--out", tmp_path / "run")
    before = tree(tmp_path)
    monkeypatch.setattr(data, "load", load)
    for options in (
        ["--lr", "nan"],
        ["--epochs", 0],
        ["--epochs", 1, "--batch-size", 0],
        ["--checkpoint-every", 0],
        ["--sample-steps", 1001],
        ["--image-size", 32, "--groups", 3],
        ["--model", "simple", "--num-heads", 2],
        ["--out", tmp_path / "run"],
    ):
        result = invoke("train", *options)
        assert result.exit_code == 2, options
        assert result.stderr.startswith("error: ")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("schedule", ["log_snr", "linear"])
def test_zero_terminal_snr_through_all_commands(tmp_path: Path, schedule: str) -> None:
    run, options = tmp_path / "run", [*SMALL, *QUICK[:-2], "--schedule", schedule, "--zero-terminal-snr"]
    succeed("train", *options, "--samples", 0, "--prediction", "v", "--steps", 2, "--out", run)
    assert read_config(run).diffusion.zero_terminal_snr
    made = Schedule.by_name(schedule, 50, zero_terminal_snr=True)
    np.testing.assert_array_equal(open_checkpoint(run, NUMPY).diffusion.schedule.betas, made.betas)
    for more in ([], ["--no-clip"], ["--sampler", "ddim"]):
        succeed("sample", run, "-n", 2, "--steps", 5, *more, "-o", tmp_path / "grid.png", "--backend", "numpy")
    assert " 0.000000  " in succeed("evaluate", run, "-n", 2, "--steps", 2, "--levels", 2, "--backend", "numpy")
    succeed("train", "--resume", run, "--steps", 3, "--samples", 0, "--backend", "numpy")
    assert "alpha_bar_T = 0:" in succeed("doctor", *options, "--prediction", "x0")
    succeed("export", run, tmp_path / "folder")
    for number, start in enumerate((run, tmp_path / "folder")):
        again = tmp_path / f"again{number}"
        succeed("train", "--init", start, *QUICK[:4], "--samples", 0, "--steps", 1, "--out", again)
        diffusion = read_config(again).diffusion
        assert (diffusion.schedule, diffusion.zero_terminal_snr, diffusion.prediction) == (schedule, True, "v")


def test_zero_terminal_snr_is_not_for_eps(tmp_path: Path) -> None:
    result = invoke("train", *QUICK, "--zero-terminal-snr", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert result.stderr.startswith('error: prediction "eps" says nothing of the image where alpha_bar is 0')
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_run_from_before_zero_terminal_snr_is_read(tmp_path: Path) -> None:
    succeed("train", *SMALL, *QUICK, "--steps", 1, "--out", tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    values = json.loads(path.read_text())
    del values["diffusion"]["zero_terminal_snr"]
    path.write_text(json.dumps(values))
    assert not read_config(tmp_path / "run").diffusion.zero_terminal_snr
    assert succeed("train", "--resume", tmp_path / "run", "--steps", 2, "--samples", 0, "--backend", "numpy")
