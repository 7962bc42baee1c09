"""Is a hand-written backward pass exact? The complex step tells, to the last digits.

For an analytic f, Im f(x + ih v) / h is the derivative along v without any subtraction (Martins, Sturdza &
Alonso 2003). One forward pass in complex numbers checks the gradient of a whole U-Net.
"""

import numpy as np

import backends
import tinyddpm as td

be = backends.get("numpy")
config = td.UNetConfig(
    image_size=8, base_channels=8, channel_mults=(1, 2), attention_resolutions=(4,), num_heads=2, groups=4
)
model = td.UNet(config, backend=be, dtype="float64")
rng = np.random.default_rng(0)
# Random weights: with those at initialisation, whose last convolution is zero, much would go unseen
model.params[...] = 0.3 * rng.standard_normal(model.params.shape)

x, t = rng.standard_normal((2, 8, 8, 1)), np.array([3, 700])
tape = []
y = model(x, t, tape=tape)
u = rng.standard_normal(y.shape)
dx = model.backward(u, tape)

v = rng.standard_normal(model.params.shape)
h = 1e-30
moved = model.with_params(model.params + 1j * h * v)(x, t)
by_complex_step = np.sum(moved.imag / h * u)
by_backward = np.sum(model.grads * v)
print(f"complex step {by_complex_step:.15g}")
print(f"backward     {by_backward:.15g}")
error = abs(by_complex_step - by_backward) / abs(by_complex_step)
print(f"relative difference {error:.1e} over {model.params.size:,} parameters")
if error > 1e-9:
    raise SystemExit("the gradient is wrong")
