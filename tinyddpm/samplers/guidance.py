"""Classifier-free guidance (Ho & Salimans 2022)."""

from backends import Array, Backend
from tinyddpm.checks import check_kind, check_number
from tinyddpm.diffusion.process import Predictor
from tinyddpm.errors import InputError
from tinyddpm.networks.model import Model


class Guided:
    """What `classifier_free` returns: u + scale (c - u), c the model's output with the labels and u without."""

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
        unconditional = self.model(x, t)
        return unconditional + self.scale * (conditional - unconditional)


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
    return Guided(model, scale)
