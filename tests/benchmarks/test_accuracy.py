"""The benchmark of rounding errors."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="the exact results are PyTorch's, of the extra .[parity]")

from benchmarks import accuracy
from benchmarks.accuracy import ALL, MEASURES, PEERS


def test_errors_of_a_run():
    exact = {"output": np.ones((2, 2)), "dx": np.ones(4), "a": np.array([3.0, 4.0]), "b": np.array([[0.0], [12.0]])}
    found = {**exact, "output": 1.5 * exact["output"], "a": np.array([3.0, 4.5]), "b": np.array([[0.6], [12.0]])}
    errors = accuracy.run_errors(found, exact)
    # Norms: a 5, b 12, both 13; differences 0.5 and 0.6
    assert errors.pop("tensor") == "a"
    assert errors == pytest.approx({"output": 0.5, "dx": 0, "gradient": np.hypot(0.5, 0.6) / 13, "worst tensor": 0.1})


def test_summary():
    runs = [{**dict.fromkeys(MEASURES, value), "tensor": f"w{value}"} for value in (3, 1, 9)]
    row = accuracy.summary("net", "numba", runs)
    assert row.pop("tensor") == "w9"
    assert row == {
        "network": "net",
        "peer": "numba",
        **dict.fromkeys(MEASURES, 3),
        **{f"{measure} max": 9 for measure in MEASURES},
    }


def test_smoke():
    rows = accuracy.rows(True, 2, "")
    names = [(accuracy.SMOKE, peer) for peer in PEERS] + [(ALL, peer) for peer in PEERS]
    assert [(row["network"], row["peer"]) for row in rows] == names
    for row in rows:
        low, high = (1e-17, 1e-12) if "float64" in row["peer"] else (1e-8, 2.5e-5)
        assert all(low < row[measure] <= row[f"{measure} max"] < high for measure in MEASURES), row


def test_a_name_unknown():
    with pytest.raises(ValueError, match="no network's name holds 'nothing'; there are default; "):
        accuracy.rows(False, 1, "nothing")
