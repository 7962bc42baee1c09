"""3x3 convolutions for any numbers of channels: picks the fast kernels, or pads channels with zeros to reach them.

`kind` is one of `kinds.KINDS`. Multiples of 16 on both sides go straight to `tiled`, or to `direct` where there are few
pixels; few channels on one side of a plain convolution go to `few_channels`; all else is copied into padded arrays.
"""

from backends.numba_kernels import copying
from backends.numba_kernels.convolution import direct, few_channels, kinds, tiled
from backends.numba_kernels.padding import finish, padded, target
from backends.numba_kernels.runtime.pool import POOL
from backends.numba_kernels.vectors.lanes import WIDTH


def has_few_channels(kind, w):
    """Whether `few_channels` is written for these weights."""
    narrow, wide = sorted(w.shape[2:])
    return kind is kinds.PLAIN and narrow < WIDTH and wide % WIDTH == 0


def forward(kind, x, w, y, shift=None, residual=None):
    """y = conv(x, w) + shift + residual.

    x: (N, H, W, Cin), w: (3, 3, Cin, Cout), shift: (Cout,) or (N, Cout), y, residual: the output's shape; residual may
    be y, to add to it.
    """
    if has_few_channels(kind, w):
        return few_channels.forward(x, w, y, shift, residual)
    out = target(y, 3)
    if residual is y and out is not y:
        # It is added when `out` has been copied over it
        residual = copying.copied(y)
    x, w, shift = padded(x, 3), padded(w, 2, 3), padded(shift, -1)
    run = direct.forward if direct.is_cheaper(kind, out, w.shape[2]) else tiled.forward
    run(kind, x, w, out, shift, residual if out is y else None)
    finish(out, y, residual)


def input_gradient(kind, dy, w, dx):
    """dx of `forward`."""
    if has_few_channels(kind, w):
        return few_channels.input_gradient(dy, w, dx)
    out = target(dx, 3)
    dy, w = padded(dy, 3), padded(w, 2, 3)
    tiled.input_gradient(kind, dy, w, out)
    finish(out, dx)


def joined_gradient(kind, dy, w, dx, dskip):
    """The input's gradient in two parts, for x and skip joined along channels: straight into both where the kernels
    can, else cut from one array."""
    first, channels = dx.shape[3], w.shape[2]
    if first % WIDTH == channels % WIDTH == 0 and not has_few_channels(kind, w):
        dy, w = padded(dy, 3), padded(w, 3)
        tiled.input_gradient(kind, dy, w, dx, dskip)
        return
    joined = POOL.empty((*dx.shape[:3], channels))
    input_gradient(kind, dy, w, joined)
    copying.copy(joined[..., :first], dx)
    copying.copy(joined[..., first:], dskip)


def weight_gradient(kind, x, dy, dw, db):
    """dw (3, 3, Cin, Cout) and db (Cout,) of `forward`."""
    if has_few_channels(kind, dw):
        return few_channels.weight_gradient(x, dy, dw, db)
    full, bias = target(dw, 2, 3), target(db, 0)
    x, dy = padded(x, 3), padded(dy, 3)
    tiled.weight_gradient(kind, x, dy, full, bias)
    finish(full, dw)
    finish(bias, db)
