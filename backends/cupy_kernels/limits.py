"""What kernels are written for, in the words that the guards of all families share (`backends.fallback`)."""

from typing import Any

from backends.cupy_kernels.runtime.launch import ELEMENTS

# Elements of an array: kernels count in 32 bits, and loops by the grid's stride go beyond the end
MOST = 2**30


def on_device(x: Any) -> bool:
    """Whether this is CuPy's."""
    return type(x).__module__.partition(".")[0] == "cupy"


def usable(*arrays: Any) -> bool:
    """Whether all are device arrays of one element type that kernels know, without gaps and not empty; None is."""
    given = [a for a in arrays if a is not None]
    return all(
        on_device(a)
        and a.dtype == given[0].dtype
        and a.dtype.name in ELEMENTS
        and a.flags.c_contiguous
        and 0 < a.size <= MOST
        for a in given
    )


def are_images(*arrays: Any) -> bool:
    """Whether all are usable, and (N, H, W, C)."""
    return usable(*arrays) and all(a is None or a.ndim == 4 for a in arrays)


def has_shape(x: Any, *shape: int) -> bool:
    """Whether the array has this shape, or is None."""
    return x is None or x.shape == shape
