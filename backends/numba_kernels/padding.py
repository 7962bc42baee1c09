"""Zeros where kernels need them: channels padded to multiples of 16, pixels outside an image, a missing shift."""

from backends.numba_kernels import copying
from backends.numba_kernels.limits import CHANNELS
from backends.numba_kernels.runtime.addresses import fixed
from backends.numba_kernels.runtime.pool import POOL, aligned_empty
from backends.numba_kernels.vectors.lanes import WIDTH

# Read in place of pixels outside an image, and of shifts that are not given
BLANK = fixed(aligned_empty((CHANNELS,)))
BLANK[:] = 0


def whole_vectors(channels):
    """The next multiple of 16."""
    return -(-channels // WIDTH) * WIDTH


def padded(a, *axes):
    """`a` with these axes padded by zeros to multiples of 16, or itself if nothing is missing; None for None."""
    if a is None:
        return None
    shape = list(a.shape)
    for axis in axes:
        shape[axis] = whole_vectors(shape[axis])
    if tuple(shape) == a.shape:
        return a
    copy = POOL.empty(tuple(shape))
    copying.fill(copy, 0)
    copying.copy(a, copy[tuple(slice(size) for size in a.shape)])
    return copy


def target(a, *axes):
    """An array for a result of `a`'s shape with these axes padded, or `a` itself."""
    shape = list(a.shape)
    for axis in axes:
        shape[axis] = whole_vectors(shape[axis])
    return a if tuple(shape) == a.shape else POOL.empty(tuple(shape))


def finish(result, a, residual=None):
    """Puts a result from its `target` into `a`, plus residual; nothing where it is there already."""
    if result is not a:
        copying.copy(result[tuple(slice(size) for size in a.shape)], a)
        if residual is not None:
            copying.copy(residual, a, add=True)
