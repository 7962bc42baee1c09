"""Folders that are not read, each with one line that names what is in the way."""

import pickle

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.tinyddpm.diffusers_format.small import NUMPY, WEIGHTS, change
from tinyddpm.diffusers_format import load_diffusers
from tinyddpm.errors import DamagedFileError, InputError, MissingDataError

UNET_REFUSALS = [
    ("time_embedding_type", "fourier"),
    ("time_embedding_dim", 7),
    ("center_input_sample", True),
    ("mid_block_type", None),
    ("mid_block_scale_factor", 2),
    ("downsample_padding", 2),
    ("downsample_type", "resnet"),
    ("upsample_type", "resnet"),
    ("act_fn", "gelu"),
    ("attn_norm_num_groups", 2),
    ("resnet_time_scale_shift", "scale_shift"),
    ("class_embed_type", "timestep"),
    ("num_class_embeds", 1),
    ("num_train_timesteps", 1000),
    ("out_channels", 6),
    ("in_channels", 0),
    ("attention_head_dim", 5),
    ("attention_head_dim", 32),
    ("norm_num_groups", None),
    ("norm_eps", "small"),
    ("sample_size", None),
    ("sample_size", [8, 8, 8]),
    ("block_out_channels", [8, 12]),
    ("block_out_channels", []),
    ("down_block_types", ["DownBlock2D", "CrossAttnDownBlock2D"]),
    ("down_block_types", ["DownBlock2D"]),
    ("up_block_types", ["UpBlock2D", "UpBlock2D"]),
    ("layers_per_block", True),
    ("freq_shift", 4),
    ("flip_sin_to_cos", 1),
    ("add_attention", None),
    ("encoder_hid_dim", 6),
]


@pytest.mark.parametrize(("option", "value"), UNET_REFUSALS)
def test_unsupported_networks(saved, option, value):
    change(saved / "unet/config.json", **{option: value})
    with pytest.raises(InputError) as refusal:
        load_diffusers(saved, NUMPY)
    assert str(refusal.value).startswith(f"unsupported UNet2DModel option {option}={value!r}: ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sample_size": 9}, "9x9"),
        ({"norm_num_groups": 3}, "groups=3"),
        ({"dropout": 1.5}, "dropout"),
        ({"norm_eps": 0}, "norm_eps"),
        ({"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel"),
    ],
)
def test_networks_that_do_not_fit_together(saved, options, words):
    change(saved / "unet/config.json", **options)
    with pytest.raises(InputError, match=f"^unsupported .*{words}"):
        load_diffusers(saved, NUMPY)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("beta_schedule", "laplace"),
        ("prediction_type", "flow"),
        ("variance_type", "learned"),
        ("variance_type", "fixed_large_log"),
        ("thresholding", True),
        ("clip_sample", None),
        ("clip_sample_range", 2.0),
        ("steps_offset", 1),
        ("num_train_timesteps", 0),
        ("beta_start", -1),
        ("beta_end", 1.5),
        ("beta_end", "0.02"),
        ("skip_prk_steps", True),
    ],
)
def test_unsupported_schedulers(saved, option, value):
    change(saved / "scheduler/scheduler_config.json", **{option: value})
    with pytest.raises(InputError) as refusal:
        load_diffusers(saved, NUMPY)
    assert str(refusal.value).startswith(f"unsupported DDPMScheduler option {option}={value!r}: ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"_class_name": "PNDMScheduler"}, "scheduler 'PNDMScheduler'"),
        ({"_class_name": None}, "scheduler None"),
        ({"_class_name": "DDIMScheduler", "set_alpha_to_one": False}, "DDIMScheduler option set_alpha_to_one=False"),
        ({"_class_name": "DDIMScheduler", "beta_schedule": "sigmoid"}, "DDIMScheduler option beta_schedule='sigmoid'"),
        ({"trained_betas": [0.1, 0.2]}, "DDPMScheduler option trained_betas, 2 values.*num_train_timesteps=1000"),
        ({"trained_betas": ["0.1"], "num_train_timesteps": 1}, "DDPMScheduler option trained_betas, 1 values"),
    ],
)
def test_other_unsupported_schedulers(saved, options, words):
    change(saved / "scheduler/scheduler_config.json", **options)
    with pytest.raises(InputError, match=f"^unsupported {words}"):
        load_diffusers(saved, NUMPY)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"vqvae": ["diffusers", "VQModel"]}, "component vqvae="),
        ({"unet": ["diffusers", "UNet2DConditionModel"]}, "component unet=.*only UNet2DModel"),
        ({"scheduler": ["diffusers", "ScoreSdeVeScheduler"]}, "component scheduler="),
    ],
)
def test_unsupported_pipelines(saved, entry, words):
    change(saved / "model_index.json", **entry)
    with pytest.raises(InputError, match=f"^unsupported pipeline {words}"):
        load_diffusers(saved, NUMPY)


@pytest.mark.parametrize("name", ["unet/config.json", "scheduler/scheduler_config.json", WEIGHTS])
def test_missing_files(saved, name):
    (saved / name).unlink()
    with pytest.raises(MissingDataError, match=name.rpartition("/")[2]):
        load_diffusers(saved, NUMPY)


def test_missing_folder(tmp_path):
    with pytest.raises(MissingDataError, match=r"google/ddpm-cifar10-32.*downloaded first"):
        load_diffusers(tmp_path / "google/ddpm-cifar10-32", NUMPY)


class Trap:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickles_are_not_opened(saved, tmp_path):
    trap = tmp_path / "sprung"
    (saved / WEIGHTS).unlink()
    (saved / "unet/diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Trap(trap)))
    with pytest.raises(InputError, match=r"diffusion_pytorch_model\.bin is a pickle.*safe_serialization=True"):
        load_diffusers(saved, NUMPY)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("instead", "words"),
    [
        ("diffusion_pytorch_model.safetensors.index.json", "split over several files.*max_shard_size"),
        ("diffusion_pytorch_model.fp16.safetensors", "only diffusion_pytorch_model.fp16.safetensors; rename"),
    ],
)
def test_other_weights_files(saved, instead, words):
    (saved / WEIGHTS).rename(saved / "unet" / instead)
    with pytest.raises(InputError, match=words):
        load_diffusers(saved, NUMPY)


@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json", WEIGHTS])
@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\xfe\x00", b"[" * 100_000])
def test_damaged_files(saved, name, content):
    (saved / name).write_bytes(content)
    with pytest.raises(DamagedFileError, match=name.rpartition("/")[2]):
        load_diffusers(saved, NUMPY)


def test_truncated_weights(saved):
    content = (saved / WEIGHTS).read_bytes()
    for length in (4, 100, len(content) // 2, len(content) - 1):
        (saved / WEIGHTS).write_bytes(content[:length])
        with pytest.raises(DamagedFileError, match="safetensors"):
            load_diffusers(saved, NUMPY)


def without(tensors, name):
    return {key: tensor for key, tensor in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (lambda t: without(t, "conv_in.bias"), r"lacks 1 tensors.*: conv_in\.bias;"),
        (lambda t: {"conv_in.weight": t["conv_in.weight"]}, r"lacks \d+ tensors.*, …;"),
        (lambda t: t | {"extra": t["conv_in.bias"]}, "has unexpected 1 tensors.*: extra;"),
        (lambda t: t | {"conv_in.bias": t["conv_in.bias"][:3]}, r"conv_in\.bias.*shape \[3\].*asks for \[8\]"),
        (
            lambda t: t | {"conv_in.weight": t["conv_in.weight"].transpose(2, 3, 1, 0).copy()},
            r"conv_in\.weight.*shape \[3, 3, 1, 8\].*asks for \[8, 1, 3, 3\]",
        ),
        (lambda t: t | {"conv_in.bias": t["conv_in.bias"].astype(np.int8)}, r"conv_in\.bias.*kind I8.*float32"),
        (
            lambda t: t | {"mid_block.attentions.0.query.bias": t["mid_block.attentions.0.to_q.bias"]},
            "old and the new way",
        ),
    ],
    ids=["missing", "many missing", "surplus", "shape", "layout", "integers", "twice"],
)
def test_tensors_that_do_not_fit(saved, alter, words):
    save_file(alter(load_file(saved / WEIGHTS)), saved / WEIGHTS)
    with pytest.raises(InputError, match=words):
        load_diffusers(saved, NUMPY)
