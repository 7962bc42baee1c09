"""Linear against cosine: the same network, batches, noise and seed under two schedules, and what each learns.

Writes linear_against_cosine.png: the training loss, the loss at each noise level, and samples. The two losses are not
to be compared as they stand: under linear more timesteps are nearly all noise, which is easy to predict. At the same
signal-to-noise ratio they are: there both networks have the same task.
"""

import matplotlib.pyplot as plt
import numpy as np

import tinyddpm as td
from tinyddpm.reporting import pictures

train = td.data.load("digits")
held_out = td.data.to_unit(td.data.load("digits", split="test").images)
config = td.UNetConfig(image_size=8, channel_mults=(1, 2), num_res_blocks=1, attention_resolutions=())
figure, axes = plt.subplots(1, 4, figsize=(15, 3.8), layout="constrained")
for number, schedule in enumerate((td.Schedule.linear(1000), td.Schedule.cosine(1000))):
    model, diffusion = td.UNet(config, seed=0), td.Diffusion(schedule)
    optimizer, ema, losses = td.Adam(model.params, lr=2e-3), td.EMA(model.params, decay=0.99), []
    batches = td.data.Batches(train, batch_size=64, seed=0)
    for step in range(400):
        losses.append(diffusion.training_step(model, batches.at(step)[0], step=step))
        optimizer.step(model.grads)
        ema.update(model.params)
    averaged = model.with_params(ema.params)

    levels, noise = np.arange(5, 1000, 45), np.random.default_rng(0).standard_normal(held_out.shape, np.float32)
    by_level = [np.mean((averaged(diffusion.q_sample(held_out, t, noise), t) - noise) ** 2) for t in levels]
    axes[0].plot(np.convolve(losses, np.ones(20) / 20, "valid"), label=schedule.name)
    axes[1].loglog(schedule.snr[levels], by_level, ".-", label=schedule.name)
    samples = td.samplers.last(td.samplers.ddpm(averaged, diffusion, (36, 8, 8, 1), steps=100)).x
    axes[2 + number].imshow(pictures.grid(td.data.to_uint8(samples))[..., 0], cmap="gray")
    axes[2 + number].set_title(f"{schedule.name}: 36 samples in 100 steps")
    axes[2 + number].axis("off")
    noise_alone = np.mean(schedule.snr < 0.01)
    print(f"{schedule.name:>6}: last losses {np.mean(losses[-100:]):.3f}, {noise_alone:.0%} of t nearly all noise")

axes[0].set(title="training loss, mean of 20 steps", xlabel="step", ylim=(0, 0.6))
axes[1].set(title="loss on held-out digits", xlabel="signal-to-noise ratio", xlim=(1e-3, None))
for ax in axes[:2]:
    ax.legend()
figure.savefig("linear_against_cosine.png", dpi=80)
print("wrote linear_against_cosine.png")
