"""Is a hand-written derivative exact? The complex step tells, to the last digits.

For an analytic f, Im f(x + ih v) / h is the derivative along v without any subtraction (Martins, Sturdza & Alonso
2003, section 2). First one derivative by hand, then all those of a U-Net. Writes gradient.png: the error that remains
at each step h, beside that of differences, which cancel before they converge.
"""

import matplotlib.pyplot as plt
import numpy as np

import backends
import tinyddpm as td

be = backends.get("numpy")
rng = np.random.default_rng(0)


def silu(x):
    """x / (1 + exp(-x))."""
    return x / (1 + np.exp(-x))


x = rng.standard_normal(100)
s = 1 / (1 + np.exp(-x))
by_hand = s + x * s * (1 - s)  # the product rule, and s' = s (1 - s)
steps = 10.0 ** np.arange(-30, 0)
curves = {
    "one-sided difference": [(silu(x + h) - silu(x)) / h for h in steps],
    "central difference": [(silu(x + h) - silu(x - h)) / (2 * h) for h in steps],
    "complex step": [silu(x + 1j * h).imag / h for h in steps],
}
for name, found in curves.items():
    errors = [np.linalg.norm(slope - by_hand) / np.linalg.norm(by_hand) for slope in found]
    print(f"{name:>20} is off the derivative by hand by {min(errors):.0e} at the best step")
    plt.loglog(steps, np.maximum(errors, 1e-17), label=name)
plt.gca().set(title="SiLU's derivative: error by the step", xlabel="step h", ylabel="relative error")
plt.legend()
plt.savefig("gradient.png", dpi=100)

config = td.UNetConfig(image_size=8, base_channels=8, channel_mults=(1, 2), num_heads=2, groups=4)
model = td.UNet(config, backend=be, dtype="float64")
# Random weights: with those at initialisation, whose last convolution is zero, much would go unseen
model.params[...] = 0.3 * rng.standard_normal(model.params.shape)
x, t = rng.standard_normal((2, 8, 8, 1)), np.array([3, 700])
tape = []
u = rng.standard_normal(model(x, t, tape=tape).shape)
model.backward(u, tape)

v, h = rng.standard_normal(model.params.shape), 1e-30
moved = model.with_params(model.params + 1j * h * v)(x, t)
by_complex_step, by_backward = np.sum(moved.imag / h * u), np.sum(model.grads * v)
print(f"complex step {by_complex_step:.15g}\nbackward     {by_backward:.15g}")
error = abs(by_complex_step - by_backward) / abs(by_complex_step)
print(f"relative difference {error:.1e} over {model.params.size:,} parameters of a U-Net; wrote gradient.png")
if error > 1e-9:
    raise SystemExit("the gradient is wrong")
