"""Training losses, each the mean over all elements, or over rows; the gradient is of the prediction only.

prediction and target have one shape, any; a loss is a scalar array, of shape (), and so is dy. Raises ValueError where
the shapes differ.
"""

from backends.array import Array, Namespace
from backends.ops.analytic import real_part


def elements(x: Array) -> int:
    """Number of elements of x (the standard lets `size` be None)."""
    count = 1
    for length in x.shape:
        count *= length
    return count


def residual(prediction: Array, target: Array) -> Array:
    """prediction - target. Raises ValueError where the shapes differ, which subtraction alone would broadcast."""
    if prediction.shape != target.shape:
        raise ValueError(
            f"a loss compares arrays of one shape, got prediction {tuple(prediction.shape)} "
            f"and target {tuple(target.shape)}; reshape one of them"
        )
    return prediction - target


def mse_loss(xp: Namespace, prediction: Array, target: Array) -> tuple[Array, Array]:
    """mean(r^2), r = prediction - target: L_simple of Ho et al. 2020, eq. 14, per element."""
    r = residual(prediction, target)
    return xp.mean(r * r), r


def mse_loss_backward(xp: Namespace, dy: Array, ctx: Array) -> tuple[Array]:
    """dprediction = 2 r / n dy."""
    r = ctx
    return (r * (dy * (2.0 / elements(r))),)


def l1_loss(xp: Namespace, prediction: Array, target: Array) -> tuple[Array, Array]:
    """mean(|r|), r = prediction - target, with |r| = r sign(r)."""
    r = residual(prediction, target)
    sign = xp.sign(real_part(xp, r))
    return xp.mean(r * sign), sign


def l1_loss_backward(xp: Namespace, dy: Array, ctx: Array) -> tuple[Array]:
    """dprediction = sign(r) / n dy; 0 where r is 0."""
    sign = ctx
    return (sign * (dy * (1.0 / elements(sign))),)


def huber_loss(xp: Namespace, prediction: Array, target: Array, delta: float = 1.0) -> tuple[Array, Array]:
    """Mean of r^2 / 2 where |r| <= delta, else delta (|r| - delta / 2) (Huber 1964). delta > 0.

    Raises ValueError if delta is not positive.
    """
    if not delta > 0:
        raise ValueError(f"the Huber loss needs delta > 0, got {delta}; the usual choice is 1.0")
    r = residual(prediction, target)
    # r limited to [-delta, delta]: the loss is then c (r - c / 2), and c is its derivative
    real = real_part(xp, r)
    limited = xp.where(real > delta, delta + 0 * r, xp.where(real < -delta, -delta + 0 * r, r))
    return xp.mean(limited * (r - 0.5 * limited)), limited


def huber_loss_backward(xp: Namespace, dy: Array, ctx: Array) -> tuple[Array]:
    """dprediction = r limited to [-delta, delta], / n dy."""
    limited = ctx
    return (limited * (dy * (1.0 / elements(limited))),)


def softmax_cross_entropy(xp: Namespace, logits: Array, labels: Array) -> tuple[Array, Array]:
    """Mean of -log softmax(logits) at each row's label: the loss of a classifier (Bishop 2006, eq. 4.108).

    logits: (N, K), labels: (N,) integers in [0, K); NaN for one outside. Raises ValueError for other shapes.
    """
    if len(logits.shape) != 2 or labels.shape != logits.shape[:1]:
        seen = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"the cross-entropy takes logits (N, K) and labels (N,), got {seen}; give a label to each row")
    shifted = logits - xp.max(real_part(xp, logits), axis=1, keepdims=True)
    exponentials = xp.exp(shifted)
    total = xp.sum(exponentials, axis=1, keepdims=True)
    asked = labels[:, None] == xp.arange(logits.shape[1], dtype=labels.dtype)[None, :]
    chosen = xp.sum(xp.where(asked, shifted, xp.zeros_like(shifted)), axis=1)
    chosen = xp.where(xp.any(asked, axis=1), chosen, xp.nan * chosen)
    return xp.mean(xp.log(total[:, 0]) - chosen), exponentials / total - xp.astype(asked, logits.dtype)


def softmax_cross_entropy_backward(xp: Namespace, dy: Array, ctx: Array) -> tuple[Array]:
    """dlogits = (softmax - one-hot) / N dy."""
    error = ctx
    return (error * (dy * (1.0 / error.shape[0])),)
