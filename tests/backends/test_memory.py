"""What operations keep for backward is what is declared, and the pool of memory hands out places soundly."""

import gc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import backends
from backends import OPS
from backends.finite_check import arrays
from backends.numba_kernels.runtime.pool import POOL, Pool
from backends.testing import CASES, SHAPES, Arguments, check_context, single
from tests.backends.in_namespaces import DIFFERENTIABLE

BACKENDS = {"numpy": CASES, "numba": SHAPES}


def with_views(case: Arguments) -> Arguments:
    """The case, its arrays views into larger ones, as the rows of a batch or a third of a projection are."""
    return {
        name: np.stack([value, value])[1] if isinstance(value, np.ndarray) and value.ndim else value
        for name, value in case.items()
    }


@pytest.mark.parametrize("views", [False, True], ids=["whole", "views"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", DIFFERENTIABLE)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_ctx_holds_what_is_declared(name: str, backend: str, views: bool, data: st.DataObject):
    case = data.draw(BACKENDS[backend][name])
    case = single(case) if backend == "numba" else case
    case = with_views(case) if views else case
    check_context(OPS[name], case, getattr(backends.get(backend), name)(**case)[1])


def test_the_check_notices():
    """An array too many, a copy in place of an argument, an argument that is not kept, one that is kept unsaid."""
    case = {"x": np.ones((2, 3, 3, 4)), "gamma": np.ones(4), "beta": np.ones(4), "groups": 2}
    _, ctx = OPS["group_norm"].forward(np, **case)
    check_context(OPS["group_norm"], case, ctx)
    wrong = [(ctx, np.zeros(7)), ctx._replace(x=ctx.x + 1), ctx._replace(beta=None), ctx._replace(x=ctx.x[:1].copy())]
    for bad in wrong:
        with pytest.raises(AssertionError):
            check_context(OPS["group_norm"], case, bad)
    with pytest.raises(AssertionError):
        check_context(replace(OPS["group_norm"], keeps=("x", "gamma")), case, ctx)


def test_only_what_has_a_backward_keeps_anything():
    for op in OPS.values():
        assert op.backward or not (op.keeps or op.makes), op.name


def test_only_the_arrays_in_ctx_stay():
    """Nothing else holds a result's memory, such as a closure: with ctx gone all is given back."""
    be = backends.get("numba")
    x, weight = np.ones((4, 16, 16, 32), np.float32), np.ones((3, 3, 32, 32), np.float32)
    be.conv2d(x, weight, None, 1, 1)
    gc.collect()
    POOL.take_back()
    before = POOL.used
    y, ctx = be.conv2d(x, weight, None, 1, 1)
    POOL.take_back()
    assert POOL.used - before == y.nbytes
    del y
    be.conv2d_backward(np.ones((4, 16, 16, 32), np.float32), ctx)
    POOL.take_back()
    assert POOL.used == before


# --- what is left in memory does not matter ---


def poisoned(value: float) -> None:
    """Fills the free memory of the pool."""
    blocks = [POOL.empty((1 << k,)) for k in range(22, 11, -1) for _ in range(4)]
    for block in blocks:
        block[:] = value


@pytest.mark.parametrize("name", backends.get("numba").overrides())
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_results_do_not_depend_on_what_was_left_in_memory(name: str, data: st.DataObject):
    be, op, case = backends.get("numba"), OPS[name], single(data.draw(SHAPES[name]))
    results = []
    for left in (0.0, np.nan):
        poisoned(left)
        # Some operations write to their arguments
        result = getattr(be, name)(**{k: v.copy() if isinstance(v, np.ndarray) else v for k, v in case.items()})
        found = list(arrays(result))
        if op.backward is not None:
            y, ctx = result
            poisoned(left)
            found += arrays(getattr(be, f"{name}_backward")(np.ones_like(y), ctx))
        results.append([np.array(a) for a in found])
    for zeros, nans in zip(*results, strict=True):
        np.testing.assert_array_equal(zeros, nans)


# --- the pool ---


class TestPool:
    def test_places_are_aligned_and_apart(self) -> None:
        pool, rng, kept = Pool(smallest=1), np.random.default_rng(0), {}
        for number in range(500):
            if kept and rng.random() < 0.4:
                del kept[int(rng.choice(list(kept)))]
            x = pool.empty((int(rng.integers(1, 5000)),), rng.choice(["float32", "float64", "uint8"]))
            assert x.ctypes.data % 64 == 0
            x[:] = number % 251
            kept[number] = x
            for n, other in kept.items():
                assert (other == n % 251).all()
        pool.take_back()
        assert pool.used == sum(-(-x.nbytes // 64) * 64 for x in kept.values())

    def test_what_is_free_again_is_joined(self) -> None:
        pool = Pool()
        parts = [pool.empty((1 << 14,)) for _ in range(4)]
        held, first = pool.held, parts[0]
        address = first.ctypes.data
        del parts, first
        assert pool.empty((4 << 14,)).ctypes.data == address
        assert pool.held == held

    def test_the_smallest_place_that_holds_it_is_taken(self) -> None:
        pool = Pool()
        large, _a, small, _b = (pool.empty((n << 12,)) for n in (8, 1, 3, 1))
        addresses = small.ctypes.data, large.ctypes.data
        del large, small
        assert (pool.empty((2 << 12,)).ctypes.data, pool.empty((5 << 12,)).ctypes.data) == addresses

    def test_peak_is_the_most_at_once(self) -> None:
        pool = Pool()
        size = 1 << 20
        x = pool.empty((size,), np.uint8)
        y = pool.empty((size,), np.uint8)
        del x, y
        pool.empty((size,), np.uint8)
        assert (pool.used, pool.peak, pool.held) == (size, 2 * size, 2 * size)

    def test_a_request_larger_than_a_chunk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("backends.numba_kernels.runtime.pool.CHUNK", 1 << 20)
        pool = Pool()
        x, y = pool.empty((1 << 19,), np.uint8), pool.empty((1 << 21,), np.uint8)
        assert len(pool.chunks) == 2
        assert pool.held == x.nbytes + y.nbytes
        del y
        pool.clear()
        assert [chunk.memory.size for chunk in pool.chunks] == [1 << 20]
        del x
        pool.clear()
        assert (pool.chunks, pool.held, pool.used) == ([], 0, 0)

    def test_small_and_empty_arrays_are_numpys_own(self) -> None:
        pool = Pool()
        assert pool.empty((10, 10)).base is None
        assert pool.empty((0, 1 << 20)).shape == (0, 1 << 20)
        assert pool.empty(()).shape == ()
        assert pool.held == 0

    def test_repeated_steps_are_laid_out_alike(self) -> None:
        """Sizes of a step in an order that leaves holes: after the first time the pool holds enough."""
        pool, rng = Pool(), np.random.default_rng(1)
        sizes, ends = rng.integers(1 << 14, 1 << 20, 60), rng.integers(1, 30, 60)
        held = []
        for _ in range(4):
            kept: dict[int, Any] = {}
            for i, size in enumerate(sizes):
                kept[i] = pool.empty((int(size),), np.uint8)
                for j in [j for j in kept if j + ends[j] <= i]:
                    del kept[j]
            kept.clear()
            held.append(pool.held)
        assert held[1:] == held[:1] * 3
        assert held[0] < 1.3 * pool.peak
