"""Both U-Nets against their PyTorch twins: output, input gradient and every parameter's gradient."""

from typing import Any

import pytest

import backends
from tinyddpm.networks.simple_unet import SimpleUNetConfig
from tinyddpm.networks.unet import UNetConfig

torch = pytest.importorskip("torch", reason="parity with PyTorch needs the extra .[parity]")
gradients = pytest.importorskip("tests.twins.gradients")
Problem, errors = gradients.Problem, gradients.errors

SMALL = {"image_size": 16, "base_channels": 16, "channel_mults": (1, 2), "groups": 4}
ATTENTIVE = {**SMALL, "num_res_blocks": 1, "attention_resolutions": (8,), "num_heads": 4}
CONFIGS = {
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
# Relative, by norm, of every single tensor: rounding of sums of some thousand terms, and in Winograd's transforms
LIMITS = {("numpy", "float64"): 1e-10, ("numpy", "float32"): 1e-5, ("numba", "float32"): 2.5e-5}


@pytest.mark.parametrize(("backend", "dtype"), list(LIMITS))
@pytest.mark.parametrize("config", list(CONFIGS.values()), ids=list(CONFIGS))
def test_forward_and_every_gradient(config: Any, backend: str, dtype: str) -> None:
    """Against PyTorch in float64: its float32 has errors of its own, up to 9e-6, which would count as ours."""
    problem = Problem.random(config)
    found = errors(problem.ours(backends.get(backend), dtype), problem.torch("float64"))
    limit = LIMITS[backend, dtype]
    assert {name: error for name, error in found.items() if not error <= limit} == {}
