"""A noise-prediction network is a score network: Langevin dynamics draws from the weights of a DDPM.

With z = x / sqrt(alpha_bar) = x0 + sigma eps, the gradient of log p(z) is -eps / sigma (Vincent 2011). Trains on
digits, then climbs the density at falling sigmas (Song & Ermon 2019, algorithm 1). Writes langevin.png: above
Langevin's digits, below those of DDIM.
"""

from collections.abc import Callable, Iterable

import numpy as np

import tinyddpm as td
from tinyddpm.reporting import pictures

Network = Callable[[np.ndarray, int], np.ndarray]


def score(model: Network, schedule: td.Schedule, z: np.ndarray, i: int) -> np.ndarray:
    """The gradient of log p(z) at the noise level of index i, from the noise that the network predicts."""
    return -model(z * schedule.sqrt_alpha_bars[i], i) / schedule.sigmas[i]


def levels(schedule: td.Schedule, count: int, largest: float) -> np.ndarray:
    """Indices whose sigmas fall evenly in log sigma from the largest to the schedule's smallest."""
    return np.searchsorted(schedule.sigmas, np.geomspace(largest, schedule.sigmas[0], count))


def langevin(
    model: Network,
    schedule: td.Schedule,
    z: np.ndarray,
    indices: Iterable[int],
    updates: int,
    step: float,
    seed: int = 0,
) -> np.ndarray:
    """Annealed Langevin dynamics (Song & Ermon 2019, algorithm 1) from z; step: epsilon / sigma_L^2 there."""
    rng = np.random.default_rng(seed)
    for i in indices:
        alpha = step * schedule.sigmas[i] ** 2
        for _ in range(updates):
            noise = rng.standard_normal(z.shape, dtype=z.dtype)
            z = z + 0.5 * alpha * score(model, schedule, z, i) + alpha**0.5 * noise
    return z


if __name__ == "__main__":
    batches = td.data.Batches(td.data.load("digits"), batch_size=64, seed=0)
    config = td.UNetConfig(image_size=8, channel_mults=(1, 2), num_res_blocks=1, attention_resolutions=())
    model, diffusion = td.UNet(config, seed=0), td.Diffusion(td.Schedule.cosine(1000))
    optimizer, ema = td.Adam(model.params, lr=2e-3), td.EMA(model.params, decay=0.99)
    for step in range(600):
        loss = diffusion.training_step(model, batches.at(step)[0], step=step)
        optimizer.step(model.grads)
        ema.update(model.params)
    print(f"loss after {step + 1} steps: {loss:.3f}")

    averaged, schedule = model.with_params(ema.params), diffusion.schedule
    indices = levels(schedule, 40, largest=20.0)
    start = 20 * np.random.default_rng(1).standard_normal((16, 8, 8, 1), dtype=np.float32)
    drawn = langevin(averaged, schedule, start, indices, updates=10, step=0.2)
    ddim = td.samplers.last(td.samplers.ddim(averaged, diffusion, start.shape, steps=50)).x
    pictures.save_grid("langevin.png", td.data.to_uint8(np.concatenate([drawn, ddim])), columns=16)
    print("wrote langevin.png")
