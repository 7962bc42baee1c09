"""SiLU, the activation of the DDPM U-Net."""

from backends.array import Array, Namespace


def sigmoid(xp: Namespace, x: Array) -> Array:
    """1 / (1 + exp(-x)), written with tanh, which saturates instead of overflowing."""
    return 0.5 * (1.0 + xp.tanh(0.5 * x))


def silu(xp: Namespace, x: Array) -> tuple[Array, Array]:
    """y = x sigmoid(x) (Hendrycks & Gimpel 2016; Elfwing, Uchibe & Doya 2018). x: any shape; ctx is x itself."""
    return x * sigmoid(xp, x), x


def silu_backward(xp: Namespace, dy: Array, ctx: Array) -> tuple[Array]:
    """dx = dy s (1 + x (1 - s)) with s = sigmoid(x)."""
    x = ctx
    s = sigmoid(xp, x)
    return (dy * s * (1.0 + x * (1.0 - s)),)
