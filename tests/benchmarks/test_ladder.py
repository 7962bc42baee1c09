"""Every rung of the ladder against the reference operation in float64, at sides that no block divides."""

import numpy as np
import pytest

from benchmarks.ladder.cpu import measure
from benchmarks.ladder.cpu.measure import RUNGS
from benchmarks.ladder.rows import Shape, definition, errors


@pytest.mark.parametrize("rung", RUNGS)
def test_rung_equals_the_reference(rung: str) -> None:
    for images, height, width in ((2, 5, 9), (3, 4, 13), (1, 1, 2)):
        rng = np.random.default_rng(height)
        x = rng.standard_normal((images, height, width, 32), np.float32)
        w = rng.standard_normal((3, 3, 32, 64), np.float32)
        expected = definition(x, w)
        y = RUNGS[rung](x, w)
        assert (y.shape, y.dtype) == (expected.shape, np.float32)
        assert errors(y, expected)[1] < 5e-6


def test_a_wrong_rung_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = RUNGS["v2_im2col"]

    def wrong(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        y = right(x, w)
        y[0, -1, -1] += 0.01
        return y

    def timed(call: object) -> float:
        raise AssertionError("it was timed")

    monkeypatch.setattr(measure, "RUNGS", {"right": right, "wrong": wrong})
    monkeypatch.setattr(measure, "seconds", timed)
    with pytest.raises(RuntimeError, match=r"^wrong, 32->32, 6x6: off by .*no use to time it$"):
        measure.rows_of(Shape(2, 32, 32, 6), rounds=1)
