"""Convolution of a few images by im2col. For a 3x3 kernel the patches are nine times the image, but stay in cache."""

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import as_strided

from backends.numpy_kernels import workers
from backends.ops.convolution import Padding, output_size, pad


def patches(x: np.ndarray, kernel: tuple[int, int], stride: int, sides: Padding) -> Iterator[tuple[slice, np.ndarray]]:
    """Some output rows and their patches, (n rows W', kh kw C), until all rows are done.

    The patches are in the same memory each time.
    """
    padded = np.ascontiguousarray(pad(np, x, sides))
    n, height, width, c = padded.shape
    rows, columns = output_size(height, kernel[0], stride, 0, 0), output_size(width, kernel[1], stride, 0, 0)
    # The pixels that meet a row of the kernel are side by side: kw C contiguous numbers are copied at once
    image, row, pixel, _ = padded.strides
    shape = n, rows, columns, kernel[0], kernel[1] * c
    view = as_strided(padded, shape, (image, stride * row, stride * pixel, row, x.itemsize), writeable=False)
    # Only a single image is cut, so that its rows of the result are contiguous
    cuts = workers.slices(rows, -(-view.nbytes // workers.BLOCK_BYTES) if n == 1 else 1)
    buffer = np.empty((n, cuts[0].stop, *shape[2:]), x.dtype)
    for cut in cuts:
        block = buffer[:, : cut.stop - cut.start]
        block[...] = view[:, cut]
        yield cut, as_matrix(block, kernel[0] * kernel[1] * c)


def as_matrix(x: np.ndarray, width: int) -> np.ndarray:
    """x as (-1, width), never a copy: what is written there is written to x."""
    return x.reshape((-1, width), copy=False)


def convolve(x: np.ndarray, weight: np.ndarray, y: np.ndarray, stride: int, sides: Padding) -> None:
    """Writes the convolution of x to y: (n, H', W', K)."""
    kh, kw, _, outputs = weight.shape
    for rows, block in patches(x, (kh, kw), stride, sides):
        np.matmul(block, weight.reshape(-1, outputs), out=as_matrix(y[:, rows], outputs))


def turned(weight: np.ndarray) -> np.ndarray:
    """(kh, kw, C, K) -> (kh, kw, K, C) from the last tap to the first: the kernel that takes dy to dx."""
    return np.ascontiguousarray(weight[::-1, ::-1].swapaxes(2, 3))


def turned_sides(kernel: tuple[int, int], sides: Padding) -> Padding:
    """The padding of dy with which its convolution has the size of x; negative where x's exceeds the kernel."""
    (kh, kw), (top, bottom, left, right) = kernel, sides
    return kh - 1 - top, kh - 1 - bottom, kw - 1 - left, kw - 1 - right


def convolve_backward(
    dy: np.ndarray, x: np.ndarray, kernel: np.ndarray, sides: Padding
) -> tuple[np.ndarray, np.ndarray]:
    """dx and the gradient of the kernel, which is `turned`, both from the same patches, those of dy; stride 1.

    dx[p] = sum over taps a of dy[p + a] kernel[a]; dkernel[a] = sum over pixels p of dy[p + a] x[p].
    """
    kh, kw, _, channels = kernel.shape
    matrix, dx = as_matrix(kernel, channels), np.empty(x.shape, x.dtype)
    dmatrix = np.zeros_like(matrix)
    for rows, block in patches(dy, (kh, kw), 1, turned_sides((kh, kw), sides)):
        np.matmul(block, matrix, out=as_matrix(dx[:, rows], channels))
        dmatrix += block.T @ x[:, rows].reshape(-1, channels)
    return dx, dmatrix.reshape(kernel.shape)
