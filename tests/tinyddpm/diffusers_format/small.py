"""What the tests of diffusers folders share: options, networks, a folder that was saved."""

import json

import numpy as np
from safetensors.numpy import load_file, save_file

import backends
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.networks.unet import UNet, UNetConfig

NUMPY = backends.get("numpy")
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"

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


def change(path, **values):
    """Sets options in a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def rename_attention(path):
    """Gives an attention's tensors the names that diffusers wrote before version 0.12."""
    former = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(path)
    for now, then in former.items():
        tensors = {name.replace(f".{now}.", f".{then}."): tensor for name, tensor in tensors.items()}
    assert any(".proj_attn." in name for name in tensors)
    save_file(tensors, path, {"format": "pt"})
