"""What noise does to a digit: eq. 4 of Ho et al. 2020, under the linear and the cosine schedule.

Writes forward_process.png: a row for each schedule, from the image (left) to noise (right).
"""

import numpy as np

import tinyddpm as td
from tinyddpm.reporting import pictures

digits = td.data.load("digits")
x0 = td.data.to_unit(digits.images[:1])
noise = np.random.default_rng(0).standard_normal(x0.shape, dtype=np.float32)

rows = []
for schedule in (td.Schedule.linear(1000), td.Schedule.cosine(1000)):
    diffusion = td.Diffusion(schedule)
    times = np.linspace(0, schedule.T - 1, 11).astype(int)
    rows += [diffusion.q_sample(x0, t, noise)[0] for t in times]
    remaining = ", ".join(f"{schedule.alpha_bars[t]:.3f}" for t in times)
    print(f"{schedule.name:8s} alpha_bar: {remaining}")

pictures.save_png(
    "forward_process.png", pictures.to_pillow(pictures.grid(td.data.to_uint8(np.stack(rows)), columns=11), 256)
)
print("wrote forward_process.png")
