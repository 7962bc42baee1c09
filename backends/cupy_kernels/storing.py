"""Launcher of storing.cu: what is stored within a context is stored at its end, all at once."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from backends.backend import Backend
from backends.cupy_kernels.normalization import are_floats
from backends.cupy_kernels.runtime.launch import THREADS, Kernel, ceil

STORE_MANY = Kernel("storing.cu", "store_many")
# Arrays of a launch, and blocks that share one
MANY, MOST_BLOCKS = 32, 64
SIZES = np.dtype([("of", np.int32, MANY)])


class Waiting(threading.local):
    """What this thread has yet to store, by the target's address; None outside of a context."""

    pairs: dict[int, tuple[Any, Any]] | None = None


WAITING = Waiting()


class Storing(Backend):
    """`store`, one by one or together."""

    def store(self, source: Any, target: Any) -> None:
        pairs = WAITING.pairs
        if pairs is not None and are_floats(source, target) and source.shape == target.shape and target.size:
            pairs[target.data.ptr] = source, target
        else:
            super().store(source, target)

    @contextmanager
    def storing(self) -> Iterator[None]:
        outer, WAITING.pairs = WAITING.pairs, {}
        try:
            yield
            pairs = list(WAITING.pairs.values())
            for first in range(0, len(pairs), MANY):
                store_together(pairs[first : first + MANY])
        finally:
            WAITING.pairs = outer


def store_together(pairs: list[tuple[Any, Any]]) -> None:
    """target[...] = source of at most MANY pairs of float32 arrays, each of one shape and contiguous."""
    none = [None] * (MANY - len(pairs))
    sizes = np.zeros((), SIZES)
    sizes["of"][: len(pairs)] = [target.size for _, target in pairs]
    blocks = min(MOST_BLOCKS, ceil(int(sizes["of"].max()), THREADS))
    sources, targets = zip(*pairs, strict=True)
    STORE_MANY.run((blocks, MANY), *sources, *none, *targets, *none, sizes)
