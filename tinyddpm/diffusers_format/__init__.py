"""Hugging Face diffusers folders: reading a `UNet2DModel` with its DDPM or DDIM scheduler, and writing one.

Neither torch nor diffusers is needed. What the two codes cannot both express is refused by name, never approximated.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import backends
from tinyddpm.diffusers_format.folder import (
    check_pipeline,
    checked_folder,
    part,
    read_json,
    weights_file,
    write_folder,
)
from tinyddpm.diffusers_format.scheduler import read_diffusion, write_diffusion
from tinyddpm.diffusers_format.unet import read_config, write_config
from tinyddpm.diffusers_format.weights import read_weights, write_weights
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.errors import InputError
from tinyddpm.networks.unet import UNet

PIPELINE = {
    "_class_name": "DDPMPipeline",
    "scheduler": ["diffusers", "DDPMScheduler"],
    "unet": ["diffusers", "UNet2DModel"],
}


def load_diffusers(folder: str | os.PathLike[str], backend: backends.Backend | None = None) -> tuple[UNet, Diffusion]:
    """The network and the diffusion of a folder that `DDPMPipeline.save_pretrained` wrote.

    Reads unet/config.json, unet/diffusion_pytorch_model.safetensors and scheduler/scheduler_config.json, or the
    same files in the folder itself, as older folders have them. Parameters are float32, or float64 if the file's
    are. The last of K class embeddings becomes "no label": num_classes is K - 1. How to sample (clip_sample,
    timestep_spacing) is not part of a `Diffusion`: give it to the sampler; nor are loss and label_dropout, which
    take their defaults. Raises MissingDataError for files that are not there, DamagedFileError for files that are
    not what they should be, and InputError, naming option and value, for what this U-Net cannot compute exactly.
    """
    folder = checked_folder(folder)
    check_pipeline(folder)
    diffusion = read_diffusion(read_json(part(folder, "scheduler") / "scheduler_config.json"))
    place = part(folder, "unet")
    config = read_config(read_json(place / "config.json"))
    backend = backend or backends.get("auto")
    params = backend.asarray(read_weights(weights_file(place), config))
    return UNet(config, backend=backend, params=params), diffusion


def save_diffusers(
    folder: str | os.PathLike[str], model: Any, diffusion: Diffusion, class_names: Sequence[str] | None = None
) -> None:
    """Writes a folder that `DDPMPipeline.from_pretrained` loads: the same network, the same reverse process.

    The folder must be new or empty; it appears complete or not at all. An average's weights are saved through
    `model.with_params(ema.params)`. A model with classes is to be called with class_labels by hand, since
    `DDPMPipeline` passes none; class_names, in the order of its labels, are kept in classes.json. loss and
    label_dropout are not kept. Raises InputError, naming what and the remedy, for a model or schedule that
    diffusers' classes cannot express.
    """
    if not isinstance(model, UNet):
        raise InputError(
            f"a diffusers folder holds a UNet2DModel, which cannot express a {type(model).__name__}; "
            "build a UNet, or keep this model in a checkpoint"
        )
    texts: dict[str, Any] = {
        "model_index.json": PIPELINE,
        "unet/config.json": write_config(model.config),
        "scheduler/scheduler_config.json": write_diffusion(diffusion),
    }
    if class_names is not None:
        texts["classes.json"] = list(class_names)
    content = {name: (json.dumps(values, indent=2) + "\n").encode() for name, values in texts.items()}
    arrays = {name: model.backend.to_numpy(value) for name, value in model.named_params().items()}
    content["unet/diffusion_pytorch_model.safetensors"] = write_weights(arrays, len(model.config.channel_mults))
    write_folder(Path(folder), content)


__all__ = ["load_diffusers", "save_diffusers"]
