"""Samplers without a network: for a mixture of Gaussians the best denoiser is a formula, and sampling judged exactly.

Data: one pixel, -0.6 or 0.4 with probabilities 1/4 and 3/4, each blurred by 0.05. The samplers should give back the two
peaks. All but the ancestral one follow the same curves from noise to data, which an integrator of order 8 knows to ten
digits. Writes samplers.png: what they draw in 20 steps, and how far from the curves' ends they lie. Where the order is
2, twice the steps leave a quarter of the error.
"""

import matplotlib.pyplot as plt
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
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
counts, edges = (10, 20, 40), np.linspace(-1, 1, 81)
for name, sampler in td.samplers.SAMPLERS.items():
    errors = []
    for steps in counts:
        states = sampler(denoiser, diffusion, start.shape, steps=steps, x_T=start, clip=False, spacing="karras")
        x = td.samplers.last(states).x
        errors.append(np.sqrt(np.mean((x - ends) ** 2)))
        row(f"{name}, {steps} steps", x, "" if name == "ddpm" else f", off the flow's ends by {errors[-1]:.5f}")
        if steps == 20 and name in ("ddpm", "ddim", "heun"):
            left.hist(x.ravel(), edges, histtype="step", density=True, label=name)
    if name != "ddpm":
        right.loglog(counts, errors, "o--" if name == "euler" else "o-", label=name)

x = np.linspace(-1, 1, 401)
left.plot(x, np.exp(data.log_density(x.reshape(-1, 1, 1, 1), 1.0)), "k", linewidth=0.8, label="data")
left.set(title="samples in 20 steps", xlabel="pixel", ylabel="density")
right.set(title="distance from the ends of the exact curves", xlabel="steps")
right.set_xticks(counts, [str(count) for count in counts], minor=False)
right.minorticks_off()
for ax in (left, right):
    ax.legend()
figure.savefig("samplers.png", dpi=80)
print("wrote samplers.png")
