"""Operations block by block: what a few images need is made, used and forgotten while it is in cache."""

from typing import Any, NamedTuple

import numpy as np

from backends import ops
from backends.numpy_kernels.blocks import image_blocks
from backends.numpy_kernels.convolution import bordered, convolve, convolve_backward, turned, turned_sides
from backends.numpy_kernels.normalization import (
    centre,
    centre_again,
    normalise_backward,
    scale,
    scale_silu,
    times_silu_slope,
)
from backends.numpy_kernels.rows import add_to_pixels, rows_of, sum_pixels
from backends.ops.convolution import Padding, output_size


class NormContext(NamedTuple):
    """What `normalise` keeps; mean and rstd: (N, C)."""

    x: Any
    gamma: Any
    beta: Any
    mean: Any
    rstd: Any
    groups: int
    silu: bool


class NormConvContext(NamedTuple):
    """What `norm_convolve` keeps: its arguments and the statistics; the activation is made again."""

    x: Any
    skip: Any
    gamma: Any
    beta: Any
    weight: Any
    mean: Any
    rstd: Any
    groups: int
    mask: Any
    has_shift: bool
    has_residual: bool


# Convolution


def convolve_images(x: Any, weight: Any, bias: Any, stride: int, sides: Padding) -> Any:
    """`conv2d`."""
    (n, h, w, c), (kh, kw, _, outputs) = x.shape, weight.shape
    rows, columns = output_size(h, kh, stride, *sides[:2]), output_size(w, kw, stride, *sides[2:])
    y = np.empty((n, rows, columns, outputs), x.dtype)
    blocks = image_blocks(y, kh * kw * c)
    padded, inner = bordered((blocks[0].stop, h, w, c), sides, x.dtype)
    for block in blocks:
        count = len(y[block])
        inner[:count] = x[block]
        convolve(padded[:count], weight, y[block], stride)
        if bias is not None:
            add_to_pixels(y[block], bias)
    return y


def convolve_images_backward(dy: Any, x: Any, weight: Any, sides: Padding) -> tuple[Any, Any, Any]:
    """(dx, dweight, dbias) of `conv2d` of stride 1."""
    (n, h, w, c), (kh, kw, _, outputs) = dy.shape, ...
