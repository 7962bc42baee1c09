"""A network's output and all its gradients, from our backends and from PyTorch's autograd, and their errors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.twins import networks
from tinyddpm.networks.model import Model
from tinyddpm.networks.simple_unet import SimpleUNet, SimpleUNetConfig
from tinyddpm.networks.unet import UNet, UNetConfig

Results = dict[str, np.ndarray]


@dataclass(frozen=True)
class Problem:
    """A network at random parameters, a batch and a random cotangent; all of it rounded to float32.

    Rounded, so that a computation in float64 gives the exact results of what those in float32 are given.
    """

    config: UNetConfig | SimpleUNetConfig
    params: np.ndarray
    x: np.ndarray
    t: np.ndarray
    labels: np.ndarray | None
    dy: np.ndarray

    @classmethod
    def random(cls, config: UNetConfig | SimpleUNetConfig, batch: int = 2, seed: int = 11) -> "Problem":
        """x and dy are normal; weights are scaled so that activations stay of order 1; no weight is 0, no gamma 1."""
        rng = np.random.default_rng(seed)
        declarations = _kind(config)(config).parameters.declarations
        params = [rng.standard_normal(d.shape) / np.sqrt(np.prod(d.shape[:-1])) for d in declarations]
        x, dy = rng.standard_normal((2, batch, *config.size, config.in_channels)).astype(np.float32)
        return cls(
            config,
            np.concatenate([value.ravel() for value in params]).astype(np.float32),
            x,
            rng.integers(0, 1000, batch),
            None if config.num_classes is None else rng.integers(0, config.num_classes + 1, batch),
            dy,
        )

    def model(self, backend: Any, dtype: str) -> Model:
        """Ours, at these parameters."""
        model = _kind(self.config)(self.config, backend=backend, dtype=dtype)
        model.params[...] = self.params
        return model

    def ours(self, backend: Any, dtype: str) -> Results:
        """Output, dx (under these names) and every parameter's gradient, of one of our backends."""
        model, tape = self.model(backend, dtype), []
        y = model(self.x.astype(dtype), self.t, self.labels, tape)
        dx = model.backward(self.dy.astype(dtype), tape)
        return {"output": y, "dx": dx} | model.named_grads()

    def torch(self, dtype: str) -> Results:
        """The same of the PyTorch twin."""
        import torch

        import backends

        twin = networks.twin_of(self.model(backends.get("numpy"), dtype))
        x = networks.nchw(self.x.astype(dtype)).requires_grad_()
        y = twin(x, torch.from_numpy(self.t), None if self.labels is None else torch.from_numpy(self.labels))
        y.backward(networks.nchw(self.dy.astype(dtype)))
        found = {"output": networks.nhwc(y), "dx": networks.nhwc(x.grad)}
        return found | networks.ours(twin, gradients=True)


def _kind(config: UNetConfig | SimpleUNetConfig) -> type[Model]:
    return UNet if isinstance(config, UNetConfig) else SimpleUNet


def relative(found: np.ndarray, exact: np.ndarray) -> float:
    """Norm of the difference over the norm."""
    assert found.shape == exact.shape
    return float(np.linalg.norm((found - exact).ravel()) / np.linalg.norm(exact.ravel()))


def errors(found: Mapping[str, np.ndarray], exact: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The `relative` error of each array."""
    assert set(found) == set(exact)
    return {name: relative(found[name], exact[name]) for name in exact}
