"""A whole training in twenty lines: 8x8 digits, a small U-Net, Adam, a moving average, ancestral samples.

Writes digits.png. A few hundred steps, so that it ends soon: for plainer digits, `tinyddpm train`.
"""

import backends
import tinyddpm as td
from tinyddpm.reporting import pictures

be = backends.get("auto")
batches = td.data.Batches(td.data.load("digits"), batch_size=64, seed=0)
config = td.UNetConfig(image_size=8, base_channels=32, channel_mults=(1, 2), num_res_blocks=1, attention_resolutions=())
model = td.UNet(config, backend=be, seed=0)
diffusion = td.Diffusion(td.Schedule.cosine(1000), prediction="eps", loss="huber")
optimizer = td.Adam(model.params, lr=2e-3, backend=be)
ema = td.EMA(model.params, decay=0.99, backend=be)

for step in range(301):
    x0, _ = batches.at(step)
    loss = diffusion.training_step(model, x0, step=step, seed=0)
    optimizer.step(model.grads)
    ema.update(model.params)
    if step % 50 == 0:
        print(f"step {step:3d}  loss {loss:.3f}")

averaged = model.with_params(ema.params)
state = td.samplers.last(td.samplers.ddpm(averaged, diffusion, (32, 8, 8, 1), steps=100))
pictures.save_grid("digits.png", td.data.to_uint8(be.to_numpy(state.x)), columns=8)
print("wrote digits.png")
