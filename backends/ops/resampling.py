"""Changing the resolution of NHWC images without parameters."""

from backends.array import Array, Namespace


def upsample_nearest(xp: Namespace, x: Array) -> tuple[Array, None]:
    """Nearest-neighbour up-sampling by two: (N, H, W, C) -> (N, 2H, 2W, C)."""
    n, h, w, c = x.shape
    y = xp.broadcast_to(x[:, :, None, :, None, :], (n, h, 2, w, 2, c))
    return xp.reshape(y, (n, 2 * h, 2 * w, c)), None


def upsample_nearest_backward(xp: Namespace, dy: Array, ctx: None) -> tuple[Array]:
    """dx: the sum over the four copies of each pixel."""
    n, h, w, c = dy.shape
    return (xp.sum(xp.reshape(dy, (n, h // 2, 2, w // 2, 2, c)), axis=(2, 4)),)


def average_pool(xp: Namespace, x: Array) -> tuple[Array, None]:
    """Mean over 2x2 squares: (N, H, W, C) -> (N, H / 2, W / 2, C). Raises ValueError for odd H or W."""
    n, h, w, c = x.shape
    if h % 2 or w % 2:
        raise ValueError(f"average_pool halves even sizes only, not {h}x{w}; pad or resize the image")
    return xp.mean(xp.reshape(x, (n, h // 2, 2, w // 2, 2, c)), axis=(2, 4)), None


def average_pool_backward(xp: Namespace, dy: Array, ctx: None) -> tuple[Array]:
    """dx: a quarter of dy at each of the four pixels."""
    dx, _ = upsample_nearest(xp, dy)
    return (dx * 0.25,)
