"""3x3 convolutions and products for any numbers of channels: picks the fast kernels, or pads channels with zeros to
reach them.

`kind` is one of kinds.PLAIN, DOWN0, DOWN1, UP. Multiples of 16 on both sides go straight to
`winograd`, or to `direct` where the pixels are few; few channels on one side of a plain convolution go to
`few_channels`; all else is copied into padded arrays.
"""

from backends.numba_kernels import copying, matmul
from backends.numba_kernels.convolution import direct, few_channels, kinds


def _up(channels):
    return (channels + 15) // 16 * 16


def _few(kind, w):
    narrow, wide = sorted(w.shape[2:])
    return kind is kinds.PLAIN and narrow < 16 and wide % 16 == 0


def _padded(a, ws, key, *axes):
    """`a` with these axes padded by zeros to multiples of 16, or itself if nothing is missing."""
    shape = list(a.shape)
    for axis in axes:
        shape[axis] = _up(shape[axis])
    if tuple(shape) == a.shape:
        return a
    copy = ws.get(("padded", key, tuple(shape)), tuple(shape))
    copying.fill(copy, 0)
    copying.copy(a, copy[tuple(slice(size) for size in a.shape)])
    return copy


def _target(a, ws, key):
    """An array for a result of `a`'s shape with padded channels, or `a` itself."""
    shape = (*a.shape[:-1], _up(a.shape[-1]))
    return a if shape == a.shape else ws.get(("padded", key, shape), shape)


def _finish(padded, y, residual):
    if padded is not y:
        copying.copy(padded[..., : y.shape[-1]], y)
        if residual is not None:
            copying.copy(residual, y, add=True)


def forward(kind, x, w, y, ws, shift=None, residual=None):
    """y = conv(x, w) + shift + residual. x: (N, H, W, Cin), w: (3, 3, Cin, Cout), shift: (Cout,) or (N,
    Cout)."""
    if _few(kind, w):
        return few_channels.forward(x, w, y, ws, shift, residual)
    out = _target(y, ws, "y")
    if residual is y and out is not y:
        residual = copying.copied(y)
    x, w = _padded(x, ws, "x", 3), _padded(w, ws, "w", 2, 3)
    shift = None if shift is None else _padded(shift, ws, "shift", -1)
    inner = residual if out is y else None
    if direct.is_cheaper(kind, out, w.shape[2]):
        direct.forward(kind, x, w, out, ws, shift, inner)
    else:
        kind.forward(x, w, out, ws, shift, inner)
    _finish(out, y, residual)


def input_gradient(kind, dy, w, dx, ws):
    """dx of `forward`; a pair of arrays is joined along channels."""
    if isinstance(dx, tuple):
        return _pair_gradient(kind, dy, w, dx, ws)
    if _few(kind, w):
        return few_channels.input_gradient(dy, w, dx, ws)
    out = _target(dx, ws, "dx")
    dy, w = _padded(dy, ws, "dy", 3), _padded(w, ws, "w", 2, 3)
    kind.input_gradient(dy, w, out, ws)
    _finish(out, dx, None)


def _pair_gradient(kind, dy, w, pair, ws):
    """Straight into both where the kernels can, else cut from one array."""
    first, channels = pair[0].shape[3], w.shape[2]
    if first % 16 == channels % 16 == 0 and not _few(kind, w):
        kind.input_gradient(_padded(dy, ws, "dy", 3), _padded(w, ws, "w", 3), pair, ws)
        return
    whole = ws.get("whole", (*pair[0].shape[:3], channels))
    input_gradient(kind, dy, w, whole, ws)
    copying.copy(whole[..., :first], pair[0])
    copying.copy(whole[..., first:], pair[1])


def weight_gradient(kind, x, dy, dw, db, ws):
    """dw (3, 3, Cin, Cout) and db (Cout,) of `forward`."""
    if _few(kind, dw):
        return few_channels.weight_gradient(x, dy, dw, db, ws)
    cin, cout = dw.shape[2:]
    full, bias = dw, db
    if cin % 16 or cout % 16:
        full, bias = ws.get("padded dw", (3, 3, _up(cin), _up(cout))), ws.get("padded db", (_up(cout),))
    kind.weight_gradient(_padded(x, ws, "x", 3), _padded(dy, ws, "dy", 3), full, bias, ws)
    if full is not dw:
        copying.copy(full[:, :, :cin, :cout], dw)
        copying.copy(bias[:cout], db)


def multiply(x, w, y, ws, shift=None, residual=None):
    """y = x w + shift + residual. x: (..., Cin), w: (Cin, Cout), shift: (Cout,); residual may be y."""
    out = _target(y, ws, "y")
    if residual is y and out is not y:
        residual = copying.copied(y)
    x, w = _padded(x, ws, "x", -1), _padded(w, ws, "w", 0, 1)
    shift = None if shift is None else _padded(shift, ws, "shift", -1)
    matmul.forward(x, w, out, ws, shift, residual if out is y else None)
    _finish(out, y, residual)


def multiply_gradient(x, dy, dw, db, ws):
    """dw (Cin, Cout) and db (Cout,) of `multiply`."""
    cin, cout = dw.shape
    full, bias = dw, db
    if cin % 16 or cout % 16:
        full, bias = ws.get("padded dw", (_up(cin), _up(cout))), ws.get("padded db", (_up(cout),))
    matmul.weight_gradient(_padded(x, ws, "x", -1), _padded(dy, ws, "dy", -1), full, bias, ws)
    if full is not dw:
        copying.copy(full[:cin, :cout], dw)
        copying.copy(bias[:cout], db)
