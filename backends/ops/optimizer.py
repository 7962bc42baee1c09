"""One pass over flat arrays each: Adam, the moving average of weights, both at once, clipping by the global norm.

The reference returns new arrays; a backend may update parameters, gradients, moments and average in place and return
those.
"""

from backends.array import Array, Namespace


def adam(
    xp: Namespace,
    params: Array,
    grads: Array,
    m: Array,
    v: Array,
    step: int,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> tuple[Array, Array, Array]:
    """Adam with bias correction (Kingma & Ba 2015, algorithm 1), decay decoupled (Loshchilov & Hutter 2019).

    All arrays (P,), of one dtype; v not negative; step counts from 1. Returns the new (params, m, v).
    """
    m = beta1 * m + (1.0 - beta1) * grads
    v = beta2 * v + (1.0 - beta2) * (grads * grads)
    scale = lr / (1.0 - beta1**step)
    root = xp.sqrt(v * (1.0 / (1.0 - beta2**step))) + eps
    return params * (1.0 - lr * weight_decay) - scale * (m / root), m, v


def ema(xp: Namespace, average: Array, params: Array, decay: float) -> Array:
    """average + (1 - decay) (params - average): exponential moving average. All arrays (P,); 0 <= decay < 1."""
    return average + (1.0 - decay) * (params - average)


def adam_ema(
    xp: Namespace,
    params: Array,
    grads: Array,
    m: Array,
    v: Array,
    average: Array,
    step: int,
    lr: float,
    decay: float,
    scale: float = 1.0,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> tuple[Array, Array, Array, Array]:
    """A training step's end: `adam` with the gradients times scale, then `ema` of its parameters.

    All arrays (P,). Returns the new (params, m, v, average).
    """
    params, m, v = adam(xp, params, scale * grads, m, v, step, lr, beta1, beta2, eps, weight_decay)
    return params, m, v, ema(xp, average, params, decay)


def global_norm(xp: Namespace, grads: Array) -> Array:
    """The Euclidean norm of grads (P,), a scalar array."""
    return xp.sqrt(xp.sum(grads * grads))


def clip_by_global_norm(xp: Namespace, grads: Array, max_norm: float) -> tuple[Array, Array]:
    """grads scaled down so that their Euclidean norm is at most max_norm (Pascanu et al. 2013, algorithm 1).

    grads: (P,). Returns the gradients and the norm before clipping, a scalar array. Training itself clips by
    `adam_ema`'s scale, which spares a pass over memory; this is kept as what that must equal.
    """
    norm = global_norm(xp, grads)
    # where, not minimum(1, max_norm / norm): a norm of zero must not divide, and NaN must stay NaN
    scale = xp.where(norm > max_norm, max_norm / xp.where(norm > max_norm, norm, norm * 0 + 1), norm * 0 + 1)
    return grads * scale, norm
