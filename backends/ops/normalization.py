"""Group normalisation."""

from typing import NamedTuple

from backends.array import Array, Namespace


class NormContext(NamedTuple):
    """What `group_norm` and `group_norm_silu` keep; mean, rstd: (N, G)."""

    x: Array
    gamma: Array
    beta: Array
    mean: Array
    rstd: Array


def group_mean(xp: Namespace, grouped: Array) -> Array:
    """Mean of (N, P, G, D) over P and D, kept as (N, 1, G, 1); pixels first, which NumPy sums several times faster."""
    return xp.mean(xp.mean(grouped, axis=1, keepdims=True), axis=3, keepdims=True)


def group_norm(
    xp: Namespace, x: Array, gamma: Array, beta: Array, groups: int, eps: float = 1e-5
) -> tuple[Array, NormContext]:
    """Group normalisation (Wu & He 2018, eq. 1), the mean and variance over (H, W, C / groups).

    x: (N, ..., C), gamma, beta: (C,); groups divides C. Returns y of x's shape and ctx for
    `group_norm_backward`. Raises ValueError if groups does not divide C or gamma or beta is not (C,).
    """
    channels = x.shape[-1]
    if not tuple(gamma.shape) == tuple(beta.shape) == (channels,):
        raise ValueError(
            f"group_norm of {channels} channels takes gamma and beta of shape ({channels},), "
            f"got {tuple(gamma.shape)} and {tuple(beta.shape)}"
        )
    if groups < 1 or channels % groups:
        raise ValueError(f"groups={groups} does not divide {channels} channels; choose a divisor of {channels}")
    grouped = xp.reshape(x, (x.shape[0], -1, groups, channels // groups))
    mean = group_mean(xp, grouped)
    centred = grouped - mean
    # mean(d * d), not mean(|d|^2): the latter is not analytic
    rstd = 1.0 / xp.sqrt(group_mean(xp, centred * centred) + eps)
    normal = xp.reshape(centred * rstd, x.shape)
    return normal * gamma + beta, NormContext(x, gamma, beta, mean[:, 0, :, 0], rstd[:, 0, :, 0])


def group_norm_backward(xp: Namespace, dy: Array, ctx: NormContext) -> tuple[Array, Array, Array]:
    """Gradients of `group_norm`: (dx, dgamma, dbeta).

    With n the normalised x and dn = dy gamma: dx = rstd (dn - mean(dn) - n mean(dn n)), means over the group.
    """
    x, gamma, _, mean, rstd = ctx
    shape = (x.shape[0], -1, mean.shape[1], x.shape[-1] // mean.shape[1])
    mean, rstd = mean[:, None, :, None], rstd[:, None, :, None]
    normal = (xp.reshape(x, shape) - mean) * rstd
    dnormal = xp.reshape(dy * gamma, shape)
    dx = rstd * (dnormal - group_mean(xp, dnormal) - normal * group_mean(xp, dnormal * normal))
    rows = tuple(range(x.ndim - 1))
    dgamma = xp.sum(dy * xp.reshape(normal, x.shape), axis=rows)
    return xp.reshape(dx, x.shape), dgamma, xp.sum(dy, axis=rows)


def group_norm_from_statistics(xp: Namespace, ctx: NormContext) -> Array:
    """The result of `group_norm`, from what it kept."""
    x, gamma, beta, mean, rstd = ctx
    grouped = xp.reshape(x, (x.shape[0], -1, mean.shape[1], x.shape[-1] // mean.shape[1]))
    normal = (grouped - mean[:, None, :, None]) * rstd[:, None, :, None]
    return xp.reshape(normal, x.shape) * gamma + beta
