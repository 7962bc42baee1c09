"""What `tinyddpm train` uses for each data set where the command line says nothing."""

from typing import Any

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
