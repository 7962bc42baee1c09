"""Diffusion without a U-Net: points of the plane, a small network whose backward pass is written by hand, its score.

Points are images of one pixel with two channels. Writes points.png: at three noise levels the score that the network
has learnt, as arrows beside the exact one, which a mixture of Gaussians has in closed form, and points drawn by DDIM.
"""

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np

import tinyddpm as td
from tinyddpm.diffusion.mixture import GaussianMixture
from tinyddpm.networks.layers import Linear
from tinyddpm.networks.model import Model


class Sizes(NamedTuple):
    """What `MLP` is built from; all but the width is what `Model` asks for."""

    width: int = 128
    in_channels: int = 2
    channel_mults: tuple[int, ...] = (1,)
    num_classes: int | None = None
    dropout: float = 0.0


class MLP(Model):
    """Three hidden layers over the point and the sinusoids of its timestep: (N, 1, 1, 2) -> (N, 1, 1, 2)."""

    config_type = Sizes

    def build(self, scope):
        inputs = (2 + 32, self.config.width, self.config.width)
        self.hidden = [Linear(scope.scope(f"hidden.{i}"), n, self.config.width) for i, n in enumerate(inputs)]
        self.last = Linear(scope.scope("last"), self.config.width, 2, zero=True)

    def forward(self, x, t, labels, tape, dropout_key):
        tape = [] if tape is None else tape
        sinusoids, _ = self.backend.sinusoidal_embedding(t, 32, dtype=self.sinusoid_dtype())
        h, _ = self.backend.concat_channels(x, sinusoids[:, None, None, :])
        for layer in self.hidden:
            h, ctx = self.backend.silu(layer.forward(h, tape))
            tape.append(ctx)
        return self.last.forward(h, tape)

    def backward(self, dy, tape):
        dh = self.last.backward(dy, tape)
        for layer in reversed(self.hidden):
            (dh,) = self.backend.silu_backward(dh, tape.pop())
            dh = layer.backward(dh, tape)
        return dh[..., :2]


if __name__ == "__main__":
    turns = 2 * np.pi * np.arange(5) / 5
    means = 0.7 * np.stack([np.sin(turns), np.cos(turns)], axis=-1)
    data = GaussianMixture(np.full(5, 0.2), means, np.tile(0.006 * np.eye(2), (5, 1, 1)), (1, 1, 2))
    model, diffusion, rng = MLP(Sizes()), td.Diffusion(td.Schedule.cosine(1000)), np.random.default_rng(0)
    optimizer, ema = td.Adam(model.params), td.EMA(model.params, decay=0.995)
    for step in range(6000):
        optimizer.lr = 3e-3 * (1 - step / 6000)
        loss = diffusion.training_step(model, data.sample(256, rng).astype(np.float32), step=step)
        optimizer.step(model.grads)
        ema.update(model.params)
    print(f"loss after {step + 1} steps: {loss:.3f}")

    averaged, schedule = model.with_params(ema.params), diffusion.schedule
    side = np.linspace(-1.2, 1.2, 15, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 1, 1, 2)
    figure, axes = plt.subplots(1, 4, figsize=(17, 4.6), sharex=True, sharey=True)
    for ax, t in zip(axes, (100, 250, 500), strict=False):
        sigma = schedule.sqrt_one_minus_alpha_bars[t]
        learned, exact = -averaged(grid, t) / sigma, data.score(grid, schedule.alpha_bars[t])
        for arrows, look in ((exact, {"color": "0.75", "width": 0.014}), (learned, {"color": "red", "width": 0.004})):
            ax.quiver(*grid.reshape(-1, 2).T, *(sigma * arrows).reshape(-1, 2).T, angles="xy", scale=35, **look)
        error = np.linalg.norm(learned - exact) / np.linalg.norm(exact)
        ax.set_title(f"t = {t}: score x {sigma:.2f}\ngrey exact, red learned, {error:.0%} off")
    drawn = td.samplers.last(td.samplers.ddim(averaged, diffusion, (500, 1, 1, 2), steps=50)).x
    for points, color in ((data.sample(500, rng), "0.75"), (drawn, "red")):
        axes[3].plot(*points.reshape(-1, 2).T, ".", color=color, markersize=4)
    axes[3].set_title("grey data, red drawn by DDIM")
    figure.savefig("points.png", dpi=80, bbox_inches="tight")
    print("wrote points.png")
