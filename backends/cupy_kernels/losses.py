"""Launchers of losses.cu, and the operations that they override."""

from typing import Any

import numpy as np

from backends.backend import Backend
from backends.cupy_kernels.embedding import are_labels
from backends.cupy_kernels.limits import on_device, usable
from backends.cupy_kernels.runtime.launch import VECTORS, Kernel, ceil, element, grid_over, vectors
from backends.fallback import unless_reference

SOURCE = "losses.cu"
# As in sums.cuh
CHUNK, SUMMING = 2048, 256
KINDS = ("MSE", "L1", "HUBER")
LOSS = Kernel(SOURCE, "loss", tuple((kind, *vector) for kind in KINDS for vector in VECTORS))
MEAN = Kernel(SOURCE, "mean")
BACKWARD = Kernel(SOURCE, "loss_backward", VECTORS)
CROSS_ENTROPY = Kernel(SOURCE, "cross_entropy", (("float",), ("bf16",)))


def forward(
    xp: Any, kind: str, prediction: Any, target: Any, weights: Any = None, delta: float = 1.0
) -> tuple[Any, Any]:
    """The mean loss, a float32 (), and the slopes. kind: one of KINDS; weights: (N,) or None; delta: of Huber's."""
    count, chunks = prediction.size, ceil(prediction.size, CHUNK)
    slope, partial = xp.empty_like(prediction), xp.empty(chunks, np.float32)
    template = vectors(prediction, count, target, slope)
    per = count if weights is None else count // weights.size
    LOSS.run(
        (chunks,), prediction, target, slope, weights, partial, count, per, float(delta), template=(kind, *template)
    )
    value = xp.empty((), np.float32)
    MEAN.run((1,), partial, value, chunks, count)
    return value, slope


def cross_entropy(xp: Any, logits: Any, labels: Any) -> tuple[Any, Any]:
    """The mean loss of the rows, a float32 (), and the errors (N, K)."""
    rows, classes = logits.shape
    blocks = ceil(rows, SUMMING)
    error, partial, value = xp.empty_like(logits), xp.empty(blocks, np.float32), xp.empty((), np.float32)
    CROSS_ENTROPY.run((blocks,), logits, labels, error, partial, rows, classes, template=(element(logits),))
    MEAN.run((1,), partial, value, blocks, rows)
    return value, error


def backward(xp: Any, dy: Any, slope: Any, factor: float) -> Any:
    """factor dy slope. dy: a number, or one float32 in device memory."""
    dx = xp.empty_like(slope)
    template = vectors(slope, slope.size, dx)
    count = slope.size // template[1]
    there = on_device(dy)
    number = float(factor if there else factor * dy)
    BACKWARD.run(grid_over(count), slope, dy if there else None, number, dx, count, template=template)
    return dx


# Guards


def fits_loss(prediction: Any, target: Any, weights: Any = None) -> bool:
    fits = usable(prediction, target) and prediction.shape == target.shape
    return fits and (weights is None or are_floats(weights, *prediction.shape[:1]))


def are_floats(x: Any, *shape: int) -> bool:
    """Whether this is a float32 device array of that shape, not of no axes, and without gaps."""
    return usable(x) and x.dtype == np.float32 and x.shape == shape != ()


def fits_huber_loss(prediction: Any, target: Any, delta: float = 1.0, weights: Any = None) -> bool:
    return fits_loss(prediction, target, weights) and delta > 0


def fits_softmax_cross_entropy(logits: Any, labels: Any) -> bool:
    return usable(logits) and logits.ndim == 2 and are_labels(labels) and labels.size == logits.shape[0]


def fits_loss_backward(dy: Any, ctx: Any) -> bool:
    one = dy.shape == () and dy.dtype == np.float32 if on_device(dy) else isinstance(dy, int | float | np.floating)
    return one and usable(ctx)


class Losses(Backend):
    """Training losses."""

    @unless_reference(fits_loss)
    def mse_loss(self, prediction: Any, target: Any, weights: Any = None) -> tuple[Any, Any]:
        return forward(self.xp, "MSE", prediction, target, weights)

    @unless_reference(fits_loss_backward)
    def mse_loss_backward(self, dy: Any, ctx: Any) -> tuple[Any]:
        return (backward(self.xp, dy, ctx, 2.0 / ctx.size),)

    @unless_reference(fits_loss)
    def l1_loss(self, prediction: Any, target: Any, weights: Any = None) -> tuple[Any, Any]:
        return forward(self.xp, "L1", prediction, target, weights)

    @unless_reference(fits_loss_backward)
    def l1_loss_backward(self, dy: Any, ctx: Any) -> tuple[Any]:
        return (backward(self.xp, dy, ctx, 1.0 / ctx.size),)

    @unless_reference(fits_huber_loss)
    def huber_loss(self, prediction: Any, target: Any, delta: float = 1.0, weights: Any = None) -> tuple[Any, Any]:
        return forward(self.xp, "HUBER", prediction, target, weights, delta)

    @unless_reference(fits_loss_backward)
    def huber_loss_backward(self, dy: Any, ctx: Any) -> tuple[Any]:
        return (backward(self.xp, dy, ctx, 1.0 / ctx.size),)

    @unless_reference(fits_softmax_cross_entropy)
    def softmax_cross_entropy(self, logits: Any, labels: Any) -> tuple[Any, Any]:
        return cross_entropy(self.xp, logits, labels)

    @unless_reference(fits_loss_backward)
    def softmax_cross_entropy_backward(self, dy: Any, ctx: Any) -> tuple[Any]:
        return (backward(self.xp, dy, ctx, 1.0 / ctx.shape[0]),)
