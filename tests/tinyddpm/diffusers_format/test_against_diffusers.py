"""Networks and schedulers of diffusers, read and written: the same results, both ways."""

import json

import numpy as np
import pytest
from safetensors.numpy import load as tensors_of

from tests.tinyddpm.diffusers_format.small import NUMPY, OURS, SCHEDULES, random_model, rename_attention
from tinyddpm import samplers, streams
from tinyddpm.diffusers_format import load_diffusers, save_diffusers
from tinyddpm.diffusers_format.weights import write_weights
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.networks.unet import UNet

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
    model, diffusion = load_diffusers(tmp_path, NUMPY, last_class="no label")
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
