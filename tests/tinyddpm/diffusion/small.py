"""What the tests of the process and of its objective share: schedules, images, two small networks."""

from typing import Any

import numpy as np

import backends
from tinyddpm.diffusion.schedules import NAMES, Schedule
from tinyddpm.networks.simple_unet import SimpleUNet, SimpleUNetConfig

SCHEDULES = {name: Schedule.by_name(name, 100) for name in NAMES} | {"one step": Schedule.from_betas(np.array([0.3]))}


def batch(n: int, seed: int = 0, shape: tuple[int, ...] = (4, 4, 1)) -> np.ndarray:
    """(n, 4, 4, 1) images in [-1, 1], float64."""
    return np.random.default_rng(seed).uniform(-1, 1, (n, *shape))


class ScaleAndShift:
    """A network of two parameters: output = a x + b t / 1000, with everything that it was given on record."""

    def __init__(self, a: float = 0.7, b: float = -0.4, num_classes: int | None = None) -> None:
        self.backend = backends.get("numpy")
        self.params, self.grads = np.array([a, b]), np.full(2, 7.0)
        self.config = SimpleUNetConfig(image_size=4, num_classes=num_classes)
        self.calls: list[dict[str, Any]] = []

    def __call__(self, x, t, labels=None, tape=None, dropout_key=None):
        time = np.asarray(t).reshape(-1, 1, 1, 1) / 1000
        output = self.params[0] * x + self.params[1] * time
        self.calls.append({"x": x, "t": t, "labels": labels, "tape": tape, "key": dropout_key, "output": output})
        if tape is not None:
            tape.append((x, time))
        return output

    def backward(self, dy, tape):
        x, time = tape.pop()
        self.grads[:] = [np.sum(dy * x), np.sum(dy * time)]
        return self.params[0] * dy


def tiny_unet(num_classes: int | None = None, dropout: float = 0.0) -> SimpleUNet:
    """A U-Net in float64 at random parameters, for at its initial ones the last convolution is zero."""
    config = SimpleUNetConfig(
        image_size=4,
        base_channels=4,
        channel_mults=(1, 2),
        groups=2,
        num_classes=num_classes,
        dropout=dropout,
    )
    model = SimpleUNet(config, backend=backends.get("numpy"), dtype="float64")
    model.params[:] = 0.5 * np.random.default_rng(11).standard_normal(model.params.shape)
    return model
