"""Training losses, each the mean over all elements, or over rows; the gradient is of the prediction only.

prediction and target have one shape, any; weights are None or (N,), by which the loss of each image, a row of the first
axis, is multiplied. A loss is a scalar array, of shape (), and so is dy. Raises ValueError where the shapes do not fit.
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


def weighted(xp: Namespace, slope: Array, weights: Array | None) -> Array:
    """The slope of each image times its weight."""
    if weights is None:
        return slope
    if weights.shape != slope.shape[:1]:
        raise ValueError(f"weights must be ({slope.shape[0]},), one for each image, got {tuple(weights.shape)}")
    return xp.reshape(weights, (-1,) + (1,) * (slope.ndim - 1)) * slope


def mse_loss(xp: Namespace, prediction: Array, target: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """mean(w r^2), r = prediction - target: L_simple of Ho et al. 2020, eq. 14, per element."""
    r = residual(prediction, target)
    slope = weighted(xp, r, weights)
    return xp.mean(slope * r), slope


def mse_loss_backward(xp: Namespace, dy: Array, ctx: Array) -> tuple[Array]:
    """dprediction = 2 w r / n dy."""
    slope = ctx
    return (slope * (dy * (2.0 / elements(slope))),)


def l1_loss(xp: Namespace, prediction: Array, target: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """mean(w |r|), r = prediction - target, with |r| = r sign(r)."""
    r = residual(prediction, target)
    slope = weighted(xp, xp.sign(real_part(xp, r)), weights)
    return xp.mean(r * slope), slope


def l1_loss_backward(xp: Namespace, dy: Array, ctx: Array) -> tuple[Array]:
    """dprediction = w sign(r) / n dy; 0 where r is 0."""
    slope = ctx
    return (slope * (dy * (1.0 / elements(slope))),)


def huber_loss(
    xp: Namespace, prediction: Array, target: Array, delta: float = 1.0, weights: Array | None = None
) -> tuple[Array, Array]:
    """Mean of w r^2 / 2 where |r| <= delta, else w delta (|r| - delta / 2) (Huber 1964). delta > 0.

    Raises ValueError if delta is not positive.
    """
    if not delta > 0:
        raise ValueError(f"the Huber loss needs delta > 0, got {delta}; the usual choice is 1.0")
    r = residual(prediction, target)
    # r limited to [-delta, delta]: the loss is then c (r - c / 2), and c is its derivative
    real = real_part(xp, r)
    limited = xp.where(real > delta, delta + 0 * r, xp.where(real < -delta, -delta + 0 * r, r))
    slope = weighted(xp, limited, weights)
    return xp.mean(slope * (r - 0.5 * limited)), slope


def huber_loss_backward(xp: Namespace, dy: Array, ctx: Array) -> tuple[Array]:
    """dprediction = w r limited to [-delta, delta], / n dy."""
    slope = ctx
    return (slope * (dy * (1.0 / elements(slope))),)


def softmax_cross_entropy(xp: Namespace, logits: Array, labels: Array) -> tuple[Array, Array]:
    """Mean of -log softmax(logits) at each row's label: the loss of a classifier (Bishop 2006, section 4.3.4).

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
