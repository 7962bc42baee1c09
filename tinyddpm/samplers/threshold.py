"""Dynamic thresholding."""

import backends
from backends import Array


def thresholded(x0: Array, share: float) -> Array:
    """Each image divided by s, and clipped to [-1, 1] (Saharia et al. 2022, section 2.3).

    x0: (N, H, W, C), the predicted images. s: of each image by itself, what a share of its |x0| stay below, but at
    least 1, so that images within [-1, 1] stay as they are. share: in (0, 1]; between two pixels s is linear.
    """
    xp = backends.namespace(x0)
    sizes = xp.sort(xp.reshape(xp.abs(x0), (x0.shape[0], -1)), axis=1)
    last = sizes.shape[1] - 1
    below = int(share * last)
    low, high = sizes[:, below], sizes[:, min(below + 1, last)]
    s = xp.clip(low + (share * last - below) * (high - low), 1.0, None)
    return xp.clip(x0 / xp.reshape(s, (-1, 1, 1, 1)), -1.0, 1.0)
