"""Comparing peers on a workload: equality first, then times in alternating rounds.

A peer's turn is many runs one after the other, as in use: a single short one would find cold caches and sleeping
threads, which a thousand predictions in a row meet once.
"""

import math
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.process import Child, Process
from benchmarks.settings import Settings, core_taken
from benchmarks.workloads import Workload

# The most by which the peers' first values and, by norm, predictions may differ, relative; bf16 rounds to three digits
AGREEMENT, AGREEMENT_BF16 = 1e-4, 3e-2
# Seconds that a turn lasts at the least
TURN = 0.5


def compare(workload: Workload, peers: list[str], settings: Settings, onnx: Path | None = None) -> dict[str, float]:
    """Every peer's median seconds of a run. onnx: the network as a file, for peers that need one.

    Raises RuntimeError if a peer's value, or any of its prediction, differs from the first peer's.
    """
    processes = [Process(name, workload, settings.threads, settings.environment, onnx) for name in peers]
    values = {process.name: process.ask(1)["value"] for process in processes}
    check_agreement(values)
    if workload.kind == "forward":
        check_predictions({process.name: process.predict() for process in processes})
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
        if not abs(value - expected) <= limit_of(name) * abs(expected):
            raise RuntimeError(f"{name} computed {value}, {first} {expected}: no use to time them")


def check_predictions(predictions: dict[str, np.ndarray]) -> None:
    """Raises RuntimeError unless all peers' arrays are the first peer's; sums of squares know no order and no signs."""
    (first, expected), *others = predictions.items()
    for name, found in others:
        if found.shape != expected.shape:
            raise RuntimeError(f"{name} predicted {found.shape}, {first} {expected.shape}: no use to time them")
        off = float(np.linalg.norm((found - expected).ravel()) / np.linalg.norm(expected.ravel()))
        if not off <= limit_of(name):
            raise RuntimeError(f"{name}'s prediction is off {first}'s by {off:.2g} of its norm: no use to time them")


def limit_of(name: str) -> float:
    """How far a peer may differ from the first."""
    return AGREEMENT_BF16 if "bf16" in name else AGREEMENT
