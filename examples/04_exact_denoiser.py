"""Samplers without a network: for two Gaussians the best denoiser is a formula, so sampling can be judged exactly.

Data: one pixel, -0.6 or 0.4 with probabilities 1/4 and 3/4, each blurred by 0.05. Its optimal prediction of the
noise follows from Bayes' rule; the samplers should give back the two peaks, and DDIM in few steps nearly so.
"""

import numpy as np

import tinyddpm as td

means, weights, sigma = np.array([-0.6, 0.4]), np.array([0.25, 0.75]), 0.05
schedule = td.Schedule.cosine(1000)
diffusion = td.Diffusion(schedule)


def denoiser(x: np.ndarray, t: int, labels: None = None) -> np.ndarray:
    """E[noise | x_t] under the mixture."""
    signal, noise = schedule.sqrt_alpha_bars[t], schedule.sqrt_one_minus_alpha_bars[t]
    variance = (signal * sigma) ** 2 + noise**2
    distance = x[..., None] - signal * means
    posterior = weights * np.exp(-0.5 * distance**2 / variance)
    posterior /= posterior.sum(axis=-1, keepdims=True)
    return noise * np.sum(posterior * distance, axis=-1) / variance


shape = (10000, 1, 1, 1)
start = np.random.default_rng(0).standard_normal(shape)
print(f"{'data':>18}: mean {weights @ means:+.4f}, share below 0: {weights[0]:.3f}")
for name, sampler, steps in (
    ("ancestral, 1000", td.samplers.ddpm, 1000),
    ("DDIM, 100", td.samplers.ddim, 100),
    ("DDIM, 10", td.samplers.ddim, 10),
):
    x = td.samplers.last(sampler(denoiser, diffusion, shape, steps=steps, x_T=start, clip=False)).x
    print(f"{name:>18}: mean {x.mean():+.4f}, share below 0: {(x < 0).mean():.3f}")
