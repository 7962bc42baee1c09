"""The training images nearest to samples: side by side they show that samples are not copies."""

import numpy as np

from tinyddpm.checks import check_whole, told
from tinyddpm.errors import InputError
from tinyddpm.evaluation.precision_recall import squared_distances


def nearest_images(samples: np.ndarray, training: np.ndarray, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """For each sample the `count` training images nearest in pixels, nearest first: indices (N, count) int64, and
    distances (N, count) float64, the root of the mean squared difference of bytes: 0 is a copy, exactly.

    samples: (N, H, W, C), training: (M, H, W, C), both uint8. Raises InputError for others, and for count above M.
    """
    for name, images in (("samples", samples), ("training", training)):
        wrong = not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4
        if wrong or not images.size or images.shape[1:] != samples.shape[1:]:
            raise InputError(f"{name} must be uint8 of shape (N, H, W, C), one size for both, got {told(images)}")
    count = check_whole("count", count, 1, len(training), "the number of training images")
    flat, pixels = samples.reshape(len(samples), -1).astype(np.float64), training.reshape(len(training), -1)
    # Sums of products of bytes are exact in float64; blocks of the larger set, which stays in bytes
    best = np.full((len(samples), 0), np.inf)
    indices = np.zeros((len(samples), 0), np.int64)
    for first in range(0, len(pixels), 4096):
        block = pixels[first : first + 4096].astype(np.float64)
        distances = np.concatenate([d for _, d in squared_distances(flat, block)])
        best = np.concatenate([best, distances], axis=1)
        here = np.broadcast_to(np.arange(first, first + len(block)), distances.shape)
        indices = np.concatenate([indices, here], axis=1)
        order = np.argsort(best, axis=1, kind="stable")[:, :count]
        best, indices = np.take_along_axis(best, order, 1), np.take_along_axis(indices, order, 1)
    return indices, np.sqrt(best / pixels.shape[1])


def beside_nearest(samples: np.ndarray, training: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Each sample followed by its nearest training images, as `nearest_images` names them: (N (1 + count), H, W, C).

    A grid with a multiple of 1 + count columns shows them side by side.
    """
    rows = np.concatenate([samples[:, None], training[indices]], axis=1)
    return rows.reshape(-1, *samples.shape[1:])
