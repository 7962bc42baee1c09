"""Convolution by im2col of a few images at a time, so that the patches never leave the cache.

For a 3x3 kernel the patches are nine times the image. Written out whole, their memory traffic takes longer than the
matrix product; written to one small buffer over and over, a fraction of it.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from backends import ops
from backends.numpy_kernels.blocks import image_blocks, parts
from backends.numpy_kernels.rows import add_to_pixels
from backends.ops.convolution import Padding, output_size


class Bordered:
    """A buffer for images with zeros around them."""

    def __init__(self, shape: tuple[int, int, int, int], sides: Padding, dtype: Any) -> None:
        (n, h, w, c), (top, bottom, left, right) = shape, sides
        self.padded = np.zeros((n, top + h + bottom, left + w + right, c), dtype)
        self.inner = self.padded[:, top : top + h, left : left + w]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The images, at most n of them, with their border; they stay until the next call."""
        self.inner[: len(images)] = images
        return self.padded[: len(images)]


def patches(padded: np.ndarray, kernel: tuple[int, int], stride: int = 1) -> Iterator[tuple[slice, np.ndarray]]:
    """Some output rows and their patches, (n rows W', kh kw C), until all rows are done.

    The patches lie in the same memory each time.
    """
    n, height, width, c = padded.shape
    rows, columns = output_size(height, kernel[0], stride, 0, 0), output_size(width, kernel[1], stride, 0, 0)
    # Pixels that meet one row of the kernel lie side by side: kw C numbers are copied at a stroke
    image, row, pixel, number = padded.strides
    shape, strides = (n, rows, columns, kernel[0], kernel[1] * c), (image, stride * row, stride * pixel, row, number)
    view = as_strided(padded, shape, strides)
    # Only a single image is cut, so that the rows of the result lie in one piece
    cuts = parts(rows, view.nbytes) if n == 1 else [slice(0, rows)]
    buffer = np.empty((n, cuts[0].stop, *shape[2:]), padded.dtype)
    for cut in cuts:
        block = buffer[:, : cut.stop - cut.start]
        block[...] = view[:, cut]
        yield cut, as_matrix(block, shape[3] * shape[4])


def as_matrix(x: np.ndarray, width: int) -> np.ndarray:
    """x as (-1, width), never a copy: what is written there is written to x."""
    return x.reshape((-1, width), copy=False)


def convolve(padded: np.ndarray, weight: np.ndarray, y: np.ndarray, stride: int = 1) -> None:
    """Writes the convolution of images that have their border to y: (n, H', W', K)."""
    kh, kw, _, outputs = weight.shape
    matrix = weight.reshape(-1, outputs)
    for rows, block in patches(padded, (kh, kw), stride):
        np.matmul(block, matrix, out=as_matrix(y[:, rows], outputs))


def turned(weight: np.ndarray) -> np.ndarray:
    """(kh, kw, C, K) -> (kh, kw, K, C) from the last tap to the first: the kernel that takes dy to dx."""
    return np.ascontiguousarray(weight[::-1, ::-1].swapaxes(2, 3))


def turned_sides(weight: np.ndarray, sides: Padding) -> Padding:
    """The border of dy with which its convolution has the size of x. Negative where padding exceeds the kernel."""
    (kh, kw, _, _), (top, bottom, left, right) = weight.shape, sides
    return kh - 1 - top, kh - 1 - bottom, kw - 1 - left, kw - 1 - right


def convolve_backward(padded_dy: np.ndarray, x: np.ndarray, kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """dx and the gradient of the kernel, which is `turned`, both from the patches of dy with its border; stride 1.

    dx[p] = sum over taps a of dy[p + a] kernel[a]; dkernel[a] = sum over pixels p of dy[p + a] x[p].
    """
    kh, kw, _, channels = kernel.shape
    matrix, dx = kernel.reshape(-1, channels), np.empty(x.shape, x.dtype)
    dmatrix = np.zeros_like(matrix)
    for rows, block in patches(padded_dy, (kh, kw)):
        np.matmul(block, matrix, out=as_matrix(dx[:, rows], channels))
        dmatrix += block.T @ x[:, rows].reshape(-1, channels)
    return dx, dmatrix.reshape(kernel.shape)


def conv2d(x: Any, weight: Any, bias: Any, stride: int, sides: Padding, enlarge: bool = False) -> Any:
    """The reference operation's y; enlarge: of the images at twice their resolution."""
    (n, h, w, c), (kh, kw, _, outputs), factor = x.shape, weight.shape, 2 if enlarge else 1
    rows = output_size(factor * h, kh, stride, *sides[:2])
    columns = output_size(factor * w, kw, stride, *sides[2:])
    y = np.empty((n, rows, columns, outputs), x.dtype)
    blocks = image_blocks(y, kh * kw * c)
    bordered = Bordered((blocks[0].stop, factor * h, factor * w, c), sides, x.dtype)
    for block in blocks:
        images = ops.upsample_nearest(np, x[block])[0] if enlarge else x[block]
        convolve(bordered(images), weight, y[block], stride)
        if bias is not None:
            add_to_pixels(y[block], bias)
    return y


def conv2d_backward(dy: Any, x: Any, weight: Any, sides: Padding, enlarge: bool = False) -> tuple[Any, Any, Any]:
    """(dx, dweight, dbias) of `conv2d` of stride 1."""
    kh, kw, _, outputs = weight.shape
    kernel, dx = turned(weight), np.empty(x.shape, x.dtype)
    dkernel = np.zeros_like(kernel)
    blocks = image_blocks(dy, kh * kw * outputs)
    bordered = Bordered((blocks[0].stop, *dy.shape[1:]), turned_sides(weight, sides), dy.dtype)
    for block in blocks:
        images = ops.upsample_nearest(np, x[block])[0] if enlarge else x[block]
        dimages, more = convolve_backward(bordered(dy[block]), images, kernel)
        dkernel += more
        dx[block] = ops.upsample_nearest_backward(np, dimages, None)[0] if enlarge else dimages
    return dx, turned(dkernel), dy.sum(axis=(0, 1, 2))
