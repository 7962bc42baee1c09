"""Products over channels without joining their two inputs first."""

from typing import Any

import numpy as np

from backends.numpy_kernels.blocks import image_blocks
from backends.numpy_kernels.rows import add_to_pixels


def over_channels(x: Any, weight: Any) -> Any:
    """x W: (..., C), (C, K) -> (..., K)."""
    return (x.reshape(-1, len(weight)) @ weight).reshape(*x.shape[:-1], weight.shape[1])


def pointwise(x: Any, skip: Any, weight: Any, bias: Any) -> Any:
    """The reference operation's y."""
    first, outputs = x.shape[-1], weight.shape[1]
    y = np.empty((*x.shape[:-1], outputs), x.dtype)
    for block in image_blocks(y, len(weight) + 2 * outputs):
        y[block] = over_channels(x[block], weight[:first])
        if skip is not None:
            y[block] += over_channels(skip[block], weight[first:])
        add_to_pixels(y[block], bias)
    return y


def pointwise_backward(dy: Any, x: Any, skip: Any, weight: Any) -> tuple[Any, Any, Any, Any]:
    """(dx, dskip, dweight, dbias) of `pointwise`."""
    first = x.shape[-1]
    dweight, drows = np.empty(weight.shape, x.dtype), dy.reshape(-1, dy.shape[-1])
    dweight[:first] = x.reshape(-1, first).T @ drows
    dx, dskip = over_channels(dy, weight[:first].T), None
    if skip is not None:
        dweight[first:] = skip.reshape(-1, skip.shape[-1]).T @ drows
        dskip = over_channels(dy, weight[first:].T)
    return dx, dskip, dweight, drows.sum(axis=0)
