"""Digits by label: train with classes, then push the samples towards their label by classifier-free guidance.

Writes guidance.png: a column for each digit, rows at guidance scale 0 (label ignored), 1 and 3. A few
hundred steps only, so that it ends soon; more make the digits plain.
"""

import numpy as np

import backends
import tinyddpm as td
from tinyddpm.reporting import pictures

be = backends.get("auto")
batches = td.data.Batches(td.data.load("digits"), batch_size=64, seed=0)
config = td.UNetConfig(image_size=8, channel_mults=(1, 2), num_res_blocks=1, attention_resolutions=(), num_classes=10)
model = td.UNet(config, backend=be, seed=0)
# One label in ten is dropped in training: without it there would be no unconditional branch to guide away from
diffusion = td.Diffusion(td.Schedule.cosine(1000), label_dropout=0.1)
optimizer = td.Adam(model.params, lr=2e-3, backend=be)
for step in range(250):
    x0, labels = batches.at(step)
    loss = diffusion.training_step(model, x0, step=step, labels=labels)
    optimizer.step(model.grads)
print(f"loss {loss:.3f}")

labels = np.arange(10)
rows = []
for scale in (0.0, 1.0, 3.0):
    guided = td.classifier_free(model, guidance_scale=scale)
    state = td.samplers.last(td.samplers.ddim(guided, diffusion, (10, 8, 8, 1), steps=20, labels=labels))
    rows.append(be.to_numpy(state.x))
sheet = pictures.grid(td.data.to_uint8(np.concatenate(rows)), columns=10)
pictures.save_png("guidance.png", pictures.to_pillow(sheet, 256))
print("wrote guidance.png")
