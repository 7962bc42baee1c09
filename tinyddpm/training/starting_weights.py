"""Fine-tuning: a training that starts from another model's weights."""

from dataclasses import fields, replace

from tinyddpm.errors import InputError
from tinyddpm.networks.model import Model
from tinyddpm.networks.registry import NetworkConfig, kind_of, network

# Fields of a network's config that may differ: weights mean the same with others, if they have a place at all
FREE = ("image_size", "dropout", "num_classes", "attention_resolutions")
# Those on which it depends where there are attentions
PLACES = ("image_size", "attention_resolutions")
# Options of another name than the field
OPTIONS = {"in_channels": "color", "learned_variance": "variance"}


class StartingWeights:
    """The weights of a model for a network of another config, which may differ in its classes.

    source: the model; config: of the network to train; name: of the source, for messages. note: a line that says
    what is taken over and what is new. A network that predicts variances too may start from one that does not: those
    begin in the middle between the bounds, and the prediction is the source's. Raises InputError, naming what does not
    fit, for a network in which the weights would compute something else, or other parameters differ in name or shape.
    """

    def __init__(self, source: Model, config: NetworkConfig, name: str) -> None:
        self.source = source
        if kind_of(config) != kind_of(source):
            raise InputError(f"{name} is a {kind_of(source)} and cannot start a {kind_of(config)}")
        here, there = shapes(config), shapes(source.config)
        classes = class_embeddings(config) | class_embeddings(source.config)
        # The last layer's, whose first channels are the prediction
        grown = config.learned_variance and not source.config.learned_variance
        self.grown = [key for key in here if grown and key.startswith("conv_out.")]
        unlike = [
            key
            for key in {**here, **there}
            if key not in classes and key not in self.grown and here.get(key) != there.get(key)
        ]
        odd = [f.name for f in fields(config) if getattr(config, f.name) != getattr(source.config, f.name)]
        odd = [key for key in odd if not (grown and key == "learned_variance")]
        told = [key for key in odd if key not in FREE] or [key for key in odd if key in PLACES]
        if unlike or (told and told[0] not in FREE):
            values = ", ".join(
                f"{key} is {getattr(source.config, key)} there and {getattr(config, key)} here" for key in told
            )
            shown = f" ({len(unlike)} of its parameters, first {unlike[0]})" if unlike else ""
            options = ", ".join(f"--{OPTIONS.get(key, key).replace('_', '-')}" for key in told)
            raise InputError(f"{name} does not fit this network: {values}{shown}; leave out {options}")
        self.names = [key for key in here if here[key] == there.get(key) or key in self.grown]
        seen, asked = source.config.num_classes, config.num_classes
        self.note = f"starting from the weights of {name}"
        if asked is not None and asked != seen:
            self.note += f"; the embeddings of {asked} classes are new ({name} has {seen or 'none'})"
        elif seen is not None and asked is None:
            self.note += f", without its {seen} classes (--classes keeps them)"
        if grown:
            self.note += "; the variances are new"

    def fill(self, model: Model) -> None:
        """Writes the weights into a model of that config, in its dtype."""
        given, taken = self.source.named_params(), model.named_params()
        for name in self.names:
            value, place = self.source.backend.to_numpy(given[name]), taken[name]
            if name in self.grown:
                place[...] = 0
                place = place[..., : value.shape[-1]]
            place[...] = model.backend.asarray(value, "float32" if place.dtype.itemsize == 4 else "float64")


def shapes(config: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter of a network."""
    return {declared.name: declared.shape for declared in network(str(kind_of(config))).model.declarations(config)}


def class_embeddings(config: NetworkConfig) -> set[str]:
    """The names of the parameters that a network has for its classes."""
    return shapes(config).keys() - shapes(replace(config, num_classes=None)).keys()
