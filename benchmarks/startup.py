"""Process start to the end of the first step: kernels compiled, then kernels cached, and PyTorch's."""

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.peers import TORCH
from benchmarks.process import Process
from benchmarks.workloads import Workload


def rows(workload: Workload, torch_peers: list[str], threads: int, rounds: int) -> list[dict[str, Any]]:
    """A row for the first run ever, which compiles all kernels, then medians of each peer's starts, taken in turns."""
    with tempfile.TemporaryDirectory() as folder:
        compiling = first_step("numba", workload, threads, {"NUMBA_CACHE_DIR": folder})
        kernels = len(list(Path(folder).rglob("*.nbc")))
    first_step("numba", workload, threads)
    peers = ["numba", *torch_peers]
    starts: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name in peers:
            starts[name].append(first_step(name, workload, threads))
    seconds = {name: median(times) for name, times in starts.items()}
    best = min((value for name, value in seconds.items() if name in TORCH and "bf16" not in name), default=None)
    everything = {f"numba, {kernels} kernels compiled": compiling, **seconds}
    return [
        {"work": workload.name, "peer": name, "s": value, "ratio": best / value if best else None}
        for name, value in everything.items()
    ]


def first_step(name: str, workload: Workload, threads: int, environment: dict[str, str] | None = None) -> float:
    """Seconds of a new process up to the end of its first run."""
    process = Process(name, workload, threads, environment)
    process.ask(1)
    seconds = time.perf_counter() - process.started
    process.close()
    return seconds
