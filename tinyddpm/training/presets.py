"""What `tinyddpm train` uses for each data set where the command line says nothing."""

from dataclasses import fields
from typing import Any

from tinyddpm.networks.unet import UNetConfig
from tinyddpm.training.trainer import TrainConfig

# Digits: about a minute on two cores. The others: the U-Net of 3.9 million parameters at 32x32.
SMALL: dict[str, Any] = {
    "base_channels": 32,
    "channel_mults": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (4,),
    "steps": 1000,
    "batch_size": 64,
    "lr": 2e-3,
}
MIDDLE: dict[str, Any] = {
    "image_size": 32,
    "base_channels": 32,
    "channel_mults": (1, 2, 4),
    "num_res_blocks": 2,
    "attention_resolutions": (8,),
    "steps": 2000,
    "batch_size": 64,
    "lr": 5e-4,
}
PRESETS = {"digits": SMALL}


def preset(data: str) -> dict[str, Any]:
    """The defaults for a data set's name or a folder."""
    return PRESETS.get(data, MIDDLE)


# What no preset says, and what follows from more than the data set's name
FIXED: dict[str, Any] = {field.name: field.default for kind in (UNetConfig, TrainConfig) for field in fields(kind)}
FOLLOWING = {"image_size": "32; digits: as they are", "warmup_steps": "a tenth of the steps, at most 100"}


def described_default(option: str) -> str | None:
    """What `train` takes for one of the options above where it is left out, in words; None for other options."""
    if option in FOLLOWING:
        return f"default: {FOLLOWING[option]}"
    if option not in FIXED or isinstance(FIXED[option], bool) or option == "seed":
        return None
    usual, digits = (written(found.get(option, FIXED[option])) for found in (MIDDLE, SMALL))
    return f"default: {usual}" if usual == digits else f"default: {usual}; digits: {digits}"


def written(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
