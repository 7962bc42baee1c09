"""Adding images, shifting their channels, joining them along channels."""

from backends.array import Array, Namespace


def add(xp: Namespace, a: Array, b: Array) -> tuple[Array, None]:
    """a + b, both of any one shape: where two paths meet. Returns the sum, of that shape."""
    return a + b, None


def add_backward(xp: Namespace, dy: Array, ctx: None) -> tuple[Array, Array]:
    """(da, db): dy for both."""
    return dy, dy


def add_shift(xp: Namespace, x: Array, shift: Array) -> tuple[Array, None]:
    """x: (N, H, W, C) plus shift: (N, C) at every pixel of an image. Returns (N, H, W, C)."""
    return x + xp.reshape(shift, (shift.shape[0], 1, 1, shift.shape[1])), None


def add_shift_backward(xp: Namespace, dy: Array, ctx: None) -> tuple[Array, Array]:
    """(dx, dshift): dy itself, (N, H, W, C), and its sum over the pixels, (N, C)."""
    return dy, xp.sum(dy, axis=(1, 2))


def concat_channels(xp: Namespace, a: Array, b: Array) -> tuple[Array, int]:
    """Joins a: (N, H, W, A) and b: (N, H, W, B) to (N, H, W, A + B), a's channels first.

    N, H and W of both must agree; the namespace raises its own error, ValueError in NumPy, where they do not.
    """
    return xp.concat([a, b], axis=-1), a.shape[-1]


def concat_channels_backward(xp: Namespace, dy: Array, ctx: int) -> tuple[Array, Array]:
    """(da, db): dy split where the two were joined."""
    return dy[..., :ctx], dy[..., ctx:]
