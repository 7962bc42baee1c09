"""Both U-Nets against their PyTorch twins: output, input gradient and every parameter's gradient."""

from typing import Any

import numpy as np
import pytest

from tests.tinyddpm.networks.test_layers import BACKEND, random_values
from tinyddpm.networks.simple_unet import SimpleUNet, SimpleUNetConfig
from tinyddpm.networks.unet import UNet, UNetConfig

torch = pytest.importorskip("torch", reason="parity with PyTorch needs the extra .[parity]")
torch_twin = pytest.importorskip("tests.twins.networks")

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
# rounding in float32 of sums of some thousand terms; in float64, of the same sums
LIMITS = {"float32": 1e-5, "float64": 1e-10}


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Norm of the difference over the norm."""
    assert ours.shape == theirs.shape
    return float(np.linalg.norm((ours - theirs).ravel()) / np.linalg.norm(theirs.ravel()))


@pytest.mark.parametrize("dtype", list(LIMITS))
@pytest.mark.parametrize("config", list(CONFIGS.values()), ids=list(CONFIGS))
def test_forward_and_every_gradient(config: Any, dtype: str) -> None:
    rng = np.random.default_rng(11)
    model = (UNet if isinstance(config, UNetConfig) else SimpleUNet)(config, backend=BACKEND, dtype=dtype)
    model.params[...] = random_values(model.parameters.declarations, rng)
    twin = torch_twin.twin_of(model)

    size = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
    x, dy = rng.standard_normal((2, 2, *size, config.in_channels)).astype(dtype)
    t = np.array([3, 871])
    labels = None if config.num_classes is None else np.array([1, config.num_classes])

    tape: list[Any] = []
    y = model(x, t, labels, tape)
    dx = model.backward(dy, tape)
    their_x = torch_twin.nchw(x).requires_grad_()
    their_y = twin(their_x, torch.from_numpy(t), None if labels is None else torch.from_numpy(labels))
    their_y.backward(torch_twin.nchw(dy))

    pairs = {"output": (y, torch_twin.nhwc(their_y)), "dx": (dx, torch_twin.nhwc(their_x.grad))}
    gradients = torch_twin.ours(twin, gradients=True)
    assert set(gradients) == set(model.named_grads())
    pairs |= {name: (model.named_grads()[name], theirs) for name, theirs in gradients.items()}
    errors = {name: relative(*pair) for name, pair in pairs.items()}
    assert {name: error for name, error in errors.items() if not error <= LIMITS[dtype]} == {}
