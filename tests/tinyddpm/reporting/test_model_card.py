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
from tinyddpm import data
from tinyddpm.reporting import environment
from tinyddpm.reporting.model_card import OPEN, TASK, card, config_in, metadata, public, trained
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
        "Fréchet distance over that of real images": kept["quality"]["frechet_ratio"],
        "Fréchet distance": kept["quality"]["samples"]["frechet"],
        "precision": kept["quality"]["samples"]["precision"],
        "recall": kept["quality"]["samples"]["recall"],
    }
    assert {result.dataset_name for result in found.data.eval_results} == {"digits"}
    assert {result.task_type for result in found.data.eval_results} == {TASK}
    assert f"| test loss | {kept['mean_loss']:.4f} |" in found.text
    assert "| network | UNet, " in found.text
    assert "| scored | 100 samples (step 4, ddpm, 2 steps, guidance 1, seed 0) and as many training " in found.text
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
        assert "| scored |" not in found.text
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
    assert f"| test loss | {json.loads((measured / 'evaluation.json').read_text())['mean_loss']:.4f} |" in found.text
    assert "| scored | 100 samples (step 4, " in found.text
    assert f"| licence of the data | {data.LICENCES['digits']} |" in found.text
    assert "![Samples](samples.png)" in found.text


def test_seconds_are_those_of_all_processes(tmp_path: Path, measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a resumption; those of a run that was not timed from its start say so. The clock jumps at each look."""
    run, ticks = tmp_path / "run", iter(range(0, 10_000, 600))
    monkeypatch.setattr(environment, "monotonic", lambda: float(next(ticks)))
    monkeypatch.setattr(environment, "processor", lambda: "one <kind>")
    common = ["--samples", 0, "--backend", "numpy"]
    # Each process looks at its start and at its checkpoint
    for number, spent in ((3, 600), (5, 1200)):
        command = ["--resume", run] if run.exists() else [*UNET_OPTIONS, *QUICK, "--out", run]
        succeed("train", *command, "--steps", number, *common)
        assert environment.read_spent(run) == (number, 0, spent)
    found = trained(run, open_checkpoint(run, NUMPY))
    assert re.fullmatch(r"1,200, by numpy on \d+ × one <kind>, \d+ threads", found)
    succeed("pack", run, tmp_path / "packed", "-n", 1, "--steps", 1, *common[2:])
    assert "| seconds | 1,200, by numpy on " in read_card(tmp_path / "packed").text
    assert trained(run, replace(open_checkpoint(run, NUMPY), step=4)) == OPEN
    lines = (run / environment.NAME).read_text().splitlines()
    (run / environment.NAME).write_text("".join(line + "\n" for line in lines if "from_step" in line))
    assert trained(run, open_checkpoint(run, NUMPY)) == OPEN
    succeed("train", "--resume", run, "--steps", 6, *common)
    assert trained(run, open_checkpoint(run, NUMPY)).startswith("600 from step 5 on, by numpy on ")


def test_the_licence_of_a_named_set_is_not_that_of_a_folder_called_so(measured: Path) -> None:
    checkpoint, config = open_checkpoint(measured, NUMPY), read_config(measured)
    assert set(data.LICENCES) == set(data.NAMES)
    folder = replace(config, data=replace(config.data, name="/photos/mnist"))
    assert public(folder).data.name == "./mnist"
    for named, words in (
        (replace(config, data=replace(config.data, name="mnist")), data.LICENCES["mnist"]),
        (folder, OPEN),
        (public(folder), OPEN),
    ):
        text = card("x", checkpoint, named, library="tinyddpm", usage="")
        assert f"| licence of the data | {words} |" in text
        assert "| images | mnist, 8x8x1 |" in text
        assert ("ylecun/mnist" in text) == (words != OPEN)


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


def test_a_class_of_any_name(tmp_path: Path) -> None:
    names = ("a|b", "c\\|d", "e\nf")
    for number, name in enumerate(names):
        path = tmp_path / "photos" / name / "0.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 60 * number).save(path)
    options = ["--data", tmp_path / "photos", "--image-size", 8]
    succeed("train", *UNET_OPTIONS, *QUICK, *options, "--steps", 1, "--out", tmp_path / "run")
    succeed("pack", tmp_path / "run", tmp_path / "packed", "-n", 3, "--steps", 1, "--backend", "numpy")
    lines = read_card(tmp_path / "packed").text.splitlines()
    (row,) = [line for line in lines if line.startswith("| classes |")]
    assert "a\\|b" in row
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in lines if line.startswith("|"))


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
