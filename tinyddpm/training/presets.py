"""What `tinyddpm train` uses for each data set where the command line says nothing."""

import math
from dataclasses import fields
from typing import Any

from tinyddpm.networks.unet import UNetConfig, levels_with_attention
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


def fitted(values: dict[str, Any], chosen: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """The values of a network for images of that (height, width), with those that nobody chose made to fit.

    values: base_channels, channel_mults, groups and more; num_heads and attention_resolutions where the network has
    them. chosen: those of them that stay. Levels go while the sides cannot be halved so often and two are left;
    attention is at the sides that a level has, or at the innermost level; heads and groups are the most that divide the
    channels. What still does not fit is the config's to refuse.
    """
    values = dict(values)
    if "channel_mults" not in chosen:
        mults = values["channel_mults"]
        while len(mults) > 2 and any(side % 2 ** (len(mults) - 1) for side in size):
            mults = mults[:-1]
        values["channel_mults"] = mults
    channels = [values["base_channels"] * mult for mult in values["channel_mults"]]
    if "groups" not in chosen:
        values["groups"] = largest_divisor(math.gcd(*channels), values["groups"])
    if "attention_resolutions" in values and channels:
        sides = tuple(min(size) >> level for level in range(len(channels)))
        if "attention_resolutions" not in chosen:
            values["attention_resolutions"] = levels_with_attention(values["attention_resolutions"], sides)
        if "num_heads" not in chosen:
            attended = [c for c, side in zip(channels, sides, strict=True) if side in values["attention_resolutions"]]
            values["num_heads"] = largest_divisor(math.gcd(*attended, channels[-1]), values["num_heads"])
    return values


def largest_divisor(number: int, most: int) -> int:
    """The largest whole number up to `most` that divides number."""
    return max(divisor for divisor in range(1, most + 1) if number % divisor == 0)


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
