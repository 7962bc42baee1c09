"""Training over MPI ranks: the model of a sum's cost, what the tables come to, and the smoke run itself."""

import importlib.util
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.ranks import cost, run, start, turns
from benchmarks.ranks.cost import Link
from benchmarks.workloads import SMOKE

LINK = Link(latency=1e-3, bandwidth=1e9)


@pytest.mark.parametrize(
    ("ranks", "seconds"),
    [
        (2, 2 * 1e-3 + 4e-3),
        (4, 4 * 1e-3 + 6e-3),
        # Two halvings for three ranks too
        (3, 4 * 1e-3 + 16e-3 / 3),
        (512, 18 * 1e-3 + 8e-3 * 511 / 512),
    ],
)
def test_seconds_of_a_sum_of_four_megabytes(ranks: int, seconds: float) -> None:
    assert cost.seconds_of_sum(LINK, ranks, 4 * 10**6) == pytest.approx(seconds, rel=1e-14)


def test_links_in_a_row() -> None:
    found = Link(1e-6, 3e9).then(Link(2e-6, 6e9))
    assert (found.latency, found.bandwidth) == pytest.approx((3e-6, 2e9), rel=1e-14)


@pytest.mark.parametrize("ranks", [2, 8])
@pytest.mark.parametrize("link", [LINK, Link(1.5e-6, 7e9)])
def test_the_fit_finds_what_the_times_were_made_of(ranks: int, link: Link) -> None:
    made = [(size, cost.seconds_of_sum(link, ranks, size)) for size in run.SIZES]
    found = cost.fit(ranks, made)
    assert (found.latency, found.bandwidth) == pytest.approx((link.latency, link.bandwidth), rel=1e-9)


def test_the_fit_counts_relative_errors() -> None:
    # Two equations that contradict each other, for the latency alone: least squares of 2 x/t - 1 with t = 1 and 3
    found = cost.fit(2, [(0, 1.0), (0, 3.0), (10**9, 1e6)])
    assert found.latency == pytest.approx((1 + 1 / 3) / (2 * (1 + 1 / 9)), rel=1e-6)


def test_efficiencies() -> None:
    assert cost.weak_efficiency(1.0, 1.25) == pytest.approx(0.8)
    assert cost.strong_efficiency(1.0, 0.625, 2) == pytest.approx(0.8)


def test_extrapolated_by_hand() -> None:
    rows = cost.extrapolated(Link(0.0, math.inf), {"a": (0.5, 10**9), "b": (1.0, 10**8)})
    assert len(rows) == 2 * len(cost.RANKS) * len(cost.GBITS)
    # 10 Gbit/s are 1.25e9 bytes a second; 8 ranks send 2 · 7/8 of 1e9 bytes, in 6 messages
    exchange = 1.4 + 6 * cost.ASSUMED_LATENCY
    found = next(row for row in rows if (row["network"], row["Gbit/s"], row["ranks"]) == ("a", 10, 8))
    assert found["sum ms"] == pytest.approx(1e3 * exchange)
    assert found["step ms"] == pytest.approx(1e3 * (0.5 + exchange))
    assert found["efficiency"] == pytest.approx(0.5 / (0.5 + exchange))


def test_what_the_machine_itself_takes_is_not_the_ranks() -> None:
    middle = {"alone": [1.0, 0, 0], "beside": [1.25, 0, 0], "weak": [1.25, 0.1, 0.025], "strong": [0.8, 0.1, 0.04]}
    alone, beside, weak, strong = turns.step_rows(middle, 2, 64)
    assert [row["efficiency"] for row in (alone, beside, weak, strong)] == pytest.approx([1, 0.8, 0.8, 0.625])
    assert [row["of the machine's"] for row in (beside, weak, strong)] == pytest.approx([1, 1, 0.78125])
    assert [row["images each"] for row in (alone, beside, weak, strong)] == [64, 64, 64, 32]
    assert [row["processes"] for row in (alone, beside, weak, strong)] == [1, 2, 2, 2]
    assert (weak["share summed"], strong["share summed"]) == pytest.approx((0.02, 0.05))


def test_numbers_of_ranks() -> None:
    assert start.sizes_of_worlds(1, 64) == [2]
    assert start.sizes_of_worlds(6, 64) == [2, 4]
    assert start.sizes_of_worlds(16, 64) == [2, 4, 8, 16]
    assert start.sizes_of_worlds(64, 4) == [2, 4]


@pytest.mark.parametrize(("summed", "verdict"), [(0.02, "held"), (0.021, "NOT HELD")])
@pytest.mark.parametrize(("alone", "scaled"), [(0.95, "95.0%, held"), (0.949, "94.9%, NOT HELD")])
def test_summary(summed: float, verdict: str, alone: float, scaled: str) -> None:
    middle = {"alone": [alone, 0, 0], "beside": [alone / 0.8, 0, 0], "weak": [1.0, 0, summed], "strong": [0.5, 0, 0.02]}
    pieces = {"ranks": 2, "pieces": 16, "times whole": 1.5, "share left": 0.9}
    tables: dict[str, list[dict[str, Any]]] = {
        "steps": turns.step_rows(middle, 2, 64),
        "sums": [{"ms": 2.0, "model ms": 1.0}, {"ms": 2.0, "model ms": 2.1}],
        "pieces": [{**pieces, "pieces": 1, "times whole": 1.0}, pieces],
    }
    about = {"latency of two ranks, us": 1.5, "bandwidth of two ranks, GB/s": 7.0, run.MODELLED: 3.0}
    limit, weak, machine, overlap, model = run.summary(tables, about)
    efficiency, held = scaled.split(", ")
    assert weak == f"two ranks with as many: {efficiency} of one's speed each, at least 95%: {held}"
    assert limit == f"sums of 2 ranks with 64 images each: {summed:.2%} of a step, at most 2%: {verdict}"
    assert machine == "two processes that share nothing but the machine: 80.0% of one's speed each"
    assert f"would gain at most {summed:.2%} of a step, 4.00% with 32 images each; 16 pieces take 1.50 times" in overlap
    assert model == "model: 1.5 us a message, 7 GB/s; off by 50% at most; the gradient's sum in 3 ms, in a step " + (
        f"{1e3 * summed:.3g} ms"
    )


@pytest.mark.parametrize(("mpi4py", "mpiexec"), [(False, True), (True, False), (False, False)])
def test_what_is_missing_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, mpi4py: bool, mpiexec: bool) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "there" if mpi4py else None)
    monkeypatch.setattr(start, "mpiexec", lambda: "/bin/mpiexec" if mpiexec else None)
    result = CliRunner().invoke(main, ["ranks", "--smoke"], prog_name="python -m benchmarks")
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 2
    assert line.startswith("error: no ")
    assert "pip install 'tinyddpm[mpi]'" in line
    assert ("mpi4py" in line, "no mpiexec" in line) == (not mpi4py, not mpiexec)


def test_ranks_that_do_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "mpiexec", lambda: "/bin/false")
    monkeypatch.setattr(start, "missing", lambda: None)
    result = CliRunner().invoke(main, ["ranks", "--smoke"], prog_name="python -m benchmarks")
    assert result.exit_code == 2
    assert "error: 2 ranks did not start; what they, or /bin/false, said stands above" in result.stderr


needs_mpi = pytest.mark.skipif(bool(start.missing()), reason=str(start.missing()))


def figures(rows: list[dict[str, Any]], *without: str) -> Iterator[float]:
    """All numbers of the rows, but those of some columns."""
    return (value for row in rows for name, value in row.items() if name not in without and not isinstance(value, str))


@needs_mpi
@pytest.mark.slow
def test_two_ranks_give_figures_that_are_kept(tmp_path: Path) -> None:
    tables, about = run.measure(smoke=True, rounds=1)
    assert {name: len(rows) for name, rows in tables.items()} == {
        "steps": 4,
        "sums": 3,
        "pieces": 4,
        "extrapolated": 18,
    }
    steps = {row["step"]: row for row in tables["steps"]}
    # One alone sums nothing, and compares with itself
    own = ("waited ms", "summed ms", "share summed", "of the machine's")
    measured = [
        *figures([steps["alone"], steps["beside"]], *own),
        *figures([steps["weak"], steps["strong"]]),
        # Fitted numbers are positive only where the machine is at peace
        *figures(tables["sums"], "model ms"),
        *figures(tables["pieces"], "share left"),
    ]
    assert all(math.isfinite(value) and value > 0 for value in measured)
    assert all(row["summed ms"] == 0 for row in (steps["alone"], steps["beside"]))
    assert all(0 < steps[work]["share summed"] < 1 for work in ("weak", "strong"))
    assert all(math.isfinite(value) for value in figures(tables["extrapolated"]))
    assert "mpi" in about["MPI"].lower()

    run.save(tables, about, tmp_path)
    kept = json.loads((tmp_path / "ranks.json").read_text())
    assert [row["table"] for row in kept["rows"]] == [name for name, rows in tables.items() for _ in rows]
    assert kept["machine"]["mpi4py"] == about["mpi4py"]
    assert (tmp_path / "ranks.png").stat().st_size < 150_000


@needs_mpi
@pytest.mark.slow
def test_an_error_of_a_rank_ends_all() -> None:
    world = start.World(2, SMOKE["train"][0])
    with pytest.raises(RuntimeError, match="the process of 2 ranks ended with code"):
        world.ask("nothing of the kind")
