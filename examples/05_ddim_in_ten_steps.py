"""A thousand timesteps in ten: DDIM takes the same network along another path (Song, Meng & Ermon 2021, eq. 12).

Trains on digits, then draws from one noise x_T. Writes ddim.png: sixteen digits in six rows, by ancestral sampling in
10, 100 and 1000 steps, then by DDIM in 10, 100 and 1000. Ancestral sampling draws fresh noise in each step, so that its
rows have nothing to do with each other; DDIM, without noise, comes to the same digits.
"""

import numpy as np

import tinyddpm as td
from tinyddpm.reporting import pictures

train = td.data.load("digits")
config = td.UNetConfig(image_size=8, channel_mults=(1, 2), num_res_blocks=1, attention_resolutions=())
model, diffusion = td.UNet(config, seed=0), td.Diffusion(td.Schedule.cosine(1000))
optimizer, ema = td.Adam(model.params, lr=2e-3), td.EMA(model.params, decay=0.99)
batches = td.data.Batches(train, batch_size=64, seed=0)
for step in range(400):
    loss = diffusion.training_step(model, batches.at(step)[0], step=step)
    optimizer.step(model.grads)
    ema.update(model.params)
print(f"loss {loss:.3f}")

averaged = model.with_params(ema.params)
start = np.random.default_rng(1).standard_normal((16, 8, 8, 1), dtype=np.float32)
rows = {}
for name, sampler in (("ddpm", td.samplers.ddpm), ("ddim", td.samplers.ddim)):
    for steps in (10, 100, 1000):
        rows[name, steps] = td.samplers.last(sampler(averaged, diffusion, start.shape, steps=steps, x_T=start)).x
    for steps in (10, 100):
        off = np.sqrt(np.mean((rows[name, steps] - rows[name, 1000]) ** 2))
        print(f"{name}: {steps:3d} steps differ from 1000 by {off:.2f}")
sheet = pictures.grid(td.data.to_uint8(np.concatenate(list(rows.values()))), columns=16)
pictures.save_png("ddim.png", pictures.to_pillow(sheet, 256))
print("wrote ddim.png: rows", *(f"{name} in {steps}" for name, steps in rows), sep=", ")
