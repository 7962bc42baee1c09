"""Samplers without a network: for a mixture of Gaussians the best denoiser is a formula, and sampling judged exactly.

Data: one pixel, -0.6 or 0.4 with probabilities 1/4 and 3/4, each blurred by 0.05. The samplers should give back the two
peaks. All but the ancestral one follow the same curves from noise to data, which an integrator of order 8 knows to ten
digits: the last column is how far from their ends the samples lie. Where the order is 2, twice
the steps leave a quarter of the error.
"""

import numpy as np

import tinyddpm as td
from tinyddpm.diffusion.mixture import GaussianMixture

data = GaussianMixture(
    weights=np.array([0.25, 0.75]),
    means=np.array([[-0.6], [0.4]]),
    covariances=np.full((2, 1, 1), 0.05**2),
    image_shape=(1, 1, 1),
)
schedule = td.Schedule.cosine(1000)
diffusion, denoiser = td.Diffusion(schedule), data.model(schedule)
start = np.random.default_rng(0).standard_normal((2000, 1, 1, 1))
ends = data.flow(start, schedule.alpha_bars[-1])


def row(name: str, x: np.ndarray, error: str = "") -> None:
    """Prints what the samples x are like."""
    print(f"{name:>24}: mean {x.mean():+.4f}, share below 0: {(x < 0).mean():.3f}{error}")


row("data", data.sample(len(start), np.random.default_rng(1)))
row("the flow's ends", ends)
for name, sampler in td.samplers.SAMPLERS.items():
    for steps in (10, 20, 40):
        states = sampler(denoiser, diffusion, start.shape, steps=steps, x_T=start, clip=False, spacing="karras")
        x = td.samplers.last(states).x
        error = "" if name == "ddpm" else f", off the flow's ends by {np.sqrt(np.mean((x - ends) ** 2)):.5f}"
        row(f"{name}, {steps} steps", x, error)
