"""Two-dimensional convolution (cross-correlation) of NHWC images by im2col and one matrix product.

So Chellapilla, Puri & Simard 2006, "High performance convolutional neural networks for document processing".
"""

from typing import NamedTuple

from backends.array import Array, Namespace

Padding = tuple[int, int, int, int]


class ConvContext(NamedTuple):
    """What `conv2d` keeps: not the patches, which backward recomputes."""

    x: Array
    weight: Array
    has_bias: bool
    stride: int
    sides: Padding


def output_size(size: int, kernel: int, stride: int, before: int, after: int) -> int:
    """Length of a convolution's output along one axis. Raises ValueError if the kernel does not fit."""
    span = size + before + after - kernel
    if span < 0:
        raise ValueError(
            f"a kernel of {kernel} does not fit an axis of {size} padded by {before} + {after}; "
            "use a larger image or more padding"
        )
    return span // stride + 1


def taps(height: int, width: int, kernel: tuple[int, int], stride: int) -> list[tuple[int, slice, slice]]:
    """For each kernel tap its number and the slices of the padded image that it meets."""
    return [
        (
            i * kernel[1] + j,
            slice(i, i + stride * (height - 1) + 1, stride),
            slice(j, j + stride * (width - 1) + 1, stride),
        )
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]


def pad(xp: Namespace, x: Array, padding: Padding) -> Array:
    """x with a border of zeros. padding: (top, bottom, left, right)."""
    top, bottom, left, right = padding
    if not any(padding):
        return x
    n, h, w, c = x.shape
    padded = xp.zeros((n, h + top + bottom, w + left + right, c), dtype=x.dtype)
    padded[:, top : top + h, left : left + w, :] = x
    return padded


def im2col(xp: Namespace, x: Array, kernel: tuple[int, int], stride: int, padding: Padding) -> Array:
    """Patches of x as rows: (N, H, W, C) -> (N, H', W', kh kw C)."""
    n, h, w, c = x.shape
    rows = output_size(h, kernel[0], stride, padding[0], padding[1])
    columns = output_size(w, kernel[1], stride, padding[2], padding[3])
    if kernel == (1, 1) and stride == 1 and not any(padding):
        return x
    padded = pad(xp, x, padding)
    patches = xp.empty((n, rows, columns, kernel[0] * kernel[1], c), dtype=x.dtype)
    for tap, i, j in taps(rows, columns, kernel, stride):
        patches[:, :, :, tap, :] = padded[:, i, j, :]
    return xp.reshape(patches, (n, rows, columns, kernel[0] * kernel[1] * c))


def col2im(
    xp: Namespace, patches: Array, shape: tuple, kernel: tuple[int, int], stride: int, padding: Padding
) -> Array:
    """Adjoint of `im2col`: adds every patch back to where it was read. Returns an image of `shape`."""
    n, h, w, c = shape
    if kernel == (1, 1) and stride == 1 and not any(padding):
        return patches
    top, bottom, left, right = padding
    rows, columns = patches.shape[1:3]
    patches = xp.reshape(patches, (n, rows, columns, kernel[0] * kernel[1], c))
    padded = xp.zeros((n, h + top + bottom, w + left + right, c), dtype=patches.dtype)
    for tap, i, j in taps(rows, columns, kernel, stride):
        padded[:, i, j, :] += patches[:, :, :, tap, :]
    return padded[:, top : top + h, left : left + w, :]


def four_sides(padding: int | Padding) -> Padding:
    """(top, bottom, left, right) from one number for all sides or the four themselves."""
    return (padding,) * 4 if isinstance(padding, int) else padding


def conv2d(
    xp: Namespace, x: Array, weight: Array, bias: Array | None = None, stride: int = 1, padding: int | Padding = 0
) -> tuple[Array, ConvContext]:
    """y[n, i, j, k] = b[k] + sum over a, b, c of x[n, s i + a - top, s j + b - left, c] w[a, b, c, k].

    x: (N, H, W, C), weight: (kh, kw, C, K), bias: (K,) or None; padding by zeros, one number for all sides
    or (top, bottom, left, right). Returns y: (N, H', W', K) with H' = (H + top + bottom - kh) // stride + 1,
    and ctx for `conv2d_backward`. Raises ValueError if the kernel does not fit the padded image, x has not C
    channels, stride < 1 or a padding is negative.
    """
    kernel, sides = (weight.shape[0], weight.shape[1]), four_sides(padding)
    if x.shape[3] != weight.shape[2]:
        raise ValueError(f"a convolution of {weight.shape[2]} channels got x with {x.shape[3]}, shape {tuple(x.shape)}")
    if stride < 1 or min(sides) < 0:
        raise ValueError(f"a convolution takes stride >= 1 and padding >= 0, got stride={stride}, padding={padding}")
    patches = im2col(xp, x, kernel, stride, sides)
    n, rows, columns, width = patches.shape
    y = xp.reshape(patches, (-1, width)) @ xp.reshape(weight, (width, -1))
    if bias is not None:
        y = y + bias
    y = xp.reshape(y, (n, rows, columns, weight.shape[3]))
    return y, ConvContext(x, weight, bias is not None, stride, sides)


def conv2d_backward(xp: Namespace, dy: Array, ctx: ConvContext) -> tuple[Array, Array, Array]:
    """Gradients of `conv2d`: (dx, dweight, dbias or None), of the arguments' shapes, from dy: (N, H', W', K)."""
    x, weight, has_bias, stride, sides = ctx
    kernel = (weight.shape[0], weight.shape[1])
    patches = im2col(xp, x, kernel, stride, sides)
    width = patches.shape[3]
    drows = xp.reshape(dy, (-1, weight.shape[3]))
    dweight = xp.reshape(xp.reshape(patches, (-1, width)).T @ drows, weight.shape)
    dpatches = xp.reshape(drows @ xp.reshape(weight, (width, -1)).T, patches.shape)
    dx = col2im(xp, dpatches, x.shape, kernel, stride, sides)
    return dx, dweight, xp.sum(drows, axis=0) if has_bias else None
