"""Compiled tiles rebuilt while a mistake is on: machine code does not follow the Python function it was made of."""

from collections.abc import Iterator
from contextlib import contextmanager

import numba
import pytest

from backends.numba_kernels.convolution import kinds, tiled
from backends.numba_kernels.convolution.tiles import TileKernels
from backends.numba_kernels.runtime import launch

PLANS = tiled.forward_plan, tiled.gradient_plan


@contextmanager
def tiles_made_anew() -> Iterator[None]:
    """All convolutions compile their tile functions again, for as long as the context lasts and not onto the disk.

    So mistakes in `algorithms`, `tiles`, `kinds`, layouts and plans come into effect, and are gone afterwards. Workers
    whose `compiled` is None then are compiled likewise.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "cfunc", lambda signature, cache, **options: numba.cfunc(signature, **options))
        for kind in kinds.KINDS:
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
