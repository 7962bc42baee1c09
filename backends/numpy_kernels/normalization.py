"""Group normalisation and SiLU of a few images, in as few passes as NumPy allows.

Images are seen as rows (`backends.numpy_kernels.rows`); mean and rstd are of each image and channel, (n, C), and equal
within a group.
"""

import numpy as np

from backends.numpy_kernels.rows import along, rows_of, sum_pixels, sum_products


def group_mean(sums: np.ndarray, groups: int, pixels: int) -> np.ndarray:
    """Means over the groups from sums over the pixels of an image: (n, C) -> (n, C)."""
    width = sums.shape[1] // groups
    means = sums.reshape(len(sums), groups, width).sum(axis=2) / (width * pixels)
    return np.repeat(means, width, axis=1)


def pixels_of(rows: np.ndarray, channels: int) -> int:
    """How many pixels an image has."""
    return rows.shape[1] * rows.shape[2] // channels


def statistics(x: np.ndarray, groups: int, eps: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x less its mean, as rows; the mean; rstd = 1 / sqrt(variance + eps)."""
    rows, channels = rows_of(x), x.shape[-1]
    pixels = pixels_of(rows, channels)
    mean = group_mean(sum_pixels(rows, channels), groups, pixels)
    centred = rows - along(rows, mean)
    variance = group_mean(sum_products(centred, centred, channels), groups, pixels)
    return centred, mean, 1.0 / np.sqrt(variance + eps)


def centre(x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """x less its mean, as rows."""
    rows = rows_of(x)
    return rows - along(rows, mean)


def scale(centred: np.ndarray, rstd: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """z = gamma n + beta with n = rstd centred, the normalised x."""
    z = centred * along(centred, rstd * gamma)
    z += along(z, beta)
    return z


def scale_silu(
    centred: np.ndarray, rstd: np.ndarray, gamma: np.ndarray, beta: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """silu(z) = z s with z of `scale`, and t = tanh(z / 2); s = (1 + t) / 2 is the sigmoid of z."""
    half = scale(centred, rstd, 0.5 * gamma, 0.5 * beta)
    t = np.tanh(half)
    y = half * t
    y += half
    return y, t


def multiply_by_slope(dy: np.ndarray, y: np.ndarray, t: np.ndarray) -> None:
    """dy becomes dz = dy s (1 + z (1 - s)) = dy (1 + t + y (1 - t)) / 2, of y and t of `scale_silu`."""
    slope = 1.0 - t
    slope *= y
    slope += t
    slope += 1.0
    slope *= 0.5
    dy *= slope


def normalise_backward(
    dz: np.ndarray, centred: np.ndarray, rstd: np.ndarray, gamma: np.ndarray, groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """dz becomes dx, and centred is used up. Returns dgamma and dbeta.

    dx = rstd (dn - mean(dn) - n mean(dn n)) with dn = dz gamma and n = rstd centred, means over the group.
    """
    channels = gamma.size
    pixels = pixels_of(dz, channels)
    sums, sums_with_n = sum_pixels(dz, channels), rstd * sum_products(dz, centred, channels)
    mean, mean_with_n = (group_mean(gamma * values, groups, pixels) for values in (sums, sums_with_n))
    dz *= along(dz, gamma)
    centred *= along(dz, rstd * mean_with_n)
    centred += along(dz, mean)
    dz -= centred
    # Last: in a group of almost equal numbers rstd is large, and would make large what cancels
    dz *= along(dz, rstd)
    return sums_with_n.sum(axis=0), sums.sum(axis=0)
