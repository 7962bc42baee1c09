"""A network's output and all its gradients, from our backends and from PyTorch's autograd, and their errors."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from tests.twins import networks
from tinyddpm.networks.model import Model
from tinyddpm.networks.simple_unet import SimpleUNet, SimpleUNetConfig
from tinyddpm.networks.unet import UNet, UNetConfig

Results = dict[str, np.ndarray]

SMALL: dict[str, Any] = {"image_size": 16, "base_channels": 16, "channel_mults": (1, 2), "groups": 4}
ATTENTIVE: dict[str, Any] = {**SMALL, "num_res_blocks": 1, "attention_resolutions": (8,), "num_heads": 4}
# Both U-Nets with every option
CONFIGS: dict[str, UNetConfig | SimpleUNetConfig] = {
    "default": UNetConfig(),
    "input time": UNetConfig(**ATTENTIVE, time_embedding="input", in_channels=3),
    "classes": UNetConfig(**ATTENTIVE, num_classes=5, middle_attention=False),
    "asymmetric, shifted, sines first": UNetConfig(
        **ATTENTIVE, asymmetric_padding=True, frequency_shift=1.0, cos_first=False, norm_eps=1e-6
    ),
    "oblong, three levels": UNetConfig(
        image_size=(8, 20),
        in_channels=2,
        base_channels=12,
        channel_mults=(2, 1, 3),
        num_res_blocks=2,
        attention_resolutions=(8, 2),
        head_channels=4,
        groups=3,
    ),
    "one level, no attention": UNetConfig(
        image_size=7, base_channels=9, channel_mults=(2,), groups=3, attention_resolutions=(), middle_attention=False
    ),
    "simple": SimpleUNetConfig(),
    "simple, time in each block": SimpleUNetConfig(**SMALL, time_embedding="resblock"),
    "simple, classes": SimpleUNetConfig(**SMALL, num_classes=4, in_channels=3),
    "simple, oblong": SimpleUNetConfig(
        image_size=(12, 4), in_channels=2, base_channels=10, channel_mults=(1, 3, 2), groups=5
    ),
    "simple, four levels": SimpleUNetConfig(image_size=16, base_channels=8, channel_mults=(1, 1, 2, 2), groups=2),
    "simple, one level": SimpleUNetConfig(image_size=5, base_channels=6, channel_mults=(2,), groups=1),
}


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
        x, dy = (
            rng.standard_normal((batch, *config.size, c)).astype(np.float32)
            for c in (config.in_channels, config.out_channels)
        )
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
        twin = self._twin(dtype)
        y, x = self._run(twin, dtype)
        found = {"output": networks.nhwc(y), "dx": networks.nhwc(x.grad)}
        return found | networks.ours(twin, gradients=True)

    def terms(self) -> dict[str, float]:
        """For each parameter what the terms of its gradient amount to: the root of the sum of all their squares.

        From PyTorch in float64. A gradient is a sum over images and pixels. It has about this norm where its terms are
        independent of one another, a larger one where they agree, a smaller one where they cancel.
        """
        twin = self._twin("float64")
        found = networks.watch_terms(twin)
        self._run(twin, "float64")
        return found

    def _twin(self, dtype: str) -> Any:
        import backends

        return networks.twin_of(self.model(backends.get("numpy"), dtype))

    def _run(self, twin: Any, dtype: str) -> tuple[Any, Any]:
        """The twin forward and backward; returns its output and its input, whose gradient is there."""
        import torch

        x = networks.nchw(self.x.astype(dtype)).requires_grad_()
        y = twin(x, torch.from_numpy(self.t), None if self.labels is None else torch.from_numpy(self.labels))
        y.backward(networks.nchw(self.dy.astype(dtype)))
        return y, x


def _kind(config: UNetConfig | SimpleUNetConfig) -> type[Model]:
    return UNet if isinstance(config, UNetConfig) else SimpleUNet


def relative(found: np.ndarray, exact: np.ndarray, floor: float = 0.0) -> float:
    """Norm of the difference over the norm, or over `floor` if that is larger."""
    assert found.shape == exact.shape
    return float(np.linalg.norm((found - exact).ravel()) / max(np.linalg.norm(exact.ravel()), floor))


def errors(
    found: Mapping[str, np.ndarray], exact: Mapping[str, np.ndarray], floors: Mapping[str, float] = MappingProxyType({})
) -> dict[str, float]:
    """The `relative` error of each array; floors: of some of them."""
    assert set(found) == set(exact)
    return {name: relative(found[name], exact[name], floors.get(name, 0.0)) for name in exact}
