"""Comparing peers on a workload: equality first, then times in alternating rounds."""

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.process import Process
from benchmarks.workloads import Workload

# Of the peers' first values, relative; bf16 rounds to three digits
AGREEMENT, AGREEMENT_BF16 = 1e-4, 3e-2


@dataclass(frozen=True)
class Result:
    """One peer on one workload: median seconds of a run, seconds to its first one."""

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
    for process in processes:
        process.ask(2)
    for _ in range(rounds):
        for process in processes:
            seconds[process.name] += process.ask(1)["seconds"]
    for process in processes:
        process.close()
    return {name: Result(name, median(seconds[name]), firsts[name]) for name in peers}


def check_agreement(values: dict[str, Any]) -> None:
    """Raises RuntimeError unless all peers computed the same."""
    (first, expected), *others = values.items()
    for name, value in others:
        limit = AGREEMENT_BF16 if "bf16" in name else AGREEMENT
        if not abs(value - expected) <= limit * abs(expected):
            raise RuntimeError(f"{name} computed {value}, {first} {expected}: no use to time them")
