"""The bound on the same weights and noise, by PyTorch: its network, its normal laws, its divergence."""

import math
from typing import Any

import numpy as np
import pytest

import backends
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.evaluation import likelihood
from tinyddpm.networks.unet import UNet, UNetConfig

torch = pytest.importorskip("torch", reason="PyTorch is not installed; run: pip install -e '.[parity]'")
torch_twin = pytest.importorskip("tests.twins.networks")

SCHEDULE = Schedule.cosine(50)


def model_of(learned: bool) -> UNet:
    config = UNetConfig(image_size=8, base_channels=8, channel_mults=(1, 2), groups=4, attention_resolutions=(4,),
                        num_res_blocks=1, num_heads=2, learned_variance=learned)  # fmt: skip
    model = UNet(config, backend=backends.get("numpy"), dtype="float64")
    model.params[...] = 0.1 * np.random.default_rng(0).standard_normal(model.params.shape)
    return model


def by_torch(twin: Any, variance: str, x0: np.ndarray, t: int, noise: np.ndarray) -> np.ndarray:
    """L_t of each image in bits per dimension."""
    betas = torch.from_numpy(SCHEDULE.betas)
    bars = torch.cumprod(1 - betas, 0)
    ab, before = bars[t], bars[t - 1] if t else torch.ones((), dtype=torch.float64)
    x = torch.from_numpy(x0)
    x_t = ab.sqrt() * x + (1 - ab).sqrt() * torch.from_numpy(noise)
    output = twin(x_t.movedim(-1, 1), torch.full((len(x0),), t), None).movedim(1, -1)
    eps, v = output.chunk(2, dim=-1) if variance == "learned" else (output, None)
    guess = ((x_t - (1 - ab).sqrt() * eps) / ab.sqrt()).clamp(-1, 1)

    def posterior(start: Any) -> Any:
        return (before.sqrt() * betas[t] * start + (1 - betas[t]).sqrt() * (1 - before) * x_t) / (1 - ab)

    tilde = (betas * (1 - torch.cat([torch.ones(1), bars[:-1]])) / (1 - bars))[max(t, 1)]
    sigma2 = tilde if variance == "fixed_small" or (variance == "fixed_large" and t == 0) else betas[t]
    if v is not None:
        sigma2 = ((v + 1) / 2 * betas[t].log() + (1 - (v + 1) / 2) * tilde.log()).exp()
    ours = torch.distributions.Normal(posterior(guess), sigma2.sqrt() * torch.ones_like(x))
    if t:
        truth = torch.distributions.Normal(posterior(x), tilde.sqrt())
        nats = torch.distributions.kl_divergence(truth, ours)
    else:
        z = (x - ours.mean) / ours.stddev
        half = 1 / 255 / ours.stddev
        upper, lower = torch.special.log_ndtr(-(z.abs() - half)), torch.special.log_ndtr(-(z.abs() + half))
        inner = upper + torch.log1p(-torch.exp(lower - upper))
        edge = torch.special.log_ndtr(torch.where(x > 0, half - z, half + z))
        nats = -torch.where(x.abs() > 0.999, edge, inner)
    return (nats.mean(dim=(1, 2, 3)) / math.log(2)).detach().numpy()


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned"])
def test_each_term(variance: str) -> None:
    model, rng = model_of(variance == "learned"), np.random.default_rng(1)
    twin = torch_twin.twin_of(model)
    x0 = np.clip(rng.integers(-100, 355, (3, 8, 8, 1)), 0, 255) / 127.5 - 1
    for t in (0, 1, 9, 49):
        noise = rng.standard_normal(x0.shape)
        ours = likelihood.term_bits(model, Diffusion(SCHEDULE, variance=variance), x0, np.full(3, t), noise)
        np.testing.assert_allclose(ours, by_torch(twin, variance, x0, t, noise), rtol=1e-8)
