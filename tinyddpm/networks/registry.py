"""The networks by kind: what checkpoints, run folders and the command line call them."""

from typing import Any, NamedTuple

from tinyddpm.checks import check_choice
from tinyddpm.networks.model import Model
from tinyddpm.networks.simple_unet import SimpleUNet, SimpleUNetConfig
from tinyddpm.networks.unet import UNet, UNetConfig

NetworkConfig = UNetConfig | SimpleUNetConfig


class Network(NamedTuple):
    """A network's class, its config's class, and its name on the command line."""

    model: type[Model]
    config: type[Any]
    option: str


# By kind, as files name it
NETWORKS: dict[str, Network] = {
    "UNet": Network(UNet, UNetConfig, "full"),
    "SimpleUNet": Network(SimpleUNet, SimpleUNetConfig, "simple"),
}


def network(kind: str) -> Network:
    """The network of that kind. Raises InputError for a kind that this version does not know."""
    return NETWORKS[check_choice("kind of model", kind, tuple(NETWORKS))]


def kind_of(config: Any) -> str | None:
    """The kind of network that a config is for, or that a model is; None where it is neither."""
    return next((kind for kind, found in NETWORKS.items() if type(config) in (found.config, found.model)), None)


def named(option: str) -> Network:
    """The network that the command line calls so. Raises InputError for another name."""
    by_option = {found.option: found for found in NETWORKS.values()}
    return by_option[check_choice("model", option, tuple(by_option))]


def build_network(config: NetworkConfig, **arguments: Any) -> Model:
    """A model of that config; arguments: those of `Model` after it."""
    return network(kind_of(config) or type(config).__name__).model(config, **arguments)
