"""Reading and writing diffusers folders, without diffusers: round trips, spellings, and what cannot be written."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as tensors_of
from safetensors.numpy import load_file, save_file

from tests.tinyddpm.diffusers_format.small import (
    NUMPY,
    OURS,
    SCHEDULES,
    WEIGHTS,
    change,
    random_model,
    rename_attention,
)
from tinyddpm.diffusers_format import folder as folder_module
from tinyddpm.diffusers_format import load_diffusers, save_diffusers
from tinyddpm.diffusers_format.unet import read_config, write_config
from tinyddpm.diffusers_format.weights import write_weights
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import InputError
from tinyddpm.networks.simple_unet import SimpleUNet, SimpleUNetConfig
from tinyddpm.networks.unet import UNet, UNetConfig


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OURS)
def test_round_trip(tmp_path, name, dtype):
    model = random_model(OURS[name], dtype)
    save_diffusers(tmp_path / "out", model, Diffusion(Schedule.linear()))
    loaded, _ = load_diffusers(tmp_path / "out", NUMPY)
    assert loaded.config == model.config
    assert loaded.params.dtype == dtype
    np.testing.assert_array_equal(loaded.params, model.params)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_round_trip_of_diffusion(tmp_path, name, variance, prediction):
    diffusion = Diffusion(SCHEDULES[name], prediction=prediction, variance=variance)
    save_diffusers(tmp_path / "out", UNet(OURS["Ho et al."], backend=NUMPY), diffusion)
    _, loaded = load_diffusers(tmp_path / "out", NUMPY)
    np.testing.assert_array_equal(loaded.schedule.betas, diffusion.schedule.betas)
    assert replace(loaded, schedule=diffusion.schedule) == diffusion
    written = json.loads((tmp_path / "out/scheduler/scheduler_config.json").read_text())
    formula = {"cosine": "squaredcos_cap_v2", "quadratic": "scaled_linear"}.get(name, "linear")
    assert written["beta_schedule"] == formula
    assert (written["trained_betas"] is None) == (name in ("linear", "rescaled linear", "cosine", "quadratic"))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_round_trip_of_configs(data):
    def draw(*choices):
        return data.draw(st.sampled_from(choices))

    mults = (1, *data.draw(st.lists(st.integers(1, 4), max_size=3)))
    sides = tuple(8 * data.draw(st.integers(1, 4)) for _ in range(2))
    levels = [min(sides) >> level for level in range(len(mults))]
    config = UNetConfig(
        image_size=draw(sides[0], sides) if sides[0] == min(sides) else sides,
        in_channels=draw(1, 3),
        base_channels=draw(8, 24),
        channel_mults=mults,
        num_res_blocks=draw(1, 2, 3),
        attention_resolutions=tuple(side for side in levels if draw(True, False)),
        head_channels=draw(1, 4, 8),
        groups=draw(1, 4, 8),
        num_classes=draw(None, 1, 10),
        dropout=draw(0.0, 0.1),
        norm_eps=draw(1e-5, 1e-6),
        middle_attention=draw(True, False),
        asymmetric_padding=draw(True, False),
        frequency_shift=draw(0.0, 1.0, 0.5),
        cos_first=draw(True, False),
    )
    read = read_config(json.loads(json.dumps(write_config(config))))
    # The same number of heads can be said in two ways
    assert replace(read, num_heads=config.num_heads, head_channels=config.head_channels) == config
    assert [read.heads(c) for c in read.attention_channels] == [config.heads(c) for c in config.attention_channels]


def test_head_channels_must_divide():
    with pytest.raises(InputError, match="head_channels=12 does not divide a level of 128 channels"):
        UNetConfig(head_channels=12)
    with pytest.raises(InputError, match="head_channels must be a whole number"):
        UNetConfig(head_channels=0)


def test_deprecated_attention_names(saved):
    before, _ = load_diffusers(saved, NUMPY)
    rename_attention(saved / WEIGHTS)
    after, _ = load_diffusers(saved, NUMPY)
    np.testing.assert_array_equal(after.params, before.params)


def test_files_in_one_folder_without_an_index(saved, tmp_path):
    before, _ = load_diffusers(saved, NUMPY)
    flat = tmp_path / "flat"
    flat.mkdir()
    for name in ("unet/config.json", WEIGHTS, "scheduler/scheduler_config.json"):
        (saved / name).rename(flat / name.partition("/")[2])
    after, _ = load_diffusers(str(flat), NUMPY)
    np.testing.assert_array_equal(after.params, before.params)


def test_half_precision_is_read_as_float32(saved):
    halves = {name: tensor.astype(np.float16) for name, tensor in load_file(saved / WEIGHTS).items()}
    save_file(halves, saved / WEIGHTS)
    model, _ = load_diffusers(saved, NUMPY)
    assert model.params.dtype == np.float32
    written = tensors_of(write_weights(model.named_params(), 2))
    assert all(np.array_equal(written[name], half.astype(np.float32)) for name, half in halves.items())


def test_options_of_the_other_scheduler_do_no_harm(saved):
    path = saved / "scheduler/scheduler_config.json"
    change(path, _class_name="DDIMScheduler", set_alpha_to_one=True, timestep_spacing="leading", clip_sample=False)
    _, diffusion = load_diffusers(saved, NUMPY)
    assert diffusion.variance == "fixed_small"


# What cannot be written, and that nothing is left of the attempt

ONE_LEVEL = UNetConfig(image_size=8, base_channels=8, channel_mults=(1,), num_res_blocks=1, middle_attention=False)
UNWRITABLE = {
    "simple": (SimpleUNet(SimpleUNetConfig(), backend=NUMPY), "UNet2DModel.*SimpleUNet.*build a UNet"),
    "time": (UNet(replace(ONE_LEVEL, time_embedding="input"), backend=NUMPY), "time_embedding='input'.*'resblock'"),
    "mults": (UNet(replace(ONE_LEVEL, channel_mults=(2,)), backend=NUMPY), r"channel_mults=\(2,\).*base_channels=16"),
    "heads": (
        UNet(UNetConfig(image_size=8, base_channels=8, attention_resolutions=(8, 2)), backend=NUMPY),
        "num_heads=4.*2, 8 channels.*num_heads=1.*head_channels=2",
    ),
}


@pytest.mark.parametrize("name", UNWRITABLE)
def test_models_that_cannot_be_written(tmp_path, name):
    model, words = UNWRITABLE[name]
    with pytest.raises(InputError, match=words):
        save_diffusers(tmp_path / "out", model, Diffusion(Schedule.linear()))
    assert list(tmp_path.iterdir()) == []


def test_shortened_schedules_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="shortened to 10 steps"):
        save_diffusers(tmp_path / "out", UNet(ONE_LEVEL, backend=NUMPY), Diffusion(Schedule.linear().respaced(10)))
    assert list(tmp_path.iterdir()) == []


def test_only_a_new_or_empty_folder_is_written(tmp_path):
    model, diffusion = UNet(ONE_LEVEL, backend=NUMPY), Diffusion(Schedule.linear())
    save_diffusers(tmp_path / "parent" / "new", model, diffusion)
    (tmp_path / "empty").mkdir()
    save_diffusers(tmp_path / "empty", model, diffusion)
    assert (
        load_diffusers(tmp_path / "empty", NUMPY)[0].config == load_diffusers(tmp_path / "parent/new", NUMPY)[0].config
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("kept")
    (tmp_path / "file").write_text("kept")
    for taken in ("full", "file"):
        with pytest.raises(InputError, match=f"{taken} already exists.*give a new one"):
            save_diffusers(tmp_path / taken, model, diffusion)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "full", "parent"]


@pytest.mark.parametrize("existed", [False, True])
def test_another_process_that_is_quicker(monkeypatch, tmp_path, existed):
    """Its folder stays as it is, whether there was an empty one before or none."""
    out = tmp_path / "out"
    if existed:
        out.mkdir()
    write = folder_module.write_atomically

    def and_another(path, content):
        write(path, content)
        out.mkdir(exist_ok=True)
        (out / "theirs").write_text("kept")

    monkeypatch.setattr(folder_module, "write_atomically", and_another)
    with pytest.raises(InputError, match="out was made by another process meanwhile; give a new one"):
        save_diffusers(out, UNet(ONE_LEVEL, backend=NUMPY), Diffusion(Schedule.linear()))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["theirs"]


@pytest.mark.parametrize("written", range(4))
def test_a_failed_write_leaves_nothing(monkeypatch, tmp_path, written):
    calls = []

    def fails_in_the_end(path, content):
        if len(calls) == written:
            raise OSError("no space left on device")
        calls.append(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    monkeypatch.setattr(folder_module, "write_atomically", fails_in_the_end)
    with pytest.raises(OSError, match="no space"):
        save_diffusers(tmp_path / "out", UNet(ONE_LEVEL, backend=NUMPY), Diffusion(Schedule.linear()))
    assert list(tmp_path.iterdir()) == []
