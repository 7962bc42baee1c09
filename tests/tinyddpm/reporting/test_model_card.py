"""The card beside an exported or packed model: metadata that the Hub's library reads whole, figures of the run."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import backends
import tinyddpm as td
from tests.tinyddpm.tiny_runs import QUICK, UNET_OPTIONS, invoke, rows, succeed
from tinyddpm.reporting.model_card import OPEN, TASK, card, config_in, metadata
from tinyddpm.training.run_folder import open_checkpoint, read_config

hub = pytest.importorskip("huggingface_hub", reason="no huggingface_hub; run: pip install -e '.[parity]'")
NUMPY = backends.get("numpy")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with classes that was evaluated at its last step."""
    run = tmp_path_factory.mktemp("runs") / "measured"
    succeed("train", *UNET_OPTIONS, *QUICK, "--steps", 4, "--validate-every", 2, "--out", run)
    measure = ["-n", 100, "--steps", 2, "--levels", 3, "--bits", "--bits-images", 4, "--bits-terms", 6]
    succeed("evaluate", run, *measure, "--backend", "numpy")
    return run


def read_card(folder: Path) -> Any:
    """The card by the Hub's library, which raises for metadata that it cannot use."""
    found = hub.ModelCard.load(folder / "README.md", ignore_metadata_errors=False)
    # What the library would write is what is there: nothing was dropped or understood otherwise
    assert hub.metadata_load(folder / "README.md") == hub.ModelCardData(**found.data.to_dict()).to_dict()
    return found


def test_metadata_of_an_exported_run(tmp_path: Path, measured: Path) -> None:
    succeed("export", measured, tmp_path / "small-digits", "--license", "cc-by-4.0")
    found = read_card(tmp_path / "small-digits")
    assert found.data.license == "cc-by-4.0"
    assert found.data.library_name == "diffusers"
    assert found.data.pipeline_tag == TASK
    assert {"ddpm", TASK} <= set(found.data.tags)
    assert found.data.model_name == "small-digits"
    seen = {result.metric_name: result.metric_value for result in found.data.eval_results}
    kept = json.loads((measured / "evaluation.json").read_text())
    assert seen == {
        "held-out loss": rows(measured)[-1]["validation_loss_ema"],
        "test loss": kept["mean_loss"],
        "bits per dimension": kept["bits"]["total"],
        "Fréchet distance": kept["quality"]["samples"]["frechet"],
        "precision": kept["quality"]["samples"]["precision"],
        "recall": kept["quality"]["samples"]["recall"],
    }
    assert {result.dataset_name for result in found.data.eval_results} == {"digits"}
    assert {result.task_type for result in found.data.eval_results} == {TASK}
    assert f"| test loss | {kept['mean_loss']:.4f} |" in found.text
    assert "| network | UNet, " in found.text
    assert 'UNet2DModel.from_pretrained("small-digits", subfolder="unet")' in found.text


def test_figures_are_of_what_is_exported(tmp_path: Path, measured: Path) -> None:
    """The scores are of the averaged weights with all labels, at the last step."""
    (checkpoint,) = (measured / "checkpoints").glob("step-00000004.safetensors")
    for name, source, options in (
        ("raw", measured, ["--raw"]),
        ("seven", measured, ["--label", 7]),
        ("file", checkpoint, []),
    ):
        succeed("export", source, tmp_path / name, *options)
        found = read_card(tmp_path / name)
        assert found.data.eval_results is None
        assert found.data.license == "unknown"
        assert f"| quality | {OPEN} |" in found.text
        assert "| images | digits, 8x8x1 |" in found.text
    assert "DDPMPipeline.from_pretrained" in read_card(tmp_path / "seven").text


def test_a_checkpoint_that_no_run_wrote(tmp_path: Path, measured: Path) -> None:
    checkpoint = open_checkpoint(measured, NUMPY)
    td.save(tmp_path / "own.safetensors", checkpoint.model, checkpoint.diffusion, extra={"config": 3})
    assert config_in(td.load(tmp_path / "own.safetensors", NUMPY)) is None
    succeed("export", tmp_path / "own.safetensors", tmp_path / "out")
    assert "| images | 8x8x1 |" in read_card(tmp_path / "out").text


def test_a_packed_model_has_the_same_kind_of_card(tmp_path: Path, measured: Path) -> None:
    succeed("pack", measured, tmp_path / "packed", "-n", 2, "--steps", 2, "--backend", "numpy")
    found = read_card(tmp_path / "packed")
    assert found.data.library_name == "tinyddpm"
    assert "averaged, in float16" in found.text
    assert "![Samples](samples.png)" in found.text


@pytest.mark.parametrize("name", ["a | b", "<b>", "x\ny: z", "- #'\"{}[]%@`", "\x1b写真😀", "null", "\udcff"])
def test_any_name(tmp_path: Path, measured: Path, name: str) -> None:
    checkpoint, config = open_checkpoint(measured, NUMPY), read_config(measured)
    named = replace(config, data=replace(config.data, name=name))
    figures = {"test loss": 0.25}
    text = card(name, checkpoint, named, figures=figures, library="diffusers", usage="")
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    found = read_card(tmp_path)
    shown = " ".join(name.encode("utf-8", "replace").decode().split())
    assert found.data.model_name == shown
    table = found.text[found.text.index("| network") :].splitlines()
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in table if line.startswith("|"))


def test_known_sets_have_the_hubs_names(measured: Path) -> None:
    config = read_config(measured)
    text = metadata("x", replace(config, data=replace(config.data, name="mnist")), "mit", "diffusers", {"loss": 0.5})
    (values,) = [line for line in text.splitlines() if line.startswith("datasets")]
    assert values == 'datasets: ["ylecun/mnist"]'


def test_places_of_this_machine_are_not_in_it(tmp_path: Path) -> None:
    for i in range(8):
        path = tmp_path / "secret place" / "photos" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 30 * i, np.uint8)).save(path)
    source = ["--data", tmp_path / "secret place" / "photos", "--image-size", 8, "--attention-resolutions", 4]
    succeed("train", *UNET_OPTIONS[:-1], *QUICK, *source, "--steps", 1, "--out", tmp_path / "run")
    succeed("export", tmp_path / "run", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "secret" not in text
    assert "| images | photos, 8x8x" in text


@pytest.mark.parametrize("licence", ["", "MIT License", "a\nb: c", "../x"])
def test_a_licence_is_a_short_name(tmp_path: Path, measured: Path, licence: str) -> None:
    result = invoke("export", measured, tmp_path / "out", "--license", licence)
    assert result.exit_code == 2
    assert "is no short name of a licence, such as mit" in result.stderr
    assert not (tmp_path / "out").exists()
