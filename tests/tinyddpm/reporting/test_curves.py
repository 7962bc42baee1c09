"""Curves of a page: values are the run's, groups of steps have the right means and ranges, points lie in the box."""

import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyddpm.reporting.curves import GROUPS, Line, Plot, bits_plot, grouped, level_plot, script_values, training_plots


def metrics(count: int, every: int = 0, seed: int = 0) -> list[dict[str, Any]]:
    """Logged steps, some with held-out losses."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for step in range(1, count + 1):
        rows.append({"step": step, "loss": rng.uniform(0.1, 1), "grad_norm": rng.uniform(1, 2), "lr": 1e-3 * step})
        if every and step % every == 0:
            rows[-1] |= {"validation_loss": rng.uniform(0.1, 1), "validation_loss_ema": rng.uniform(0.1, 1)}
    return rows


def test_a_short_run_has_every_value() -> None:
    rows = metrics(120, every=50)
    plots = {plot.title: plot for plot in training_plots(rows)}
    lines = {line.name: line for line in plots["Loss"].lines}
    assert list(lines["loss of a step"].y) == [row["loss"] for row in rows]
    assert list(lines["loss of a step"].x) == list(range(1, 121))
    assert list(lines["held-out images"].y) == [row["validation_loss"] for row in rows if "validation_loss" in row]
    assert list(lines["held-out images, averaged weights"].x) == [50, 100]
    means = lines["mean of 4 steps"]
    assert means.x[0] == 4
    assert means.y[0] == pytest.approx(np.mean([row["loss"] for row in rows[:4]]), rel=1e-12)
    assert means.y[-1] == pytest.approx(np.mean([row["loss"] for row in rows[-4:]]), rel=1e-12)
    assert list(plots["Norm of the gradient"].lines[0].y) == [row["grad_norm"] for row in rows]
    assert list(plots["Learning rate"].lines[0].y) == [row["lr"] for row in rows]


@given(count=st.integers(1, 5000), seed=st.integers(0, 99))
def test_groups_are_means_and_ranges(count: int, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal(count)
    steps = np.arange(7, 7 + count)
    line = grouped(steps, values, "v")
    size = -(-count // GROUPS)
    assert len(line.x) == -(-count // size) <= GROUPS
    for i in {0, len(line.x) // 2, len(line.x) - 1}:
        part = values[i * size : (i + 1) * size]
        assert line.x[i] == steps[: (i + 1) * size][-1]
        assert line.y[i] == pytest.approx(part.mean(), rel=1e-9, abs=1e-12)
        assert (line.low[i], line.high[i]) == (part.min(), part.max())


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [[1.0], [0.5, 0.5], [1e-30, 1e30], [0.0, 1.0, 2.0], [0.0], [3, 1, 2]])
def test_all_lies_in_the_box(values: list[float], log: bool) -> None:
    plot = Plot("a", "x", "y", [Line("b", list(range(len(values))), values)], log=log)
    points = [tuple(map(float, pair)) for pair in re.findall(r"(-?[\d.]+) (-?[\d.]+)(?=[ \"h])", plot.svg)]
    assert points
    assert all(0 <= a <= 1000 and 0 <= b <= 1000 for a, b in points)
    assert "nan" not in plot.svg
    for ticks in (plot.x_ticks, plot.y_ticks):
        assert all(0 <= place <= 100 for place, _ in ticks)
    assert len(plot.y_ticks) <= 12


def test_a_tick_is_where_its_number_is() -> None:
    plot = Plot("a", "x", "y", [Line("b", [0, 100], [0.01, 10.0])], log=True)
    low, high = plot.spans[1]
    for place, text in plot.y_ticks:
        assert place == pytest.approx(100 * (high - np.log10(float(text))) / (high - low), abs=0.01)
    assert {text for _, text in plot.y_ticks} >= {"0.01", "0.1", "1", "10"}
    assert plot.x_ticks[0] == (0, "0")
    assert plot.x_ticks[-1] == (100, "100")


def test_what_was_measured_later() -> None:
    levels = [{"t": 0, "loss": 0.5}, {"t": 9, "loss": None}, {"t": 20, "loss": 0.25}]
    plot = level_plot(levels)
    assert plot is not None
    assert (list(plot.lines[0].x), list(plot.lines[0].y)) == ([0, 20], [0.5, 0.25])
    assert level_plot(levels[1:2]) is None
    ledger = bits_plot([{"first": 0, "last": 0, "bits": 1.5}, {"first": 1, "last": 4, "bits": 0.1}])
    assert ledger is not None
    assert list(ledger.lines[0].x) == [0, 2.5]
    assert bits_plot([]) is None
    assert training_plots([]) == []


def test_values_may_stand_in_a_script() -> None:
    plot = Plot("a", "</script>", "y", [Line("<!--", [1], [2])])
    text = script_values([plot])
    assert "<" not in text
    assert json.loads(text)[0]["lines"][0]["name"] == "<!--"


def test_the_table_holds_the_ends() -> None:
    heads, table = training_plots(metrics(1000))[0].table
    assert heads[0] == "step"
    assert len(table) <= 45
    assert table[-1][0] == "1,000"
