"""Launchers of optimizer.cu, and the operations that they override.

Step, learning rate, scale and decay may be numbers or scalar arrays in device memory; a function that a graph replays
hands the latter.
"""

from typing import Any

import numpy as np

from backends.backend import Backend
from backends.cupy_kernels.limits import on_device, usable
from backends.cupy_kernels.losses import CHUNK
from backends.cupy_kernels.runtime.launch import Kernel, ceil, grid_over
from backends.fallback import unless_reference

SOURCE = "optimizer.cu"
SUM_SQUARES, ROOT, CLIP, ADAM, EMA = (Kernel(SOURCE, name) for name in ("sum_squares", "root", "clip", "adam", "ema"))
# Structs of optimizer.cu
NUMBERS = ("step", "lr", "scale", "decay")
RATES = np.dtype([(name, np.float64) for name in ("beta1", "beta2", "eps", "weight_decay")])


def numbers(xp: Any, **given: Any) -> Any:
    """NUMBERS in device memory, float64; those not given are 1."""
    values = [given.get(name, 1.0) for name in NUMBERS]
    if not any(on_device(value) for value in values):
        return xp.asarray(np.array(values, np.float64))
    out = xp.empty(len(values), np.float64)
    for i, value in enumerate(values):
        out[i] = value
    return out


def wide(*arrays: Any) -> int:
    """Whether 16 bytes of each can be moved at once, as kernels take it."""
    return int(all(a is None or a.data.ptr % 16 == 0 for a in arrays))


def global_norm(xp: Any, grads: Any) -> Any:
    """The norm, a float32 ()."""
    chunks = ceil(grads.size, CHUNK)
    partial, norm = xp.empty(chunks, np.float32), xp.empty((), np.float32)
    SUM_SQUARES.run((chunks,), grads, partial, grads.size, wide(grads))
    ROOT.run((1,), partial, norm, chunks)
    return norm


def over_flat(kernel: Kernel, *args: Any) -> None:
    """A kernel whose first argument is a flat array, of which a thread takes four elements."""
    kernel.run(grid_over(ceil(args[0].size, 4)), *args)


def adam(params: Any, grads: Any, m: Any, v: Any, average: Any, rates: tuple[float, ...], numbers: Any) -> None:
    """`adam`, or with an average `adam_ema`, in place."""
    record = np.array(rates, RATES)
    flat = (params, grads, m, v, average)
    over_flat(ADAM, *flat, params.size, wide(*flat), record, numbers)


# Guards


def are_flat(*arrays: Any) -> bool:
    """Whether all are float32 of one shape, in device memory without gaps."""
    return usable(*arrays) and arrays[0].dtype == np.float32 and all(a.shape == arrays[0].shape for a in arrays)


def fits_adam(params: Any, grads: Any, m: Any, v: Any, *rest: Any, **more: Any) -> bool:
    return are_flat(params, grads, m, v)


def fits_ema(average: Any, params: Any, decay: float) -> bool:
    return are_flat(average, params)


def fits_adam_ema(params: Any, grads: Any, m: Any, v: Any, average: Any, *rest: Any, **more: Any) -> bool:
    return are_flat(params, grads, m, v, average)


def fits_global_norm(grads: Any, *rest: Any, **more: Any) -> bool:
    return are_flat(grads)


class Optimizer(Backend):
    """Adam, averages and norms over flat arrays, in place."""

    @unless_reference(fits_adam)
    def adam(
        self,
        params: Any,
        grads: Any,
        m: Any,
        v: Any,
        step: int,
        lr: float,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> tuple[Any, Any, Any]:
        changing = numbers(self.xp, step=step, lr=lr)
        adam(params, grads, m, v, None, (beta1, beta2, eps, weight_decay), changing)
        return params, m, v

    @unless_reference(fits_ema)
    def ema(self, average: Any, params: Any, decay: float) -> Any:
        over_flat(EMA, average, params, params.size, wide(average, params), numbers(self.xp, decay=decay))
        return average

    @unless_reference(fits_adam_ema)
    def adam_ema(
        self,
        params: Any,
        grads: Any,
        m: Any,
        v: Any,
        average: Any,
        step: int,
        lr: float,
        decay: float,
        scale: float = 1.0,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> tuple[Any, Any, Any, Any]:
        changing = numbers(self.xp, step=step, lr=lr, scale=scale, decay=decay)
        adam(params, grads, m, v, average, (beta1, beta2, eps, weight_decay), changing)
        return params, m, v, average

    @unless_reference(fits_global_norm)
    def global_norm(self, grads: Any) -> Any:
        return global_norm(self.xp, grads)

    @unless_reference(fits_global_norm)
    def clip_by_global_norm(self, grads: Any, max_norm: float) -> tuple[Any, Any]:
        norm = global_norm(self.xp, grads)
        over_flat(CLIP, grads, norm, float(max_norm), grads.size, wide(grads))
        return grads, norm
