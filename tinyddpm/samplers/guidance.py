"""Classifier-free guidance (Ho & Salimans 2022)."""

from backends import Array, Backend
from tinyddpm.checks import check_kind, check_number
from tinyddpm.diffusion.process import Predictor
from tinyddpm.errors import InputError
from tinyddpm.networks.model import Model


class Guided:
    """What `classifier_free` returns: u + scale (c - u), c the model's output with the labels and u without.

    A learned variance, the latter half of the channels, is that of c: it is no direction to go on in.
    """

    def __init__(self, model: Model, scale: float) -> None:
        self.model, self.scale = model, scale
        # Where it computes, and what it casts to: what a sampler asks
        self.backend: Backend = model.backend
        self.dtype = model.dtype

    def __call__(self, x: Array, t: Array, labels: Array | None = None) -> Array:
        if labels is None:
            raise InputError("guidance needs labels to guide towards; pass labels=")
        conditional = self.model(x, t, labels=labels)
        if self.scale == 1:
            return conditional
        unconditional, channels = self.model(x, t), x.shape[-1]
        guided = unconditional + self.scale * (conditional - unconditional)
        if guided.shape[-1] == channels:
            return guided
        return self.backend.xp.concat([guided[..., :channels], conditional[..., channels:]], axis=-1)


def classifier_free(model: Model, guidance_scale: float) -> Predictor:
    """A callable like `model` whose output is u + guidance_scale (c - u), c with the labels and u without.

    guidance_scale 1 is the conditional model, 0 the unconditional one, above 1 exaggerates the label
    (Ho & Salimans 2022, eq. 6, with w + 1 = guidance_scale). Raises InputError for a model without classes,
    a scale that is not a finite number, or when called without labels.
    """
    check_kind("model", model, Model, "UNet(UNetConfig(num_classes=10))")
    infinity = float("inf")
    scale = check_number("guidance_scale", guidance_scale, -infinity, infinity, low_open=True, high_open=True)
    if model.config.num_classes is None:
        raise InputError("guidance needs a model with classes; train with labels")
    if not getattr(model.config, "no_label", True):
        raise InputError('guidance needs a model that was trained without labels too; this one has no "no label"')
    return Guided(model, scale)
