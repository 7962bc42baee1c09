"""Noise of the CUDA kernels is the CPU's, number by number."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from backends import OPS, CupyBackend
from tests.emulation.compiler import missing
from tests.emulation.device import cupy_backend

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


def test_a_graph_draws_other_numbers_at_each_step(backend: CupyBackend) -> None:
    xp, shape = backend.xp, (2, 9)
    stream, step = xp.cuda.Stream(non_blocking=True), xp.asarray(np.array(3, np.int64))
    arena = xp.empty(1 << 12, np.uint8)
    places = iter(range(0, 1 << 12, 512))

    def draws() -> list[Any]:
        x, _ = backend.random_normal(shape, 1, 2, step)
        y, drawn = backend.dropout(x, 0.5, 1, 3, step)
        return [x, y, *backend.dropout_backward(x, drawn)]

    draws()
    with stream, xp.cuda.using_allocator(lambda size: arena.data + next(places)):
        stream.begin_capture()
        captured = draws()
        graph = stream.end_capture()
    for number in (4, 2**32 - 1):
        step[...] = number
        graph.launch(stream)
        stream.synchronize()
        x, _ = OPS["random_normal"].forward(np, shape, 1, 2, number)
        y, _ = OPS["dropout"].forward(np, x, 0.5, 1, 3, number)
        for ours, wanted in zip(captured, (x, y, y), strict=True):
            np.testing.assert_allclose(ours.get(), wanted, rtol=1e-6, atol=1e-7)
