"""Compiled tiles made anew while a mistake is on: machine code does not follow the Python function it was made of."""

from collections.abc import Iterator
from contextlib import contextmanager

import numba
import pytest

from backends.numba_kernels import convolution, threads
from backends.numba_kernels.winograd_tiles import TileKernels

PLANS = convolution._forward_plan, convolution._gradient_plan


@contextmanager
def tiles_made_anew() -> Iterator[None]:
    """All convolutions compile their tile functions again, for as long as the context lasts and not onto the disk.

    So mistakes in `algorithms`, `winograd_tiles` and `convolution` come into effect, and are gone afterwards.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "cfunc", lambda signature, cache: numba.cfunc(signature))
        for kind in (convolution.PLAIN, convolution.DOWN0, convolution.DOWN1, convolution.UP):
            for name in ("tiles", "back_tiles"):
                patch.setattr(kind, name, TileKernels(getattr(kind, name).algorithm))
        # Plans hold addresses of tile functions
        for plan in PLANS:
            plan.cache_clear()
        try:
            yield
        finally:
            patch.undo()
            for plan in PLANS:
                plan.cache_clear()
