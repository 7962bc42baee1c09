"""`train --init`: whose weights, which options they bring along, and one line on what does not fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import backends
from tests.tinyddpm.cli.test_bad_inputs import assert_one_line
from tests.tinyddpm.tiny_runs import QUICK, SIMPLE_OPTIONS, UNET_OPTIONS, invoke, outcome, rows, succeed, tree
from tinyddpm import load_diffusers, save_diffusers
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import InputError
from tinyddpm.networks.unet import UNet, UNetConfig
from tinyddpm.training.checkpoint import load, save
from tinyddpm.training.run_folder import checkpoints, last_checkpoint, open_checkpoint, read_config
from tinyddpm.training.starting_weights import StartingWeights

NUMPY = backends.get("numpy")
BRIEF = ["--backend", "numpy", "--batch-size", "4", "--samples", "0"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the full U-Net with ten classes and options that are no defaults."""
    folder = tmp_path_factory.mktemp("runs") / "source"
    own = ["--schedule", "linear", "--prediction", "v", "--loss", "huber", "--variance", "fixed_large"]
    options = [*UNET_OPTIONS, *QUICK, *own, "--dropout", "0.1", "--time-embedding", "input", "--lr", "0.1"]
    succeed("train", *options, "--steps", 4, "--warmup-steps", 0, "--out", folder)
    return folder


def photos(folder: Path, kinds: int, mode: str = "L") -> Path:
    """Six pictures in as many sub-folders as there are kinds."""
    for i in range(6):
        place = folder / f"kind{i % kinds}"
        place.mkdir(parents=True, exist_ok=True)
        colour: Any = 40 * i if mode == "L" else (40 * i, 0, 99)
        Image.new(mode, (8, 8), colour).save(place / f"{i}.png")
    return folder


def start_of(run: Path) -> dict[str, np.ndarray]:
    """The parameters before the first step."""
    step, path = checkpoints(run)[0]
    assert step == 0
    return load(path, NUMPY).model.named_params()


def test_averaged_weights_and_a_fresh_rest(tmp_path: Path, source: Path) -> None:
    out = succeed("train", "--init", source, "--classes", *BRIEF, "--steps", 1, "--out", tmp_path / "run")
    assert out.startswith(f"starting from the weights of {source}\n")
    checkpoint = open_checkpoint(source, NUMPY)
    assert checkpoint.ema is not None
    (_, first), *_ = checkpoints(tmp_path / "run")
    begun = load(first, NUMPY)
    assert begun.optimizer is not None
    assert begun.ema is not None
    np.testing.assert_array_equal(begun.model.params, checkpoint.ema.params)
    np.testing.assert_array_equal(begun.ema.params, checkpoint.ema.params)
    assert not np.array_equal(begun.model.params, checkpoint.model.params)
    assert begun.optimizer.steps == begun.ema.updates == begun.step == 0
    assert not begun.optimizer.m.any()
    assert len(rows(tmp_path / "run")) == 1


def test_network_and_diffusion_are_those_of_the_model(tmp_path: Path, source: Path) -> None:
    succeed("train", "--init", source, "--classes", *BRIEF, "--steps", 1, "--out", tmp_path / "run")
    seen, there = read_config(tmp_path / "run"), read_config(source)
    assert seen.model == there.model
    assert seen.diffusion == there.diffusion
    succeed("train", "--init", source, *BRIEF, "--steps", 1, "--timesteps", 60, "--prediction", "eps",
            "--dropout", 0, "--out", tmp_path / "other")  # fmt: skip
    changed = read_config(tmp_path / "other")
    assert list(changed.diffusion.to_dict().values())[:6] == ["linear", 60, "eps", "huber", "fixed_large", False]
    assert getattr(changed.model, "dropout", None) == 0


def test_a_checkpoint_file_without_an_average(tmp_path: Path, source: Path) -> None:
    checkpoint = open_checkpoint(source, NUMPY)
    save(tmp_path / "raw.safetensors", checkpoint.model, checkpoint.diffusion)
    succeed("train", "--init", tmp_path / "raw.safetensors", "--classes", *BRIEF, "--steps", 1,
            "--out", tmp_path / "run")  # fmt: skip
    for name, value in start_of(tmp_path / "run").items():
        np.testing.assert_array_equal(value, checkpoint.model.named_params()[name])


def test_doubles_become_singles(tmp_path: Path) -> None:
    config = UNetConfig(
        8, base_channels=4, channel_mults=(1, 2), num_res_blocks=1, attention_resolutions=(4,), groups=2
    )
    model = UNet(config, NUMPY, seed=3, dtype="float64")
    save(tmp_path / "double.safetensors", model, Diffusion(Schedule.cosine(50)))
    succeed("train", "--init", tmp_path / "double.safetensors", *BRIEF, "--steps", 1, "--out", tmp_path / "run")
    for name, value in start_of(tmp_path / "run").items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, model.named_params()[name].astype(np.float32))


def test_a_diffusers_folder_with_options_that_train_has_not(tmp_path: Path) -> None:
    config = UNetConfig(
        image_size=8,
        in_channels=3,
        base_channels=8,
        channel_mults=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(4,),
        head_channels=8,
        groups=4,
        norm_eps=1e-6,
        asymmetric_padding=True,
        frequency_shift=1.0,
        cos_first=False,
    )
    model = UNet(config, NUMPY, seed=3)
    save_diffusers(tmp_path / "pipeline", model, Diffusion(Schedule.linear(1000)))
    run = tmp_path / "run"
    succeed("train", "--init", tmp_path / "pipeline", *BRIEF, "--steps", 1, "--out", run)
    assert read_config(run).model == load_diffusers(tmp_path / "pipeline", NUMPY)[0].config
    assert getattr(read_config(run).model, "norm_eps", None) == 1e-6
    assert read_config(run).diffusion.schedule == "linear"
    for name, value in start_of(run).items():
        np.testing.assert_array_equal(value, model.named_params()[name])
    succeed("train", "--config", run, "--samples", 0, "--backend", "numpy", "--out", tmp_path / "again")
    assert outcome(tmp_path / "again") == outcome(run)
    assert "resuming" in succeed("train", "--resume", run, "--steps", 2, "--samples", 0, "--backend", "numpy")
    assert read_config(run).init == str(tmp_path / "pipeline")


class TestClasses:
    def test_other_classes_are_new(self, tmp_path: Path, source: Path) -> None:
        folder = photos(tmp_path / "photos", 2)
        out = succeed("train", "--data", folder, "--classes", "--init", source, *BRIEF, "--steps", 1,
                      "--out", tmp_path / "run")  # fmt: skip
        line = f"starting from the weights of {source}; the embeddings of 2 classes are new ({source} has 10)\n"
        assert out.startswith(line)
        there = open_checkpoint(source, NUMPY).sampling_model().named_params()
        seen = start_of(tmp_path / "run")
        assert [name for name in seen if seen[name].shape != there[name].shape] == ["time.label.table"]
        assert seen["time.label.table"].any()
        for name, value in seen.items():
            assert name == "time.label.table" or np.array_equal(value, there[name])

    def test_none_before_and_none_after(self, tmp_path: Path, source: Path) -> None:
        plain, labelled = tmp_path / "plain", tmp_path / "labelled"
        out = succeed("train", "--init", source, *BRIEF, "--steps", 1, "--out", plain)
        assert out.startswith(f"starting from the weights of {source}, without its 10 classes (--classes keeps them)\n")
        assert "time.label.table" not in start_of(plain)
        out = succeed("train", "--init", plain, "--classes", *BRIEF, "--steps", 1, "--out", labelled)
        assert f"; the embeddings of 10 classes are new ({plain} has none)\n" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--base-channels", "8"], "source does not fit this network: base_channels is 4 there and 8 here ("),
        (["--channel-mults", "1,2,2"], "channel_mults is (1, 2) there and (1, 2, 2) here ("),
        (["--num-heads", "1"], "num_heads is 2 there and 1 here; leave out --num-heads"),
        (["--groups", "1"], "groups is 2 there and 1 here; leave out --groups"),
        (["--attention-resolutions", "8"], "attention_resolutions is (4,) there and (8,) here ("),
        (["--image-size", "16"], "attention_resolutions names 4, but"),
        (["--color"], "is 1 there and 3 here (3 of its parameters, first conv_in.weight); leave out --color"),
        (["--model", "simple"], "source is a UNet; leave out --model simple"),
        (["--sample-steps", "51"], "got 51"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], words: str
) -> None:
    monkeypatch.chdir(source.parent)
    before = tree(source.parent)
    result = invoke("train", "--init", "source", *BRIEF, "--steps", 1, *options)
    assert words in assert_one_line(result)
    assert result.stdout == ""
    assert tree(source.parent) == before


@pytest.mark.parametrize("network", ["simple", "full"])
def test_variances_may_be_learnt_on_top_of_a_model_that_has_none(tmp_path: Path, network: str) -> None:
    options = [*(SIMPLE_OPTIONS if network == "simple" else UNET_OPTIONS), *QUICK]
    succeed("train", *options, "--steps", 3, "--lr", 0.1, "--warmup-steps", 0, "--out", tmp_path / "plain")
    out = succeed("train", "--init", tmp_path / "plain", *options, "--variance", "learned", "--steps", 1,
                  "--out", tmp_path / "learned")  # fmt: skip
    assert out.startswith(f"starting from the weights of {tmp_path / 'plain'}; the variances are new\n")
    plain = open_checkpoint(tmp_path / "plain", NUMPY).sampling_model()
    (_, first), *_ = checkpoints(tmp_path / "learned")
    begun = load(first, NUMPY).model
    x, t = np.random.default_rng(0).standard_normal((2, 8, 8, 1)).astype(np.float32), np.array([3, 30])
    labels = None if network == "simple" else np.array([1, 2])
    prediction = np.asarray(plain(x, t, labels))
    output = np.asarray(begun(x, t, labels))
    np.testing.assert_allclose(output[..., :1], prediction, rtol=0, atol=1e-5)
    assert not output[..., 1:].any()
    assert prediction.any()
    back = invoke("train", "--init", tmp_path / "learned", *options, "--variance", "fixed_small", "--steps", 1,
                  "--out", tmp_path / "back")  # fmt: skip
    assert "learned_variance is True there and False here" in assert_one_line(back)


@pytest.mark.parametrize("name", ["missing", "empty", "text"])
def test_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no model")
    line = assert_one_line(invoke("train", "--init", name, *BRIEF))
    assert name in line


def test_a_simple_network_starts_no_full_one(tmp_path: Path) -> None:
    succeed("train", *SIMPLE_OPTIONS, *QUICK, "--steps", 1, "--out", tmp_path / "run")
    succeed("train", "--init", tmp_path / "run", *BRIEF, "--steps", 1, "--out", tmp_path / "same")
    others = ["--model", "full", *BRIEF, "--steps", 1, "--out", tmp_path / "other"]
    line = assert_one_line(invoke("train", "--init", tmp_path / "run", *others))
    assert "run is a SimpleUNet; leave out --model full" in line
    source = open_checkpoint(tmp_path / "run", NUMPY).model
    with pytest.raises(InputError, match=r"^it is a SimpleUNet and cannot start a UNet$"):
        StartingWeights(source, UNetConfig(), "it")


def test_a_resumed_run_takes_none(source: Path) -> None:
    line = assert_one_line(invoke("train", "--resume", source, "--init", source))
    assert line.endswith("a resumed run keeps its configuration and folder; leave out --init")


def test_a_schedule_without_a_name(tmp_path: Path, source: Path) -> None:
    checkpoint = open_checkpoint(source, NUMPY)
    diffusion = Diffusion(Schedule.from_betas(np.full(50, 0.1)), "v")
    save(tmp_path / "own.safetensors", checkpoint.model, diffusion)
    command = ["train", "--init", tmp_path / "own.safetensors", *BRIEF, "--steps", 1, "--out", tmp_path / "run"]
    assert "has a schedule that goes by no name; choose one with --schedule" in assert_one_line(invoke(*command))
    succeed(*command, "--schedule", "cosine")
    assert last_checkpoint(tmp_path / "run").exists()


def test_the_file_of_options_may_name_it(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "tune.toml"
    path.write_text(f'init = "{source}"\nlr = 0.25\nsteps = 1\nsamples = 0\nprediction = "x0"\nbackend = "numpy"\n')
    succeed("train", "--config", path, "--out", tmp_path / "run")
    config = read_config(tmp_path / "run")
    assert (config.training.lr, config.diffusion.prediction, config.diffusion.schedule) == (0.25, "x0", "linear")
