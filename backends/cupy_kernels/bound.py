"""Launchers of bound.cu, and the operation that they override."""

from typing import Any

import numpy as np

from backends.backend import Backend
from backends.cupy_kernels.limits import on_device, usable
from backends.cupy_kernels.losses import are_floats
from backends.cupy_kernels.runtime.launch import Kernel, element, grid_over
from backends.fallback import unless_reference
from backends.ops.bound import STEPS

SOURCE = "bound.cu"
BOUND, BACKWARD = (Kernel(SOURCE, name, (("float",), ("bf16",))) for name in ("bound", "bound_backward"))
MEAN = Kernel(SOURCE, "bound_mean")


def forward(xp: Any, output: Any, target: Any, x0: Any, steps: Any) -> Any:
    """The mean loss and each image's, (1 + N,) float32."""
    n = target.shape[0]
    losses = xp.empty(1 + n, np.float32)
    per, channels = target.size // n, target.shape[-1]
    BOUND.run((n,), output, target, x0, steps, losses, per, channels, template=(element(output),))
    MEAN.run((1,), losses, n)
    return losses


def backward(xp: Any, dy: Any, output: Any, target: Any, x0: Any, steps: Any, hybrid: bool) -> Any:
    """doutput. dy: a number, or (1 + N,) float32 on the device."""
    n, count = target.shape[0], target.size
    doutput, there = xp.empty_like(output), on_device(dy)
    arrays = output, target, x0, steps, dy if there else None, 0.0 if there else float(dy), doutput
    sizes = count, n, count // n, target.shape[-1], int(hybrid)
    BACKWARD.run(grid_over(count), *arrays, *sizes, template=(element(output),))
    return doutput


# Guards


def fits_vlb_loss(output: Any, target: Any, x0: Any, steps: Any, hybrid: bool) -> bool:
    fits = usable(output, target, x0) and target.ndim > 1 and x0.shape == target.shape
    return (
        fits
        and output.shape == (*target.shape[:-1], 2 * target.shape[-1])
        and are_floats(steps, target.shape[0], len(STEPS))
    )


def fits_vlb_loss_backward(dy: Any, ctx: Any) -> bool:
    one = isinstance(dy, int | float) or are_floats(dy, 1 + ctx[1].shape[0])
    return one and fits_vlb_loss(*ctx)


class Bound(Backend):
    """The variational bound."""

    @unless_reference(fits_vlb_loss)
    def vlb_loss(self, output: Any, target: Any, x0: Any, steps: Any, hybrid: bool) -> tuple[Any, Any]:
        return forward(self.xp, output, target, x0, steps), (output, target, x0, steps, hybrid)

    @unless_reference(fits_vlb_loss_backward)
    def vlb_loss_backward(self, dy: Any, ctx: Any) -> tuple[Any]:
        return (backward(self.xp, dy, *ctx),)
