"""Every rung of the CUDA ladder against the reference operation in float64, emulated, at sides that no tile divides."""

from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest

from benchmarks.ladder.cuda import measure
from benchmarks.ladder.cuda.rungs import ROUNDED, RUNGS
from benchmarks.ladder.rows import Shape, definition, errors
from tests.emulation.compiler import missing
from tests.emulation.cupy.kernels import running
from tests.emulation.device import standing_in

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.fixture
def device() -> Iterator[ModuleType]:
    with standing_in() as module:
        yield module


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("rung", RUNGS)
def test_rung_equals_the_reference(device: ModuleType, rung: str, checked: bool) -> None:
    for images, height, width, outputs in ((2, 5, 9, 64), (3, 4, 7, 96), (1, 1, 2, 32)):
        rng = np.random.default_rng(height)
        x = rng.standard_normal((images, height, width, 32), np.float32)
        w = rng.standard_normal((3, 3, 32, outputs), np.float32)
        expected = definition(x, w)
        with running(checked=checked):
            y = RUNGS[rung](device.asarray(x), device.asarray(w)).get()
        assert (y.shape, y.dtype) == (expected.shape, np.float32)
        assert errors(y, expected)[1] < (5e-4 if rung in ROUNDED else 2e-6)


def test_all_rungs_are_checked_and_timed(device: ModuleType) -> None:
    found = measure.rows_of(Shape(1, 32, 32, 4), rounds=1)
    assert [row["peer"] for row in found] == list(RUNGS)
    for row in found:
        assert row["relative error"] < (5e-4 if row["peer"] in ROUNDED else 2e-6)
        assert row["ms"] > 0
