"""Comparing peers on a workload: equality first, then times in alternating rounds.

A peer's turn is many runs one after the other, as in use: a single short one would find cold caches and sleeping
threads, which a thousand predictions in a row meet once.
"""

import math
from statistics import median
from typing import Any

from benchmarks.process import Child, Process
from benchmarks.settings import Settings, core_taken
from benchmarks.workloads import Workload

# The most by which the peers' first values may differ, relative; bf16 rounds to three digits
AGREEMENT, AGREEMENT_BF16 = 1e-4, 3e-2
# Seconds that a turn lasts at the least
TURN = 0.5


def compare(workload: Workload, peers: list[str], settings: Settings) -> dict[str, float]:
    """Every peer's median seconds of a run. Raises RuntimeError if a peer's value differs from the first peer's."""
    processes = [Process(name, workload, settings.threads, settings.environment) for name in peers]
    values = {process.name: process.ask(1)["value"] for process in processes}
    check_agreement(values)
    found = alternate(list(processes), settings)
    for process in processes:
        process.close()
    return found


def alternate(processes: list[Child], settings: Settings) -> dict[str, float]:
    """Median seconds of a run of each process, in alternating turns, a core taken by another where settings say so."""
    seconds: dict[str, list[float]] = {process.name: [] for process in processes}
    with core_taken(settings.busy):
        times = {process.name: runs_in_a_turn(process.tell(2)["seconds"]) for process in processes}
        for _ in range(2 if settings.smoke else settings.rounds):
            for process in processes:
                seconds[process.name] += process.tell(times[process.name])["seconds"]
    return {name: median(times) for name, times in seconds.items()}


def runs_in_a_turn(seconds: list[float], turn: float = TURN) -> int:
    """How many runs fill a turn, if each takes as long as the shortest of these did; at least one."""
    return math.ceil(turn / min(seconds))


def check_agreement(values: dict[str, Any]) -> None:
    """Raises RuntimeError unless all peers computed the same."""
    (first, expected), *others = values.items()
    for name, value in others:
        limit = AGREEMENT_BF16 if "bf16" in name else AGREEMENT
        if not abs(value - expected) <= limit * abs(expected):
            raise RuntimeError(f"{name} computed {value}, {first} {expected}: no use to time them")
