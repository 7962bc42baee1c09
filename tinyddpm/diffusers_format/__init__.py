"""Hugging Face diffusers folders: reading a `UNet2DModel` with its DDPM or DDIM scheduler, and writing one.

Neither torch nor diffusers is needed. What the two codes cannot both express is refused by name, never approximated.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import backends
from tinyddpm.checks import check_choice, check_whole
from tinyddpm.diffusers_format.folder import (
    check_pipeline,
    checked_folder,
    part,
    read_json,
    weights_file,
    write_folder,
)
from tinyddpm.diffusers_format.scheduler import read_diffusion, write_diffusion
from tinyddpm.diffusers_format.unet import LAST_CLASS, read_config, write_config
from tinyddpm.diffusers_format.weights import read_weights, write_weights
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.errors import InputError
from tinyddpm.networks.registry import NetworkConfig, kind_of
from tinyddpm.networks.unet import UNet, UNetConfig

PIPELINE = {
    "_class_name": "DDPMPipeline",
    "scheduler": ["diffusers", "DDPMScheduler"],
    "unet": ["diffusers", "UNet2DModel"],
}


def load_diffusers(
    folder: str | os.PathLike[str], backend: backends.Backend | None = None, *, last_class: str | None = None
) -> tuple[UNet, Diffusion]:
    """The network and the diffusion of a folder that `DDPMPipeline.save_pretrained` wrote.

    Reads unet/config.json, unet/diffusion_pytorch_model.safetensors and scheduler/scheduler_config.json, or the
    same files in the folder itself, as older folders have them. Parameters are float32, or float64 if the file's
    are. last_class: what the last of K class embeddings means, "no label" (num_classes is K - 1) or "label" (K, and the
    model then needs labels in every call); folders that `save_diffusers` wrote tell. How to sample (clip_sample,
    timestep_spacing) is not part of a `Diffusion`: give it to the sampler; nor are loss and label_dropout, which
    take their defaults. Raises MissingDataError for files that are not there, DamagedFileError for files that are
    not what they should be, and InputError, naming option and value, for what this U-Net cannot compute exactly, or
    where last_class is to be chosen.
    """
    folder = checked_folder(folder)
    check_pipeline(folder)
    diffusion = read_diffusion(read_json(part(folder, "scheduler") / "scheduler_config.json"))
    place = part(folder, "unet")
    if last_class is not None:
        check_choice("last_class", last_class, LAST_CLASS)
    config = read_config(read_json(place / "config.json"), last_class)
    backend = backend or backends.get("auto")
    if config.learned_variance != diffusion.learned:
        raise InputError(
            f"unsupported folder: out_channels={config.out_channels} of a UNet2DModel with in_channels="
            f"{config.in_channels} does not go with the scheduler's variance; only learned_range takes twice as many"
        )
    params = backend.asarray(read_weights(weights_file(place), config))
    return UNet(config, backend=backend, params=params), diffusion


def save_diffusers(
    folder: str | os.PathLike[str],
    model: Any,
    diffusion: Diffusion,
    class_names: Sequence[str] | None = None,
    readme: str | None = None,
) -> None:
    """Writes a folder that `DDPMPipeline.from_pretrained` loads: the same network, the same reverse process.

    The folder must be new or empty; it appears complete or not at all. An average's weights are saved through
    `model.with_params(ema.params)`. `DDPMPipeline` passes no labels: a model with classes is to be called by hand, as
    unet(x, t, class_labels=labels), or saved as it is for one of them, `for_label`; class_names, in the order of its
    labels, are kept in classes.json. readme: the text of README.md, if there is to be one. loss and label_dropout are
    not kept. Raises InputError, naming what and the remedy, for a model or schedule that diffusers' classes cannot
    express.
    """
    if not isinstance(model, UNet):
        raise InputError(no_unet(type(model).__name__))
    diffusion.check_output(model)
    texts: dict[str, Any] = {
        "model_index.json": PIPELINE,
        "unet/config.json": write_config(model.config),
        "scheduler/scheduler_config.json": write_diffusion(diffusion),
    }
    if class_names is not None:
        texts["classes.json"] = list(class_names)
    content = {name: (json.dumps(values, indent=2) + "\n").encode() for name, values in texts.items()}
    if readme is not None:
        content["README.md"] = readme.encode()
    arrays = {name: model.backend.to_numpy(value) for name, value in model.named_params().items()}
    content["unet/diffusion_pytorch_model.safetensors"] = write_weights(arrays, len(model.config.channel_mults))
    write_folder(Path(folder), content)


def no_unet(kind: str) -> str:
    """What is said of a network of another kind."""
    return (
        f"a diffusers folder holds a UNet2DModel, which cannot express a {kind}; "
        "build a UNet, or keep this model in a checkpoint"
    )


def why_not(config: NetworkConfig) -> str | None:
    """Why `save_diffusers` would refuse a model of that config; None if it would not."""
    if not isinstance(config, UNetConfig):
        return no_unet(str(kind_of(config)))
    try:
        write_config(config)
    except InputError as error:
        return str(error)
    return None


def for_label(model: UNet, label: int | None) -> UNet:
    """The model without classes that computes what this one does for a label, None for "no label".

    The label's embedding is added to the bias that the time's embedding ends with. Raises InputError for a model
    without classes, or a label that it does not have.
    """
    config = model.config
    if config.num_classes is None:
        raise InputError("this model was trained without classes, so it has no label to export; leave it out")
    if label is None and not config.no_label:
        raise InputError(f'this model has no embedding for "no label"; choose one of 0 … {config.num_classes - 1}')
    if label is not None:
        check_whole("label", label, 0, config.num_classes - 1)
    arrays = {name: model.backend.to_numpy(value) for name, value in model.named_params().items()}
    row = arrays.pop("time.label.table")[config.num_classes if label is None else label]
    arrays["time.linear2.bias"] = arrays["time.linear2.bias"] + row
    plain = replace(config, num_classes=None, no_label=True)
    flat = np.concatenate([arrays[declared.name].reshape(-1) for declared in UNet.declarations(plain)])
    return UNet(plain, backend=model.backend, params=model.backend.asarray(flat))


__all__ = ["for_label", "load_diffusers", "save_diffusers", "why_not"]
