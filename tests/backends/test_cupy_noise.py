"""Noise of the CUDA kernels is the CPU's, number by number."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from backends import OPS, CupyBackend
from tests.emulation.compiler import missing
from tests.emulation.cupy.kernels import running
from tests.emulation.device import cupy_backend, displaced

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

KEY = (0xDEADBEEF_12345678, 7, 0xFFFFFFF0)


@pytest.fixture(scope="module")
def backend() -> Iterator[CupyBackend]:
    with cupy_backend() as backend:
        yield backend


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["random_normal", "random_uniform"])
def test_numbers_are_the_reference_s_to_two_bits(backend: CupyBackend, name: str, dtype: str) -> None:
    ours = backend.to_numpy(getattr(backend, name)((5, 4001), *KEY, dtype=dtype)[0])
    wanted, _ = OPS[name].forward(np, (5, 4001), *KEY, dtype=np.dtype(dtype))
    # Relative to 1: a normal number is a product with a sine that may be near zero
    off = np.abs(ours.astype(np.float64) - wanted)
    assert ours.dtype == dtype
    assert np.all(off <= 2 * np.finfo(dtype).eps * np.maximum(np.abs(wanted), 1))
    assert np.mean(ours == wanted) > 0.9


def test_masks_are_the_reference_s(backend: CupyBackend) -> None:
    ours = backend.to_numpy(backend.dropout_mask((3, 1111), 0.3, *KEY)[0])
    np.testing.assert_array_equal(ours, OPS["dropout_mask"].forward(np, (3, 1111), 0.3, *KEY)[0])


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (5,)])
def test_shapes_without_a_whole_block(backend: CupyBackend, shape: tuple[int, ...]) -> None:
    ours = backend.to_numpy(backend.random_uniform(shape, *KEY)[0])
    np.testing.assert_array_equal(ours, OPS["random_uniform"].forward(np, shape, *KEY)[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("first", [1, 2, 3, 4, 2**34 + 1])
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (3, 5), (1001, 3)])
def test_rows_of_a_longer_array_are_drawn_wherever_they_begin(
    backend: CupyBackend, shape: tuple[int, ...], first: int, dtype: str
) -> None:
    """In the middle of a block, and past 2^32 blocks."""
    ours = backend.to_numpy(backend.random_uniform(shape, *KEY, dtype=dtype, first=first)[0])
    wanted, _ = OPS["random_uniform"].forward(np, shape, *KEY, dtype=np.dtype(dtype), first=first)
    np.testing.assert_array_equal(ours, wanted)
    x = backend.asarray(np.ones(shape, np.float32))
    y, drawn = backend.dropout(x, 0.3, *KEY, first)
    wanted, _ = OPS["dropout_mask"].forward(np, shape, 0.3, *KEY, first=first)
    np.testing.assert_array_equal(backend.to_numpy(y), wanted)
    np.testing.assert_array_equal(backend.to_numpy(backend.dropout_backward(x, drawn)[0]), wanted)


@pytest.mark.parametrize("begin", [0, 1, 2, 3])
def test_dropout_of_an_array_at_any_address(backend: CupyBackend, begin: int) -> None:
    """One at a multiple of 16 bytes is moved 16 bytes at once."""
    shape = (2, 8)
    x = displaced(backend, np.ones(shape, np.float32), begin)
    with running(checked=True, seed=0):
        y, drawn = backend.dropout(x, 0.3, *KEY)
        (dx,) = backend.dropout_backward(x, drawn)
    wanted, _ = OPS["dropout_mask"].forward(np, shape, 0.3, *KEY)
    np.testing.assert_array_equal(backend.to_numpy(y), wanted)
    np.testing.assert_array_equal(backend.to_numpy(dx), wanted)


def test_rows_beyond_the_last_position_are_refused(backend: CupyBackend) -> None:
    for first in (-1, 2**63 - 1):
        with pytest.raises(ValueError, match=r"^Philox takes positions from 0 "):
            backend.random_normal((2,), *KEY, first=first)


def test_a_graph_draws_other_numbers_at_each_step_and_place(backend: CupyBackend) -> None:
    xp, shape = backend.xp, (2, 9)
    stream, step = xp.cuda.Stream(non_blocking=True), xp.asarray(np.array(3, np.int64))
    first = xp.asarray(np.array(0, np.int64))
    arena = xp.empty(1 << 12, np.uint8)
    places = iter(range(0, 1 << 12, 512))

    def draws() -> list[Any]:
        x, _ = backend.random_normal(shape, 1, 2, step, first=first)
        y, drawn = backend.dropout(x, 0.5, 1, 3, step, first)
        return [x, y, *backend.dropout_backward(x, drawn)]

    draws()
    with stream, xp.cuda.using_allocator(lambda size: arena.data + next(places)):
        stream.begin_capture()
        captured = draws()
        graph = stream.end_capture()
    for number, row in ((4, 0), (2**32 - 1, 7), (5, 2**40)):
        step[...], first[...] = number, row
        graph.launch(stream)
        stream.synchronize()
        x, _ = OPS["random_normal"].forward(np, shape, 1, 2, number, first=row)
        y, _ = OPS["dropout"].forward(np, x, 0.5, 1, 3, number, row)
        for ours, wanted in zip(captured, (x, y, y), strict=True):
            np.testing.assert_allclose(ours.get(), wanted, rtol=1e-6, atol=1e-7)
