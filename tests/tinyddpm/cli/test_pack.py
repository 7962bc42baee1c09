"""`tinyddpm pack`: a small folder that every command takes as it takes a run, and one line on what does not fit."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import backends
import tinyddpm as td
from tests.tinyddpm.tiny_runs import QUICK, SIMPLE_OPTIONS, UNET_OPTIONS, invoke, rows, succeed, tree
from tinyddpm import data
from tinyddpm.reporting import packed_model
from tinyddpm.reporting.model_card import OPEN
from tinyddpm.training.run_folder import open_checkpoint, read_config

NUMPY = backends.get("numpy")
BRIEF = ["--backend", "numpy", "--steps", "2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the full U-Net with classes, trained so fast that its output is not zero."""
    folder = tmp_path_factory.mktemp("runs") / "labelled"
    options = [*UNET_OPTIONS, *QUICK, "--steps", "6", "--lr", "0.5", "--warmup-steps", "0", "--validate-every", "3"]
    succeed("train", *options, "--out", folder)
    return folder


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, run: Path) -> Path:
    folder = tmp_path_factory.mktemp("models") / "digits-tiny"
    assert succeed("pack", run, folder, "-n", 20, *BRIEF).startswith(f"wrote {folder}, 0.0 MB; fill in")
    return folder


def refused(*arguments: object) -> str:
    """The one line of a command that must not succeed."""
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_what_is_in_it(run: Path, packed: Path) -> None:
    assert sorted(tree(packed)) == ["README.md", "config.json", "model.safetensors", "samples.png"]
    average = open_checkpoint(run, NUMPY).sampling_model().named_params()
    halves = {k: v for k, v in load_file(packed / "model.safetensors").items() if not k.startswith("schedule/")}
    assert halves.keys() == {f"model/{name}" for name in average}
    for name, value in average.items():
        assert halves[f"model/{name}"].dtype == np.float16
        np.testing.assert_array_equal(halves[f"model/{name}"], value.astype(np.float16))
    with Image.open(packed / "samples.png") as picture:
        assert picture.width >= 512


def test_the_card_says_what_the_run_knows_and_leaves_the_rest_open(run: Path, packed: Path) -> None:
    card = (packed / "README.md").read_text(encoding="utf-8")
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert "---\n\n# digits-tiny\n\n![Samples](samples.png)\n" in card
    assert f"| loss | {np.mean(losses):.4f} in training (mean of 6 steps), " in card
    assert "| training | 6 steps of 4 images |" in card
    assert "| images | digits, 8x8x1 |" in card
    assert "| classes | 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 |" in card
    assert "| diffusion | cosine, 50 steps, predicts eps |" in card
    assert f"| licence of the data | {data.LICENCES['digits']} |" in card
    assert re.search(r"\n\| seconds \| \d+, by numpy on .+ threads \|\n", card)
    assert f"| held-out loss | {rows(run)[-1]['validation_loss_ema']:.4f} |" in card


def test_the_card_leaves_open_what_the_run_does_not_know(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("L", (8, 8), 30).save(photos / "0.png")
    succeed("train", "--data", photos, *SIMPLE_OPTIONS, *QUICK, "--steps", 1, "--out", tmp_path / "run")
    (tmp_path / "run" / "environment.jsonl").unlink()
    succeed("pack", tmp_path / "run", tmp_path / "packed", "-n", 1, *BRIEF)
    card = (tmp_path / "packed" / "README.md").read_text(encoding="utf-8")
    for open_place in ("licence of the data", "seconds", "quality"):
        assert f"| {open_place} | {OPEN} |" in card


def test_it_works_in_any_folder_without_data_or_a_place_to_write(tmp_path: Path, packed: Path) -> None:
    """As a folder of models that came with the program: read alone, from elsewhere, with no data set at hand."""
    models, elsewhere = tmp_path / "examples" / "models", tmp_path / "elsewhere"
    shutil.copytree(packed, models / packed.name)
    elsewhere.mkdir()
    before = tree(models)
    for path in (*models.rglob("*"), models):
        path.chmod(0o555 if path.is_dir() else 0o444)
    environment = {key: value for key, value in os.environ.items() if key != "TINYDDPM_DATA"}
    environment["HOME"] = str(elsewhere)
    for place, name in ((elsewhere, models / packed.name), (tmp_path, f"examples/models/{packed.name}")):
        command = [sys.executable, "-m", "tinyddpm", "sample", str(name), "-n", "2", "--label", "7", *BRIEF]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "wrote samples.png\n", "")
        assert (place / "samples.png").is_file()
    assert tree(models) == before


def test_samples_are_those_of_the_run_to_a_byte_or_two(tmp_path: Path, run: Path, packed: Path) -> None:
    for folder in (run, packed):
        succeed("sample", folder, "-n", 6, *BRIEF[:2], "--steps", 20, "-o", tmp_path / f"{folder.name}.npy")
    ours, theirs = (np.load(tmp_path / f"{folder.name}.npy").astype(int) for folder in (run, packed))
    assert np.abs(ours - theirs).max() <= 2
    assert np.ptp(theirs) > 100


def test_every_command_takes_it(tmp_path: Path, packed: Path) -> None:
    succeed("sample", packed, "-n", 2, "--label", 3, "--guidance", 2, *BRIEF, "-o", tmp_path / "grid.png")
    assert "test loss (mse of eps) on digits" in succeed("evaluate", packed, "-n", 2, "--levels", 2, *BRIEF)
    succeed("export", packed, tmp_path / "folder")
    succeed("train", "--init", packed, *BRIEF, "--batch-size", 4, "--samples", 0, "--out", tmp_path / "run")
    succeed("train", "--config", packed, *BRIEF, "--samples", 0, "--out", tmp_path / "again")
    assert read_config(tmp_path / "again").model == read_config(packed).model
    for path in (packed, packed / "model.safetensors"):
        checkpoint = td.load(path, NUMPY)
        assert checkpoint.model.dtype == "float32"
        assert checkpoint.ema is None
        assert checkpoint.step == 6


def test_training_does_not_go_on_in_it(packed: Path) -> None:
    before = tree(packed)
    for options in (["--resume", packed], ["--out", packed, *SIMPLE_OPTIONS, *QUICK]):
        line = refused("train", *options)
        assert f"{packed} is a packed model, weights alone, so its training cannot go on" in line
        assert line.endswith(f"--init {packed}\n")
    assert tree(packed) == before


def test_places_of_this_machine_are_not_in_it(tmp_path: Path) -> None:
    for i in range(8):
        path = tmp_path / "secret place" / "photos" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 30 * i).save(path)
    run, packed = tmp_path / "run", tmp_path / "packed"
    source = ["--data", tmp_path / "secret place" / "photos", "--data-dir", tmp_path / "secret place"]
    succeed("train", *source, *SIMPLE_OPTIONS, *QUICK, "--steps", 1, "--out", run)
    succeed("train", "--init", run, *source, *BRIEF, "--batch-size", 4, "--samples", 0, "--out", tmp_path / "second")
    succeed("pack", tmp_path / "second", packed, "-n", 1, *BRIEF)
    assert read_config(packed).data.name == "photos"
    for path in packed.iterdir():
        assert b"secret" not in path.read_bytes(), path
        assert tmp_path.name.encode() not in path.read_bytes(), path


def test_damage_is_told_in_one_line(tmp_path: Path, packed: Path) -> None:
    for name, content in tree(packed).items():
        (tmp_path / name).write_bytes(content or b"")
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (b"", whole[:-100], whole[:-1] + bytes([whole[-1] ^ 1])):
        weights.write_bytes(damaged)
        assert f"{weights} is damaged" in refused("sample", tmp_path, *BRIEF)
    weights.write_bytes(whole)
    (tmp_path / "config.json").write_text("{")
    assert "config.json is not valid JSON" in refused("evaluate", tmp_path, *BRIEF)
    weights.unlink()
    assert "give a run folder, a packed model or a .safetensors file" in refused("sample", tmp_path, *BRIEF)


def test_what_cannot_be_packed(tmp_path: Path, run: Path, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "already exists and is not an empty folder" in refused("pack", run, packed, *BRIEF)
    assert "holds no run" in refused("pack", tmp_path, tmp_path / "new", *BRIEF)
    assert "count must be" in refused("pack", run, tmp_path / "new", "-n", 0, *BRIEF)
    monkeypatch.setattr(packed_model, "LARGEST", 10_000)
    assert "a packed model has at most 0.01 MB, so train a smaller network" in refused(
        "pack", run, tmp_path / "new", *BRIEF
    )
    assert not (tmp_path / "new").exists()


def test_weights_beyond_float16(tmp_path: Path) -> None:
    run = tmp_path / "run"
    succeed("train", *SIMPLE_OPTIONS, *QUICK, "--steps", 1, "--out", run)
    checkpoint = open_checkpoint(run, NUMPY)
    checkpoint.model.params[3] = 1e5
    for path in (run / "checkpoints").iterdir():
        td.save(path, checkpoint.model, checkpoint.diffusion)
    assert "holds weights that float16 does not" in refused("pack", run, tmp_path / "new", *BRIEF)
