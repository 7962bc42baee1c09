"""SiLU, the activation of the DDPM U-Net."""

from typing import Any


def sigmoid(xp: Any, x: Any) -> Any:
    """1 / (1 + exp(-x)), written with tanh, which saturates instead of overflowing."""
    return 0.5 * (1.0 + xp.tanh(0.5 * x))


def silu(xp: Any, x: Any) -> tuple[Any, Any]:
    """y = x sigmoid(x) (Hendrycks & Gimpel 2016; Elfwing, Uchibe & Doya 2018). Any shape."""
    return x * sigmoid(xp, x), x


def silu_backward(xp: Any, dy: Any, ctx: Any) -> tuple[Any]:
    """dx = dy s (1 + x (1 - s)) with s = sigmoid(x)."""
    x = ctx
    s = sigmoid(xp, x)
    return (dy * s * (1.0 + x * (1.0 - s)),)
