"""The networks by name: what checkpoints and the command line call them."""

from typing import Any

from tinyddpm.networks.model import Model
from tinyddpm.networks.simple_unet import SimpleUNet, SimpleUNetConfig
from tinyddpm.networks.unet import UNet, UNetConfig

MODELS: dict[str, tuple[type[Model], type[Any]]] = {
    "UNet": (UNet, UNetConfig),
    "SimpleUNet": (SimpleUNet, SimpleUNetConfig),
}
