"""What noise does to a digit: eq. 4 of Ho et al. 2020, under the linear and the cosine schedule.

Writes forward_process.png: a row for each schedule, from the image (left) to noise (right). `tinyddpm figures
destruction schedules` draws the same of MNIST, beside the schedules' curves.
"""

import tinyddpm as td
from tinyddpm.figures.forward_process import STEPS, destroyed
from tinyddpm.reporting import pictures

images, rows = destroyed(td.data.load("digits"), number=0)
for name in ("linear", "cosine"):
    remaining = ", ".join(f"{alpha_bar:.3f}" for schedule, _, alpha_bar, *_ in rows if schedule == name)
    print(f"{name:8s} alpha_bar: {remaining}")

pictures.save_png("forward_process.png", pictures.to_pillow(pictures.grid(images, columns=STEPS), 256))
print("wrote forward_process.png")
