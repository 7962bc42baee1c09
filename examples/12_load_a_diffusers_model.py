"""Weights of a Hugging Face diffusers model, run by our U-Net: load a folder, sample from it.

    python 12_load_a_diffusers_model.py FOLDER

For a published one, such as google/ddpm-cifar10-32 (35.7 million parameters; some seconds for each step of 16 images):

    >>> from diffusers import DDPMPipeline  # pip install diffusers torch
    >>> DDPMPipeline.from_pretrained("google/ddpm-cifar10-32").save_pretrained("cifar10")

Without FOLDER a small model is trained on digits and saved in that format first. Writes loaded.png.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

import tinyddpm as td
from tinyddpm.reporting import pictures


def trained_on_digits(folder: Path) -> None:
    """Stands in for a download: some hundred steps, then a folder that `DDPMPipeline.from_pretrained` loads too."""
    config = td.UNetConfig(image_size=8, channel_mults=(1, 2), num_res_blocks=1, attention_resolutions=())
    model, diffusion = td.UNet(config, seed=0), td.Diffusion(td.Schedule.linear(1000))
    optimizer, ema = td.Adam(model.params, lr=2e-3), td.EMA(model.params, decay=0.99)
    batches = td.data.Batches(td.data.load("digits"), batch_size=64, seed=0)
    for step in range(300):
        diffusion.training_step(model, batches.at(step)[0], step=step)
        optimizer.step(model.grads)
        ema.update(model.params)
    td.save_diffusers(folder, model.with_params(ema.params), diffusion)


with tempfile.TemporaryDirectory() as scratch:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else f"{scratch}/digits")
    if len(sys.argv) == 1:
        trained_on_digits(folder)
    print("in the folder:", *sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*")))
    model, diffusion = td.load_diffusers(folder)

config = model.config
print(f"{model.params.size:,} parameters, channels {config.channels}, {config.num_res_blocks} blocks a level")
print(f"schedule of {diffusion.schedule.T} steps, the network predicts {diffusion.prediction}")
# As `DDPMPipeline` with num_inference_steps=50: clipped to [-1, 1], its timesteps the multiples of T / 50
shape = (16, *config.size, config.in_channels)
state = td.samplers.last(td.samplers.ddpm(model, diffusion, shape, steps=50, spacing="leading"))
pictures.save_grid("loaded.png", td.data.to_uint8(np.asarray(model.backend.to_numpy(state.x))), columns=8)
print("wrote loaded.png")
