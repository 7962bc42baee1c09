"""The session on a GPU, rehearsed on the stand-in."""

import json
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends
from benchmarks.gpu import bare, tiles
from benchmarks.gpu.checks import errors
from benchmarks.gpu.kernels import summary
from benchmarks.gpu.run import run
from benchmarks.gpu.session import Session
from benchmarks.gpu.speed import alternate, seconds_of
from benchmarks.operation_cases import CASES
from tests.emulation.compiler import missing


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_a_rehearsal_finds_everything_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_instance", cache(backends._instance.__wrapped__))
    sections = "rates, check fp32, steps fp32, operations, networks, cpu, learning, crossover"
    assert run(8, tmp_path, sections, True) == 0
    found = json.loads((tmp_path / "gpu.json").read_text(), parse_constant=pytest.fail)
    assert found["about"]["gpu"] == "emulated"
    assert found["failures"] == []
    assert all(row["right"] and row["error"] < 1e-5 for row in [*found["checks"], *found["steps"]])
    assert [row["step"] for row in found["steps"]] == ["eager", "captured", "replayed"]
    assert {"cupy", "cupy, no graph", "numba", "numpy"} <= {row["peer"] for row in found["networks"]}
    for rows in ("checks", "operations"):
        assert {row["case"].split()[0] for row in found[rows]} == {case.op for case in CASES}
    for name in ("gpu-networks.png", "gpu-operations.png", "gpu-crossover.png", "gpu-digits-tf32.png"):
        assert (tmp_path / name).stat().st_size > 100
    assert "0 wrong results, 0 failures" in (tmp_path / "gpu.log").read_text()


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_tiles_are_tried_each_beside_the_one_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_instance", cache(backends._instance.__wrapped__))
    monkeypatch.setattr(tiles, "PATCH_TILES", tiles.PATCH_TILES[4:5])
    monkeypatch.setattr(tiles, "UNIT_TILES", {taps: some[:1] for taps, some in tiles.UNIT_TILES.items()})
    monkeypatch.setattr(tiles, "SHARED_OUT", (1,))
    assert run(8, tmp_path, "tiles tf32", True) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert {row["kernel"] for row in found["tiles"]} == {"convolve", "weight_gradient"}
    tried = [row for row in found["tiles"] if row["best"]]
    assert len(tried) > 10
    assert all(row["off"] < 1e-2 for row in tried)
    for name in ("train-2", "forward-2"):
        rows = json.loads((tmp_path / f"gpu-tiles-tf32-{name}.json").read_text())
        assert sum(row["count"] for row in rows) >= len(rows) > 0


def test_a_trace_is_summed_by_kernel() -> None:
    events = [{"name": "a", "us": 2.0}, {"name": "b", "us": 5.0}, {"name": "a", "us": 4.0}]
    assert summary(events) == [{"name": "a", "calls": 2, "us": 6.0}, {"name": "b", "calls": 1, "us": 5.0}]


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any, **__: Any) -> Any:
        raise backends.BackendUnavailable("no CUDA device answers")

    monkeypatch.setattr(backends, "get", none)
    assert run(8, None, "", False) == 2
    assert capsys.readouterr().out == "error: no CUDA device answers\n"


def test_a_section_that_fails_is_told_and_the_next_runs(tmp_path: Path) -> None:
    session = Session(tmp_path, 60, {"gpu": "none"})

    def fails() -> None:
        session.row("checks", case="a", error=0.5)
        raise RuntimeError("first line\nsecond line") from ValueError("the compiler's words")

    session.section("one", fails)
    session.section("two", lambda: session.row("checks", case="b", error=0.25))
    session.section("three", lambda: session.row("checks", case="c", error=0.0), least=1000)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["case"] for row in found["checks"]] == ["a", "b"]
    assert [failure["what"] for failure in found["failures"]] == ["one", "three"]
    assert found["failures"][0]["causes"] == ["ValueError: the compiler's words"]
    log = (tmp_path / "gpu.log").read_text()
    assert "FAILED one: RuntimeError: first line\n" in log
    assert "second line" in log
    assert "test_gpu.py" in log


def test_errors_name_the_place() -> None:
    wanted = [np.ones((2, 3)), np.ones(2)]
    (first, where), (second, nans) = errors([np.array([[1, 1, 1], [1, 3, 1]]), np.array([1, np.nan])], wanted)
    assert first == pytest.approx(2 / 6**0.5)
    assert "worst at (1, 1): 3, not 1; 0 NaNs" in where
    assert second != second
    assert "(1,)" in nans
    assert "1 NaNs" in nans
    assert errors([np.ones(3)], [np.ones(2)])[0][0] == np.inf


def test_turns_alternate_and_wait_at_their_end() -> None:
    told: list[str] = []
    peers = {name: (lambda name=name: told.append(name), lambda name=name: told.append(f"{name}!")) for name in "ab"}
    alternate(peers, 2, 0.0)
    turn = [each for name in "ab" for each in (f"{name}!", name, f"{name}!", name, f"{name}!")]
    assert told == ["a", "a", "a", "a!", "b", "b", "b", "b!", *turn, *turn]


def test_a_turn_is_of_as_many_runs_as_fill_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock of its own: a run takes 3 s, a wait 1 s, of which the turn's last counts."""
    clock = [0.0]

    def passes(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    # The first run takes 4 s with its wait, so that 5 fill a turn of 20 s
    assert seconds_of(lambda: passes(3.0), lambda: passes(1.0), 20.0) == (5 * 3.0 + 1.0) / 5


def test_modules_that_are_missing_are_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bare, "SPARED", ("no_such_module", "no_such_module.numpy"))
    assert bare.spare() == ["no_such_module", "no_such_module.numpy"]
    try:
        from no_such_module import SomeError, opened  # type: ignore[import-not-found]
        from no_such_module.numpy import save  # type: ignore[import-not-found]

        assert issubclass(SomeError, Exception)
        with opened("x") as file:
            assert list(file.keys()) == []
        save({})
    finally:
        for name in bare.SPARED:
            sys.modules.pop(name)
    monkeypatch.setattr(bare, "SPARED", ("numpy",))
    assert bare.spare() == []
