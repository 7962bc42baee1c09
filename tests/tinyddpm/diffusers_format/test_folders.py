"""Reading and writing diffusers folders: the same network as `UNet2DModel`, and everything else refused by name."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as tensors_of
from safetensors.numpy import load_file, save_file

import backends
from tinyddpm import samplers, streams
from tinyddpm.diffusers_format import folder as folder_module
from tinyddpm.diffusers_format import load_diffusers, save_diffusers
from tinyddpm.diffusers_format.unet import read_config, write_config
from tinyddpm.diffusers_format.weights import write_weights
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import DamagedFileError, InputError, MissingDataError
from tinyddpm.networks.simple_unet import SimpleUNet, SimpleUNetConfig
from tinyddpm.networks.unet import UNet, UNetConfig

NUMPY = backends.get("numpy")
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"

# unet/config.json and scheduler/scheduler_config.json of google/ddpm-cifar10-32
CIFAR10_UNET = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-6,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
CIFAR10_SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "_diffusers_version": "0.1.1",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "clip_sample": True,
    "num_train_timesteps": 1000,
    "trained_betas": None,
    "variance_type": "fixed_large",
}

SMALL = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 8,
}
EVERY_LEVEL = {
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("AttnDownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "AttnUpBlock2D"),
}
VARIANTS = {
    "two heads": {},
    "four heads": {"attention_head_dim": 4},
    "one head": {"attention_head_dim": None, **EVERY_LEVEL},
    "heads differ by level": {"attention_head_dim": 4, **EVERY_LEVEL},
    "classes": {"num_class_embeds": 6},
    "no middle attention": {"add_attention": False, "layers_per_block": 3},
    "sine first, shifted": {"flip_sin_to_cos": False, "freq_shift": 1},
    "cosine first, shifted": {"flip_sin_to_cos": True, "freq_shift": 1},
    "sine first": {"flip_sin_to_cos": False, "freq_shift": 0},
    "two layers, asymmetric padding": {"layers_per_block": 2, "downsample_padding": 0},
    "oblong": {"sample_size": (8, 12), "downsample_padding": 0},
    "odd channels": {"block_out_channels": (9, 18), "norm_num_groups": 3, "attention_head_dim": 9, "in_channels": 1}
    | {"out_channels": 1},
    "large eps": {"norm_eps": 0.1, "act_fn": "swish", "attn_norm_num_groups": 4, "time_embedding_dim": 32},
    "one level": {"block_out_channels": (8,), "down_block_types": ("AttnDownBlock2D",)}
    | {"up_block_types": ("AttnUpBlock2D",)},
}


def distance(ours, theirs):
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


# Against diffusers


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="compares with diffusers, which needs torch: pip install .[parity]")


@pytest.fixture(scope="module")
def diffusers(torch):
    return pytest.importorskip("diffusers", reason="compares with diffusers: pip install .[parity]")


def random_unet(torch, diffusers, options, dtype="float32"):
    """A UNet2DModel none of whose parameters is at its initial value, in evaluation mode."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel.from_config(dict(options)).eval()
    with torch.no_grad():
        for parameter in unet.parameters():
            # Norms start at 1 and 0, where errors hide; large matrices would blow up
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 else 0.02))
    if dtype == "float64":
        unet = unet.double()
        unet.time_proj = float64_sinusoids(torch, unet.config)
    return unet


def float64_sinusoids(torch, config):
    """diffusers' sinusoids, which it computes in float32 whatever the network's dtype, in float64."""

    class Sinusoids(torch.nn.Module):
        def forward(self, t):
            width = config.block_out_channels[0]
            powers = torch.arange(width // 2, dtype=torch.float64) / (width // 2 - config.freq_shift)
            angles = t[:, None].double() * torch.pow(torch.tensor(1e4, dtype=torch.float64), -powers)
            waves = [angles.cos(), angles.sin()] if config.flip_sin_to_cos else [angles.sin(), angles.cos()]
            return torch.nn.functional.pad(torch.cat(waves, dim=1), (0, width % 2))

    return Sinusoids()


def compare(torch, unet, model, limit, t=(937, 2)):
    """Output, input gradient and every parameter's gradient, on two random images at the size of the config."""
    dtype = np.dtype(str(unet.dtype).removeprefix("torch."))
    rng = np.random.default_rng(1)
    height, width = model.config.size
    x, dy = rng.standard_normal((2, 2, height, width, model.config.in_channels)).astype(dtype)
    t = np.array(t)
    labels = None if model.config.num_classes is None else np.array([1, model.config.num_classes])
    be, tape = model.backend, []
    y = be.to_numpy(model(x, t, labels, tape))
    dx = be.to_numpy(model.backward(be.asarray(dy), tape))

    their_x = torch.tensor(x.transpose(0, 3, 1, 2)).requires_grad_()
    more = {} if labels is None else {"class_labels": torch.tensor(labels)}
    their_y = unet(their_x, torch.tensor(t), **more).sample
    their_y.backward(torch.tensor(np.ascontiguousarray(dy.transpose(0, 3, 1, 2))))

    assert y.dtype == dtype
    assert distance(y, their_y.detach().numpy().transpose(0, 2, 3, 1)) < limit
    assert distance(dx, their_x.grad.numpy().transpose(0, 2, 3, 1)) < limit
    named = {name: be.to_numpy(gradient) for name, gradient in model.named_grads().items()}
    grads = tensors_of(write_weights(named, len(model.config.channel_mults)))
    theirs = {name: parameter.grad.numpy() for name, parameter in unet.named_parameters()}
    assert grads.keys() == theirs.keys()
    # A gradient that is zero by symmetry, such as a key's bias, is rounding alone: hence the scale of them all
    scale = max(np.linalg.norm(gradient) for gradient in theirs.values())
    for name, gradient in theirs.items():
        assert np.linalg.norm(grads[name] - gradient) < limit * (np.linalg.norm(gradient) + 1e-2 * scale), name


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-5), ("float64", 1e-9)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_unet2dmodel_loads(torch, diffusers, tmp_path, variant, dtype, limit):
    unet = random_unet(torch, diffusers, SMALL | VARIANTS[variant], dtype)
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    model, diffusion = load_diffusers(tmp_path, NUMPY)
    assert diffusion.schedule.T == 1000
    compare(torch, unet, model, limit)


@pytest.mark.slow
def test_cifar10_architecture(torch, diffusers, tmp_path):
    """As published: options that older versions did not write are missing, attention has its former names."""
    unet = random_unet(torch, diffusers, CIFAR10_UNET)
    unet.save_pretrained(tmp_path)
    rename_attention(tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CIFAR10_UNET))
    (tmp_path / "scheduler_config.json").write_text(json.dumps(CIFAR10_SCHEDULER))
    model, diffusion = load_diffusers(tmp_path, NUMPY)
    assert model.params.shape == (35_746_307,)
    assert diffusion.variance == "fixed_large"
    compare(torch, unet, model, 1e-5)


def rename_attention(path):
    """Gives an attention's tensors the names that diffusers wrote before version 0.12."""
    former = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(path)
    for now, then in former.items():
        tensors = {name.replace(f".{now}.", f".{then}."): tensor for name, tensor in tensors.items()}
    assert any(".proj_attn." in name for name in tensors)
    save_file(tensors, path, {"format": "pt"})


OURS = {
    "default": UNetConfig(),
    "heads differ by level": UNetConfig(
        image_size=16, base_channels=16, attention_resolutions=(16, 8), head_channels=16
    ),
    "oblong with classes": UNetConfig(image_size=(8, 16), base_channels=16, attention_resolutions=(2,), num_classes=3),
    "Ho et al.": UNetConfig(
        image_size=16,
        in_channels=3,
        base_channels=16,
        channel_mults=(1, 2),
        num_heads=1,
        attention_resolutions=(16, 8),
        asymmetric_padding=True,
        norm_eps=1e-6,
        frequency_shift=1.0,
        cos_first=False,
    ),
    "no attention in the middle": UNetConfig(
        image_size=8, base_channels=16, channel_mults=(1, 2), num_res_blocks=1, middle_attention=False, dropout=0.2
    ),
}
SCHEDULES = {
    "linear": Schedule.linear(),
    "rescaled linear": Schedule.linear(50),
    "cosine": Schedule.cosine(),
    "quadratic": Schedule.quadratic(),
    "sigmoid": Schedule.sigmoid(200),
    "own": Schedule.from_betas(np.geomspace(1e-4, 0.9, 12)),
}


def random_model(config, dtype="float32"):
    """A UNet none of whose parameters is at its initial value."""
    model = UNet(config, backend=NUMPY, dtype=dtype)
    model.params[...] += (0.05 * np.random.default_rng(2).standard_normal(model.params.shape)).astype(dtype)
    return model


@pytest.mark.parametrize("name", OURS)
def test_pipeline_loads_ours(torch, diffusers, tmp_path, name):
    model = random_model(OURS[name])
    diffusion = Diffusion(Schedule.cosine(100), prediction="v", variance="fixed_large")
    save_diffusers(tmp_path / "out", model, diffusion)
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "out")
    compare(torch, pipeline.unet.eval(), model, 1e-5)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline.scheduler.config.variance_type == "fixed_large"


@pytest.mark.parametrize("name", SCHEDULES)
def test_scheduler_loads_ours(diffusers, tmp_path, name):
    save_diffusers(tmp_path / "out", UNet(OURS["Ho et al."], backend=NUMPY), Diffusion(SCHEDULES[name]))
    scheduler = diffusers.DDPMScheduler.from_pretrained(tmp_path / "out", subfolder="scheduler")
    assert len(scheduler) == SCHEDULES[name].T
    np.testing.assert_allclose(scheduler.betas.numpy(), SCHEDULES[name].betas, rtol=1e-6)


@pytest.mark.parametrize(("variance", "spacing"), [("fixed_small", "trailing"), ("fixed_large", "leading")])
@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_pipeline_samples_ours(monkeypatch, diffusers, torch, tmp_path, prediction, variance, spacing):
    """DDPMPipeline on the saved folder gives our sampler's images from the same noise."""
    model, steps = random_model(OURS["no attention in the middle"]), 8
    diffusion = Diffusion(Schedule.linear(120), prediction=prediction, variance=variance)
    save_diffusers(tmp_path / "out", model, diffusion)
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "out")
    assert pipeline.scheduler.config.timestep_spacing == spacing
    shape = (3, 8, 8, 1)
    drawn = [NUMPY.random_normal(shape, 4, streams.SAMPLE_START, 0)[0]]
    drawn += [NUMPY.random_normal(shape, 4, streams.SAMPLE_NOISE, i)[0] for i in reversed(range(steps))]
    noise = iter([torch.tensor(x.transpose(0, 3, 1, 2)) for x in drawn])
    for place in ("pipelines.ddpm.pipeline_ddpm", "schedulers.scheduling_ddpm"):
        monkeypatch.setattr(f"diffusers.{place}.randn_tensor", lambda *_, **__: next(noise))
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(batch_size=3, num_inference_steps=steps, output_type="np").images
    ours = samplers.last(samplers.ddpm(model, diffusion, shape, steps=steps, seed=4, spacing=spacing)).x
    assert distance(np.clip(ours / 2 + 0.5, 0, 1), theirs) < 1e-5


# Without torch and diffusers


@pytest.fixture
def saved(tmp_path):
    """A folder that `save_diffusers` wrote."""
    config = UNetConfig(
        image_size=8, base_channels=8, channel_mults=(1, 2), num_res_blocks=1, attention_resolutions=(4,), groups=4
    )
    save_diffusers(tmp_path / "saved", random_model(config), Diffusion(Schedule.linear()))
    return tmp_path / "saved"


def change(path, **values):
    """Sets options in a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


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
        ("variance_type", "learned_range"),
        ("variance_type", "fixed_large_log"),
        ("thresholding", True),
        ("clip_sample", None),
        ("clip_sample_range", 2.0),
        ("rescale_betas_zero_snr", True),
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


# What cannot be written, and that nothing is left of the attempt

ONE_LEVEL = UNetConfig(image_size=8, base_channels=8, channel_mults=(1,), num_res_blocks=1, middle_attention=False)
UNWRITABLE = {
    "simple": (SimpleUNet(SimpleUNetConfig(), backend=NUMPY), "UNet2DModel.*SimpleUNet.*build a UNet"),
    "time": (UNet(replace(ONE_LEVEL, time_embedding="input"), backend=NUMPY), "time_embedding='input'.*'resblock'"),
    "mults": (UNet(replace(ONE_LEVEL, channel_mults=(2,)), backend=NUMPY), r"channel_mults=\(2,\).*base_channels=16"),
    "heads": (
        UNet(UNetConfig(image_size=8, base_channels=8, attention_resolutions=(8, 2)), backend=NUMPY),
        "num_heads=4.*2, 8 channels.*head_channels=2",
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
