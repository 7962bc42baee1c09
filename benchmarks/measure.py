"""Comparing peers on a workload: equality first, then times in alternating rounds.

A peer's turn is many runs one after the other, as in use: a single short one would find cold caches and sleeping
threads, which a thousand predictions in a row meet once.
"""

import math
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.process import Process
from benchmarks.workloads import Workload

# Of the peers' first values, relative; bf16 rounds to three digits
AGREEMENT, AGREEMENT_BF16 = 1e-4, 3e-2
# Seconds that a turn lasts at the least
TURN = 0.5


@dataclass(frozen=True)
class Result:
    """One peer on one workload: median seconds of all runs, seconds to its first one."""

    peer: str
    seconds: float
    first: float


def compare(workload: Workload, peers: list[str], threads: int, rounds: int) -> dict[str, Result]:
    """Every peer's result. Raises RuntimeError if a peer's value differs from the first peer's.

    The processes start one after the other, so that `first` (process start to first run done) is undisturbed.
    """
    processes, firsts, values = [], {}, {}
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for name in peers:
        if name == "numba":
            # The first process ever compiles the kernels; the time to the first step is meant with them cached
            warm_up = Process(name, workload, threads)
            warm_up.ask(1)
            warm_up.close()
        process = Process(name, workload, threads)
        values[name] = process.ask(1)["value"]
        firsts[name] = time.perf_counter() - process.started
        processes.append(process)
    check_agreement(values)
    times = {process.name: runs_in_a_turn(process.ask(2)["seconds"]) for process in processes}
    for _ in range(rounds):
        for process in processes:
            seconds[process.name] += process.ask(times[process.name])["seconds"]
    for process in processes:
        process.close()
    return {name: Result(name, median(seconds[name]), firsts[name]) for name in peers}


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
