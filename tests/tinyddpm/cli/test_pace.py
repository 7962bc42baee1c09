"""Rates, times left, and the estimate early in a long run, on a clock that the test turns."""

import io
import sys

import pytest

from tinyddpm.cli.pace import Pace, duration
from tinyddpm.cli.progress import tell


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def walk(pace: Pace, clock: Clock, *seconds: float) -> list[str]:
    """Steps of these lengths; what was estimated, with the step."""
    said = []
    for length in seconds:
        clock.now += length
        pace.note(pace.step + 1)
        if line := pace.estimate():
            said.append(f"{pace.step}: {line}")
    return said


def test_a_long_run_is_estimated_once_and_without_its_first_steps() -> None:
    clock = Clock()
    pace = Pace(1000, 0, clock)
    assert walk(pace, clock, 30, 5, *[1.0] * 50) == ["7: about 17 min for the 993 steps to come"]
    assert pace.rate == pytest.approx(1)
    assert pace.left == pytest.approx(948)


def test_quick_steps_are_watched_for_two_seconds() -> None:
    clock = Clock()
    pace = Pace(100_000, 0, clock)
    (line,) = walk(pace, clock, *[0.015625] * 400)
    assert line == "130: about 26 min for the 99,870 steps to come"


def test_a_short_run_is_not_estimated() -> None:
    clock = Clock()
    assert walk(Pace(60, 0, clock), clock, *[1.0] * 60) == []
    assert walk(Pace(3, 0, clock), clock, *[1000.0] * 3) == []


def test_a_resumed_run_counts_its_own_steps() -> None:
    clock = Clock()
    pace = Pace(1000, 900, clock)
    assert walk(pace, clock, *[4.0] * 20) == ["907: about 6 min for the 93 steps to come"]
    assert pace.rate == pytest.approx(0.25)


def test_compiling_is_left_out() -> None:
    clock = Clock()
    pace = Pace(1000, 0, clock)
    clock.now += 60
    pace.take_out(60)
    walk(pace, clock, 2.0)
    assert pace.rate == pytest.approx(0.5)
    walk(pace, clock, *[2.0] * 5)
    clock.now += 10
    pace.take_out(10)
    walk(pace, clock, 2.0)
    assert pace.rate == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (720, "12 min"),
        (5399, "90 min"),
        (5400, "1 h 30 min"),
        (12_000, "3 h 20 min"),
        (200_000, "2 days 7 h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_line_is_in_a_log_file_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An estimate that waits in a buffer comes too late."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8"))  # type: ignore[arg-type]
    tell("about 12 min")
    assert raw.getvalue() == b"about 12 min\n"
