"""The variational bound in bits per dimension: its terms L_t for a network that also predicts variances.

Arrays: output (N, ..., 2C), the prediction in the first C channels and v in the others; target, x0 (N, ..., C);
steps (N, 6), what each image's timestep says, its columns in the order of STEPS:

    gap       the mean that is right less the network's, over prediction less target
    low, high log beta~_t and log beta_t
    first     1 where t is the chain's last step, which leads to x0; else 0
    simple    weight of the squared error of prediction less target in the image's loss
    bound     weight of the bound's term L_t in it
"""

import math
from typing import NamedTuple

from backends.array import Array, Namespace
from backends.ops.analytic import real_part

STEPS = ("gap", "low", "high", "first", "simple", "bound")
# Half a grey level of 256 in [-1, 1], and what lies beyond these is black or white, whose cell is open to infinity
HALF_CELL = 1 / 255
EDGE = 0.999
BITS = 1 / math.log(2)
# The normal distribution's at its mean
DENSITY = 1 / math.sqrt(2 * math.pi)

# (1 + 2x) exp(x^2) erfc(x) over x >= 0 as a series of Chebyshev polynomials of (x - 3.75) / (x + 3.75), the form of
# Shepherd & Laframboise 1981; from 40 digits
MIDDLE = 3.75
SERIES = (
    1.17757893456740175, -0.00459005458064647733, -0.0842491333665179156, 0.0592099399981918905,
    -0.0266586684353057523, 0.00907499767070526509, -0.00241316354041760819, 0.000490775836525808632,
    -0.0000691697330250120637, 4.13902798607301017e-6, 7.74038306619849067e-7, -2.18864010492343957e-7,
    1.07649994656709104e-8, 4.5219598112182869e-9, -7.75440020883135111e-10, -6.31808834088668449e-11,
    2.8687950109306699e-11, 1.94558685457773472e-13, -9.65469674843343891e-13, 3.25254814814873984e-14,
    3.34781194828680539e-14, -1.8645628804193131e-15, -1.25079505306886471e-15, 7.41823525662404346e-17,
    5.06814890479611132e-17,
)  # fmt: skip


def scaled_erfc(x: Array) -> Array:
    """exp(x^2) erfc(x) for x >= 0, to the last digits of float64; analytic, as the standard's functions are."""
    u = (x - MIDDLE) / (x + MIDDLE)
    above, here = 0.0 * u, 0.0 * u
    for coefficient in reversed(SERIES[1:]):
        above, here = here, 2.0 * u * here - above + coefficient
    return (u * here - above + SERIES[0]) / (1.0 + 2.0 * x)


class Cell(NamedTuple):
    """Where an element's grey level lies in the decoder's Gaussian, whose mean is taken to lie beneath it.

    log_p: the log of the level's probability, Phi(near) - Phi(-far), or Phi(near) of a cell that is open to one side.
    at_near, at_far: the density at either end over the probability; all in standard deviations, of which `inverse` is
    the reciprocal. side: the derivative of the mean's distance by x0 - mean.
    """

    log_p: Array
    near: Array
    far: Array
    at_near: Array
    at_far: Array
    inverse: Array
    side: Array


def decoder_cell(xp: Namespace, d: Array, x0: Array, log_variance: Array) -> Cell:
    """The discretised Gaussian decoder (Ho et al. 2020, eq. 13) for d = x0 - mean; all of one shape.

    A cell is x0 - 1/255 … x0 + 1/255; those at -1 and 1 are open to infinity. By symmetry the mean is taken to lie
    beneath the cell: Phi of negative numbers keeps its digits, where 1 - Phi would lose them.
    """
    d_real, x0 = real_part(xp, d), real_part(xp, x0)
    two_sided = xp.astype((x0 < EDGE) & (x0 > -EDGE), x0.dtype)
    side = xp.where(x0 >= EDGE, 1.0 + 0 * x0, xp.where(x0 <= -EDGE, -1.0 + 0 * x0, xp.sign(d_real)))
    inverse, distance = xp.exp(-0.5 * log_variance), side * d
    near, far = (HALF_CELL - distance) * inverse, two_sided * (HALF_CELL + distance) * inverse
    within = real_part(xp, near) > 0
    # exp(-near^2 / 2), which is taken out where the mean is outside, and exp(-far^2 / 2) over it
    half_square = 0.5 * near * near
    inside, ratio = xp.exp(-half_square), xp.exp(-2.0 * HALF_CELL * two_sided * distance * inverse * inverse)
    near_tail = 0.5 * scaled_erfc(xp.where(within, near, -near) * math.sqrt(0.5))
    far_tail = 0.5 * two_sided * scaled_erfc(far * math.sqrt(0.5)) * ratio
    p = xp.where(within, 1.0 - inside * (near_tail + far_tail), near_tail - far_tail)
    log_p = xp.log(p) - xp.where(within, 0.0 * half_square, half_square)
    at_near = DENSITY * xp.where(within, inside, 1.0 + 0.0 * inside) / p
    return Cell(log_p, near, far, at_near, two_sided * ratio * at_near, inverse, side)


def gaussian_kl(xp: Namespace, d: Array, low: Array, log_variance: Array) -> Array:
    """KL(N(m, e^low) | N(m - d, e^log_variance)) in nats: a term L_{t-1} of Ho et al. 2020, eq. 5."""
    return 0.5 * (log_variance - low - 1.0 + xp.exp(low - log_variance) + d * d * xp.exp(-log_variance))


def columns(xp: Namespace, steps: Array, axes: int) -> list[Array]:
    """Each of STEPS as (N, 1, …) of that many axes."""
    return [xp.reshape(steps[:, i], (-1,) + (1,) * (axes - 1)) for i in range(len(STEPS))]


def log_variance_of(v: Array, low: Array, high: Array) -> Array:
    """Between log beta~ and log beta, where v is -1 and 1 (Nichol & Dhariwal 2021, eq. 15; v as in their code)."""
    return low + 0.5 * (v + 1.0) * (high - low)


def vlb_loss(
    xp: Namespace, output: Array, target: Array, x0: Array, steps: Array, hybrid: bool
) -> tuple[Array, tuple[Array, Array, Array, Array, bool]]:
    """(1 + N,): the mean loss, and each image's: simple mean(r^2) + bound L_t, with r = prediction - target.

    L_t is the image's term of the bound in bits per dimension: the divergence of the posterior from the reverse step
    (Ho et al. 2020, eq. 5), or at the first step minus the log-likelihood of x0 (eq. 13). hybrid: in L_t the mean is
    taken as given, so that only v learns from it (Nichol & Dhariwal 2021, section 3.1). Raises ValueError for shapes
    that do not belong together.
    """
    check_shapes(output, target, x0, steps)
    channels, axes = target.shape[-1], tuple(range(1, len(target.shape)))
    gap, low, high, first, simple, bound = columns(xp, steps, len(target.shape))
    r, log_variance = output[..., :channels] - target, log_variance_of(output[..., channels:], low, high)
    d = gap * (real_part(xp, r) if hybrid else r)
    nats = gaussian_kl(xp, d, low, log_variance)
    nats = xp.where(first > 0, -decoder_cell(xp, d, x0, log_variance).log_p, nats)
    losses = xp.mean(simple * r * r + (BITS * bound) * nats, axis=axes)
    mean = xp.mean(losses, axis=0, keepdims=True)
    return xp.concat([mean, losses]), (output, target, x0, steps, hybrid)


def vlb_loss_backward(xp: Namespace, dy: Array, ctx: tuple[Array, Array, Array, Array, bool]) -> tuple[Array]:
    """doutput. dy: (1 + N,), or a number, which is that of the mean alone.

    The probability of a cell changes at its ends, by the density there.
    """
    output, target, x0, steps, hybrid = ctx
    channels, n = target.shape[-1], target.shape[0]
    gap, low, high, first, simple, bound = columns(xp, steps, len(target.shape))
    r, log_variance = output[..., :channels] - target, log_variance_of(output[..., channels:], low, high)
    d, inverse = gap * r, xp.exp(-log_variance)
    dd, dlog_variance = d * inverse, 0.5 * (1.0 - xp.exp(low - log_variance) - d * d * inverse)
    cell = decoder_cell(xp, d, x0, log_variance)
    dd = xp.where(first > 0, (cell.at_near - cell.at_far) * cell.inverse * cell.side, dd)
    outwards = cell.near * cell.at_near + cell.far * cell.at_far
    dlog_variance = xp.where(first > 0, 0.5 * outwards, dlog_variance)
    dlosses = dy / n if isinstance(dy, int | float) or dy.ndim == 0 else dy[0] / n + dy[1:]
    each = 1.0 / math.prod(target.shape[1:])
    share, dr = (each * BITS) * bound, (2.0 * each) * simple * r
    if not hybrid:
        dr = dr + share * gap * dd
    dv = share * dlog_variance * (0.5 * (high - low))
    scale = dlosses if isinstance(dlosses, float) else xp.reshape(dlosses, (-1,) + (1,) * (len(target.shape) - 1))
    return (scale * xp.concat([dr, dv], axis=-1),)


def check_shapes(output: Array, target: Array, x0: Array, steps: Array) -> None:
    """Raises ValueError where they do not belong together; broadcasting would compute something."""
    n, channels = target.shape[0], target.shape[-1]
    wanted = (*target.shape[:-1], 2 * channels), target.shape, (n, len(STEPS))
    if (output.shape, x0.shape, steps.shape) != wanted:
        raise ValueError(
            f"the bound takes output {wanted[0]}, x0 {wanted[1]} and steps {wanted[2]} for a target of "
            f"{tuple(target.shape)}, got {tuple(output.shape)}, {tuple(x0.shape)} and {tuple(steps.shape)}"
        )
