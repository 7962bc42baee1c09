"""Kernels write only where they may: guards around every pooled array, and behind every place of a kernel's scratch,
must stay as they were."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import backends
from backends import OPS, thread_count
from backends.numba_kernels.convolution.tiled import forward_plan, gradient_plan
from backends.numba_kernels.runtime import layouts
from backends.numba_kernels.runtime.layouts import Layout
from backends.numba_kernels.runtime.pool import ALIGNMENT, Pool
from tests.backends.test_memory import single
from tests.backends.test_numba import OVERRIDDEN, SHAPES, WAYS, convolutions

BACKEND = backends.get("numba")
# Bytes on either side of each array, and what they hold
GUARD, MARK = 4096, 0xA5
PLANS = forward_plan, gradient_plan


class Shape(tuple):
    """The shape of a scratch array that knows its layout and for how many parts it is."""

    layout: Layout
    parts: int


class Guarded(NamedTuple):
    """An array's memory with its guards, and the shape that was asked for."""

    memory: np.ndarray
    start: int
    size: int
    shape: tuple[int, ...]

    def damage(self) -> str | None:
        """Where a guard was overwritten, in bytes from the array's start or end; None if both are whole."""
        end = self.start + self.size
        for side, first, guard in (("before", 0, self.memory[: self.start]), ("after", end, self.memory[end:])):
            spoiled = np.flatnonzero(guard != MARK)
            if spoiled.size:
                place = first + spoiled[0] - end if side == "after" else self.start - spoiled[-1]
                return f"{spoiled.size} bytes {side} an array {self.shape} of {self.size} bytes, {place} bytes away"
        return self.damage_within() if isinstance(self.shape, Shape) else None

    def damage_within(self) -> str | None:
        """Which place of a scratch was overrun, and by how many bytes at least."""
        layout = self.shape.layout
        names = [name.removesuffix("_at") for name in layout.fields if name.endswith("_at")]
        for part in range(self.shape.parts):
            for name, gap in zip(names, layout.gaps, strict=True):
                first = self.start + part * layout.bytes + gap
                spoiled = np.flatnonzero(self.memory[first : first + layouts.GAP] != MARK)
                if spoiled.size:
                    return f"{spoiled.size} bytes behind place {name} of part {part}, {spoiled[0]} bytes away"
        return None


class Guards:
    """Stands in for the pool: arrays between guards, all of them kept until they were looked at."""

    def __init__(self) -> None:
        self.arrays: list[Guarded] = []

    def empty(self, shape: Any, dtype: Any = np.float32) -> np.ndarray:
        shape = shape if isinstance(shape, Shape) else tuple(shape)
        dtype = np.dtype(dtype)
        count = int(np.prod(shape, dtype=np.int64))
        size = count * dtype.itemsize
        memory = np.full(size + 2 * GUARD + ALIGNMENT, MARK, np.uint8)
        start = GUARD + -(memory.ctypes.data + GUARD) % ALIGNMENT
        self.arrays.append(Guarded(memory, start, size, shape))
        return np.frombuffer(memory.data, dtype, count, start).reshape(shape)

    def check(self, call: str) -> None:
        """Raises AssertionError that names the call and the first array beside which something was written."""
        for array in self.arrays:
            damage = array.damage()
            assert damage is None, f"{call} overwrote {damage}"
        self.arrays.clear()


@contextmanager
def guarded() -> Iterator[Guards]:
    guards = Guards()

    def floats(self: Layout, parts: int) -> Shape:
        shape = Shape((parts * self.bytes // 4,))
        shape.layout, shape.parts = self, parts
        return shape

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pool, "empty", lambda self, shape, dtype=np.float32: guards.empty(shape, dtype))
        patch.setattr(layouts, "GAP", GUARD)
        patch.setattr(Layout, "floats", floats)
        # They hold places
        for plan in PLANS:
            plan.cache_clear()
        try:
            yield guards
        finally:
            for plan in PLANS:
                plan.cache_clear()


def run_guarded(name: str, case: dict[str, Any]) -> None:
    """The operation and its backward; each call's arrays must stay whole."""
    # Arguments between guards as well: a kernel that writes into its inputs' surroundings is noticed too
    with guarded() as guards:
        copies = {}
        for key, value in single(case).items():
            copies[key] = value
            if isinstance(value, np.ndarray):
                copies[key] = guards.empty(value.shape, value.dtype)
                copies[key][...] = value
        inputs = list(guards.arrays)
        result = getattr(BACKEND, name)(**copies)
        guards.check(name)
        if OPS[name].backward is not None:
            y, ctx = result
            guards.arrays += inputs
            getattr(BACKEND, f"{name}_backward")(np.ones_like(y), ctx)
            guards.check(f"{name}_backward")


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


# An operation for each layout, at sizes that fill its places, and the way that a convolution takes
LAYOUTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    way: ("conv2d", way, {"x": normal(2, 9, 9, 48), "weight": normal(3, 3, 48, 64), "bias": normal(64), "padding": 1})
    for way in WAYS[1:]
} | {
    "few channels": (
        "conv2d", WAYS[0], {"x": normal(2, 5, 7, 3), "weight": normal(3, 3, 3, 48), "bias": normal(48), "padding": 1}
    ),
    "product": ("linear", WAYS[0], {"x": normal(40, 32), "weight": normal(32, 48), "bias": normal(48)}),
    "attention": (
        "attention", WAYS[0], {"q": normal(2, 40, 40), "k": normal(2, 37, 40), "v": normal(2, 37, 40), "num_heads": 2}
    ),
    "normalisation": (
        "group_norm", WAYS[0], {"x": normal(2, 4, 4, 40), "gamma": normal(40), "beta": normal(40), "groups": 4}
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_kernels_stay_within_the_places_of_their_scratch(layout: str):
    name, way, case = LAYOUTS[layout]
    with convolutions(way):
        run_guarded(name, case)


@pytest.mark.parametrize("name", OVERRIDDEN)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_kernels_write_only_into_their_arrays(name: str, data: st.DataObject):
    """At any number of threads: scratch is cut into as many parts."""
    setting = thread_count.Setting(data.draw(st.sampled_from([1, 2, 3, 8])), "a test")
    way = data.draw(st.sampled_from(WAYS)) if "conv2d" in name else WAYS[0]
    with convolutions(way), pytest.MonkeyPatch.context() as patch:
        patch.setattr(thread_count, "_chosen", setting)
        run_guarded(name, data.draw(SHAPES[name]))


def test_an_overwritten_guard_is_named():
    for place, words in ((-1, "before"), (0, None), (23, None), (24, "after")):
        with guarded() as guards:
            array = guards.empty((2, 3))
            guards.arrays[0].memory[guards.arrays[0].start + place] = 0
            assert array.shape == (2, 3)
            if words is None:
                guards.check("nothing")
            else:
                with pytest.raises(
                    AssertionError, match=rf"silu overwrote 1 bytes {words} an array \(2, 3\) of 24 bytes"
                ):
                    guards.check("silu")
