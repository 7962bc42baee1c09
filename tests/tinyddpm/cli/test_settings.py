"""Options from a file: what they are called, what wins, and one line for each mistake."""

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest

from tests.tinyddpm.cli.test_bad_inputs import assert_one_line
from tests.tinyddpm.cli.test_commands import EVERY_OPTION
from tests.tinyddpm.tiny_runs import QUICK, SIMPLE_OPTIONS, UNET_OPTIONS, invoke, outcome, rows, succeed, tree
from tinyddpm.cli import main
from tinyddpm.cli.settings import NOT_IN_FILES, SYNONYMS, known_options
from tinyddpm.networks.unet import UNetConfig
from tinyddpm.training.run_folder import read_config

# Options without which there is nothing to tell
BY_ITSELF = ("config", "resume", "init")
TRAIN = main.commands["train"]
BRIEF = """
model = "simple"
base_channels = 4
channel-mults = [1, 2]
groups = 2
backend = "numpy"
batch_size = 4
timesteps = 50
samples = 0
steps = 3
lr = 0.125
"""


def written(folder: Path, text: str, name: str = "run.toml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def as_toml(options: list[str]) -> str:
    """The table that says what these options of the command line say."""
    lines, rest = [], list(options)
    while rest:
        flag = rest.pop(0)
        value = True if not rest or rest[0].startswith("--") else rest.pop(0)
        if isinstance(value, str):
            lists = flag in ("--channel-mults", "--attention-resolutions")
            value = f"[{value}]" if lists else value if re.fullmatch(r"[\d.]+", value) else f'"{value}"'
        else:
            value = "true"
        lines.append(f"{flag[2:].replace('-', '_')} = {value}\n")
    return "".join(lines)


class TestFile:
    def test_every_option_as_on_the_command_line(self, tmp_path: Path) -> None:
        path = written(tmp_path, as_toml(EVERY_OPTION))
        rest = ["--samples", 0, "--backend", "numpy"]
        succeed("train", *EVERY_OPTION, *rest, "--out", tmp_path / "flags")
        succeed("train", "--config", path, *rest, "--out", tmp_path / "file")
        assert read_config(tmp_path / "file") == read_config(tmp_path / "flags")

    def test_the_command_line_comes_first(self, tmp_path: Path) -> None:
        path = written(tmp_path, BRIEF + f'out = "{tmp_path / "named"}"\nthreads = 1\n')
        succeed("train", "--config", path)
        assert len(rows(tmp_path / "named")) == 3
        succeed("train", "--out", tmp_path / "other", "--lr", 0.5, "--config", path)
        training = read_config(tmp_path / "other").training
        assert (training.steps, training.lr) == (3, 0.5)

    def test_steps_give_way_to_epochs_of_the_command_line(self, tmp_path: Path) -> None:
        path = written(tmp_path, BRIEF)
        succeed("train", "--config", path, "--epochs", 0.01, "--out", tmp_path / "run")
        assert len(rows(tmp_path / "run")) == 4
        both = written(tmp_path, BRIEF + "epochs = 2", "both.toml")
        line = assert_one_line(invoke("train", "--config", both, "--out", tmp_path / "both"))
        assert "--steps and --epochs exclude each other" in line
        succeed("train", "--config", written(tmp_path, BRIEF.replace("steps = 3", "epochs = 9"), "e.toml"),
                "--steps", 2, "--out", tmp_path / "short")  # fmt: skip
        assert len(rows(tmp_path / "short")) == 2

    def test_doctor_reads_the_same_file(self, tmp_path: Path) -> None:
        path = written(tmp_path, BRIEF + "sample_every = 5\n")
        assert "SimpleUNetConfig(image_size=8, in_channels=1, base_channels=4" in succeed("doctor", "--config", path)

    @pytest.mark.parametrize("options", [[*UNET_OPTIONS, "--validate-every", 2], SIMPLE_OPTIONS])
    @pytest.mark.parametrize("place", ["", "config.json"])
    def test_a_run_is_repeated_from_its_config(self, tmp_path: Path, options: list[Any], place: str) -> None:
        succeed("train", *options, *QUICK, "--steps", 3, "--lr", 0.1, "--seed", 5, "--out", tmp_path / "a")
        succeed("train", "--config", tmp_path / "a" / place, "--backend", "numpy", "--samples", 0,
                "--out", tmp_path / "b")  # fmt: skip
        assert outcome(tmp_path / "b") == outcome(tmp_path / "a")

    def test_a_network_that_no_option_makes(self, tmp_path: Path) -> None:
        succeed("train", *UNET_OPTIONS, *QUICK, "--steps", 1, "--out", tmp_path / "a")
        values = json.loads((tmp_path / "a" / "config.json").read_text())
        values["model"]["config"]["norm_eps"] = 1e-6
        path = written(tmp_path, json.dumps(values), "odd.json")
        line = assert_one_line(invoke("train", "--config", path))
        assert line == f"error: {path}: no option sets norm_eps of the network; build it from Python"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rate = 1e-3", "unknown key 'learning_rate'; did you mean 'lr'?"),
        ("batchsize = 3", "unknown key 'batchsize'; did you mean 'batch_size'?"),
        ("stepz = 3", "unknown key 'stepz'; did you mean 'steps'?"),
        ("dim_mults = [1, 2]", "unknown key 'dim_mults'; did you mean 'channel_mults'?"),
        ("xyzzy = 3", "unknown key 'xyzzy'; the keys are data, data_dir, "),
        ('resume = "runs/a"', "unknown key 'resume'; "),
        ("[training]\nlr = 1e-3", "unknown key 'training'; "),
        ('lr = "fast"', "lr must be a number, got 'fast'"),
        ("lr = true", "lr must be a number, got True"),
        ("lr = [1e-3]", "lr must be a number, got [0.001]"),
        ("lr = 2.0", "lr must be a number in (0, 1], got 2.0"),
        ("steps = 2.5", "steps must be a whole number, got 2.5"),
        ("steps = true", "steps must be a whole number, got True"),
        ('steps = "3"', "steps must be a whole number, got '3'"),
        ("classes = 1", "classes must be true or false, got 1"),
        ('color = "yes"', "color must be true or false, got 'yes'"),
        ('schedule = "stairs"', "schedule must be one of linear, cosine, quadratic, sigmoid, log_snr, got 'stairs'"),
        ("data = 5", "data must be a text, got 5"),
        ("out = 5", "out must be a text, got 5"),
        ('channel_mults = "1,2"', "channel_mults must be a list of whole numbers, got '1,2'"),
        ("channel_mults = [1, 2.0]", "channel_mults must be a list of whole numbers, got [1, 2.0]"),
        ("threads = 0", "--threads"),
        ("lr = ", "run.toml is not valid TOML"),
        ("lr = 1\nlr = 2", "run.toml is not valid TOML"),
        ("\x00", "run.toml is not valid TOML"),
    ],
)
def test_a_mistake_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, text)
    before = tree(tmp_path)
    line = assert_one_line(invoke("train", "--config", "run.toml"))
    assert words in line
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.toml", None, "no file missing.toml; give --config a TOML file"),
        ("bytes.toml", b"\xff\xfe", "bytes.toml is not valid TOML"),
        ("a.json", b"{", "a.json is not valid JSON"),
        ("a.json", b"[" * 100_000, "a.json is not valid JSON"),
        ("a.json", b"[]", "a.json must hold options by name, got list"),
        ("a.json", b'{"data": {}}', "a.json: a run's config lacks or misplaces"),
    ],
)
def test_a_file_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes | None, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert words in assert_one_line(invoke("train", "--config", name))


def test_a_resumed_run_takes_none(tmp_path: Path) -> None:
    succeed("train", *SIMPLE_OPTIONS, *QUICK, "--steps", 1, "--out", tmp_path / "run")
    path = written(tmp_path, BRIEF)
    assert "leave out --config" in assert_one_line(invoke("train", "--resume", tmp_path / "run", "--config", path))


def test_synonyms_lead_to_keys() -> None:
    context = click.Context(TRAIN)
    known = known_options(context)
    assert set(SYNONYMS.values()) <= set(known)
    assert not set(SYNONYMS) & set(known)
    assert not set(NOT_IN_FILES) & set(known)


class TestHelp:
    def test_defaults_are_those_of_the_presets(self) -> None:
        text = " ".join(succeed("train", "--help").split())
        for words in (
            "--lr FLOAT Highest learning rate. [default: 0.0005; digits: 0.002]",
            "--steps INTEGER Optimiser steps in all. [default: 2000; digits: 1000]",
            "[default: 1,2,4; digits: 1,2]",
            "[default: 32; digits: as they are]",
            "--batch-size INTEGER Images a step. [default: 64]",
            "--clip-norm FLOAT Largest norm of the gradient. [default: 1]",
            f"--groups INTEGER Groups of each normalisation. [default: {UNetConfig().groups}]",
        ):
            assert words in text

    def test_every_number_and_choice_has_a_default_or_says_what_stands_for_it(self) -> None:
        for option in TRAIN.params:
            assert isinstance(option, click.Option)
            if option.is_flag or option.to_info_dict()["default"] is not None or option.name in BY_ITSELF:
                continue
            assert re.search(r"default|else|Instead|by default", option.help or ""), option.name
