"""What `tinyddpm train --init` starts from: another run, a checkpoint, or a diffusers folder."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

import backends
from tinyddpm.diffusers_format import load_diffusers
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import NAMES as SCHEDULES
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import InputError
from tinyddpm.networks.model import Model
from tinyddpm.networks.registry import NETWORKS, kind_of
from tinyddpm.training.run_folder import open_checkpoint

# Any of these in a folder makes it one of diffusers
DIFFUSERS = ("model_index.json", "unet", "scheduler", "scheduler_config.json", "diffusion_pytorch_model.safetensors")


def open_start(path: Path, backend: backends.Backend) -> tuple[Model, Diffusion]:
    """The network, over averaged weights if there are any, and its diffusion. Raises InputError as the readers do."""
    if path.is_dir() and any((path / name).exists() for name in DIFFUSERS):
        return load_diffusers(path, backend)
    checkpoint = open_checkpoint(path, backend)
    return checkpoint.sampling_model(), checkpoint.diffusion


def options_from(model: Model, diffusion: Diffusion, path: Path, chosen: set[str]) -> dict[str, Any]:
    """The options of `train`, but those already chosen, that make this network and diffusion, without its classes.

    Raises InputError, naming path, for a schedule that goes by no name.
    """
    config, schedule = model.config, diffusion.schedule
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    values |= {"kind": NETWORKS[str(kind_of(model))].option, "color": config.in_channels == 3}
    values |= {"timesteps": schedule.T, "prediction": diffusion.prediction}
    values |= {"loss": diffusion.loss, "variance": diffusion.variance}
    values |= {"weighting": diffusion.weighting, "min_snr_gamma": diffusion.min_snr_gamma}
    # Sides that differ are the data's, which no option names
    sides = () if isinstance(config.image_size, int) else ("image_size",)
    if "schedule" not in chosen:
        values["zero_terminal_snr"] = schedule.zero_terminal_snr
        values["schedule"] = name_of(schedule, path)
    if "num_heads" in chosen:
        chosen = chosen | {"head_channels"}
    return {key: value for key, value in values.items() if key not in {*chosen, *sides, "in_channels", "num_classes"}}


def name_of(schedule: Schedule, path: Path) -> str:
    """What `Schedule.by_name` calls a schedule. Raises InputError where it has no name for it."""
    for name in SCHEDULES:
        try:
            if np.allclose(Schedule.by_name(name, schedule.T, schedule.zero_terminal_snr).betas, schedule.betas):
                return name
        except InputError:  # too few steps for one of that name
            continue
    raise InputError(f"{path} has a schedule that goes by no name; choose one with --schedule: {', '.join(SCHEDULES)}")
