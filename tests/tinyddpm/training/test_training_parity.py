"""Ten training steps of ours against ten of PyTorch's: same weights, timesteps and noise, torch.optim.Adam."""

from typing import Any

import numpy as np
import pytest

import backends
from tests.tinyddpm.networks.test_layers import BACKEND, random_values
from tinyddpm import streams
from tinyddpm.diffusion import objective
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.networks.simple_unet import SimpleUNet, SimpleUNetConfig
from tinyddpm.networks.unet import UNet, UNetConfig
from tinyddpm.training.optimizers import Adam

torch = pytest.importorskip("torch", reason="parity with PyTorch needs the extra .[parity]")
torch_twin = pytest.importorskip("tests.twins.networks")

STEPS, SEED, LR = 10, 5, 1e-3
SMALL = {"image_size": 8, "base_channels": 8, "channel_mults": (1, 2), "groups": 4, "in_channels": 2}
CONFIGS = {
    "UNet": UNetConfig(**SMALL, num_res_blocks=1, attention_resolutions=(4,), num_heads=2, num_classes=3),
    "SimpleUNet": SimpleUNetConfig(**SMALL),
}
# of each step's loss, and by norm of all parameters after the last
LOSS_LIMITS = {("numpy", "float32"): 1e-5, ("numba", "float32"): 1e-5, ("numpy", "float64"): 1e-11}
PARAMETER_LIMITS = {("numpy", "float32"): 1e-5, ("numba", "float32"): 1e-5, ("numpy", "float64"): 1e-11}


def training_loss(name: str, output: Any, target: Any) -> Any:
    functional = torch.nn.functional
    return {"mse": functional.mse_loss, "l1": functional.l1_loss, "huber": functional.huber_loss}[name](output, target)


def torch_training(
    twin: Any, diffusion: Diffusion, x0: np.ndarray, labels: np.ndarray | None
) -> tuple[list[float], dict[str, np.ndarray]]:
    """The losses of the steps and the parameters after them, of an ordinary PyTorch training loop."""
    optimizer = torch.optim.Adam(twin.parameters(), lr=LR)
    alpha_bars = torch.cumprod(1 - torch.from_numpy(diffusion.schedule.betas), dim=0)
    losses = []
    clean = torch_twin.nchw(x0)
    for step in range(STEPS):
        t = torch.from_numpy(objective.random_timesteps(diffusion.schedule.T, len(x0), step, SEED))
        noise = torch_twin.nchw(BACKEND.random_normal(x0.shape, SEED, streams.TRAINING_NOISE, step, dtype=x0.dtype)[0])
        a = alpha_bars[t].view(-1, 1, 1, 1)
        x_t = a.sqrt().to(clean) * clean + (1 - a).sqrt().to(clean) * noise
        output = twin(x_t, t, None if labels is None else torch.from_numpy(labels))
        loss = training_loss(diffusion.loss, output, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, torch_twin.ours(twin)


def norm_of_difference(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """Over all parameters but the bias of attention's keys.

    A softmax does not see what is added to all its scores, so that bias has no gradient but rounding, which Adam
    makes into steps of full length.
    """
    squares = 0.0
    for name, value in ours.items():
        difference = value - theirs[name]
        if name.endswith("qkv.bias"):
            queries, _, values = np.split(difference, 3)
            difference = np.concatenate([queries, values])
        squares += float(np.sum(difference.astype(np.float64) ** 2))
    return squares**0.5


@pytest.mark.parametrize("start", ["random", "initial"])
@pytest.mark.parametrize(("backend", "dtype"), list(LOSS_LIMITS))
@pytest.mark.parametrize("loss", ["mse", "l1", "huber"])
@pytest.mark.parametrize("kind", [UNet, SimpleUNet])
def test_ten_steps(kind: Any, loss: str, backend: str, dtype: str, start: str) -> None:
    rng = np.random.default_rng(21)
    config = CONFIGS[kind.__name__]
    model = kind(config, backend=backends.get(backend), dtype=dtype)
    if start == "random":
        model.params[...] = random_values(model.parameters.declarations, rng)
    diffusion = Diffusion(Schedule.cosine(1000), loss=loss, label_dropout=0.0)
    x0 = rng.uniform(-1, 1, (4, 8, 8, 2)).astype(dtype)
    labels = None if config.num_classes is None else rng.integers(0, config.num_classes, 4)
    their_losses, their_params = torch_training(torch_twin.twin_of(model), diffusion, x0, labels)

    optimizer = Adam(model.params, lr=LR)
    initial, losses = model.params.copy(), []
    for step in range(STEPS):
        losses.append(diffusion.training_step(model, x0, step=step, seed=SEED, labels=labels))
        optimizer.step(model.grads)

    np.testing.assert_allclose(losses, their_losses, rtol=LOSS_LIMITS[backend, dtype], atol=0)
    distance = norm_of_difference(model.named_params(), their_params)
    size = float(np.linalg.norm(model.params))
    assert distance <= PARAMETER_LIMITS[backend, dtype] * size
    # the steps were long enough that a wrong one would show
    assert np.linalg.norm(model.params - initial) > 100 * PARAMETER_LIMITS[backend, dtype] * size
