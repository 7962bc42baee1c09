"""Where a step's time goes: the kernels of a recorded network, each timed by itself in its place among the others."""

import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import TURN, runs_in_a_turn
from benchmarks.workloads import Workload

# What Adam and everything in Python takes, around the kernels of forward and backward
REST = "the rest"


def rows(workload: Workload, threads: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each kernel, the slowest first, then the rest of the step; share: of the whole step.

    A kernel by itself wakes the threads, which a run of all does once: where they take longer together than the step,
    there is no rest, and shares are of their sum.
    """
    from backends.numba_kernels.runtime.team import run_steps
    from benchmarks.peers import make

    peer = make("numba", workload, threads)
    peer.run()
    whole = [timed(peer.run) for _ in range(2)]
    whole += [timed(peer.run) for _ in range(runs_in_a_turn(whole, rounds * TURN / 4))]
    program = next(reversed(peer.model.recorder.programs.values()))
    steps = [program.steps[i : i + 1] for i in range(len(program.calls))]
    passes = [[timed(run_steps, step) for step in steps] for _ in range(rounds)]
    seconds: dict[str, list[float]] = {}
    for (kernel, _, _), times in zip(program.calls, zip(*passes, strict=True), strict=True):
        seconds.setdefault(kernel.name, []).append(median(times))
    total = median(whole)
    found = [(name, len(times), sum(times)) for name, times in seconds.items()]
    found.sort(key=lambda row: -row[2])
    kernels = sum(row[2] for row in found)
    found.append((REST, 1, max(0.0, total - kernels)))
    return [
        {
            "work": f"{workload.kind}, {workload.name}",
            "kernel": name,
            "calls": calls,
            "ms": took * 1e3,
            "share": took / max(total, kernels),
        }
        for name, calls, took in found
    ]


def timed(function: Any, *arguments: Any) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def plot(path: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """A bar of shares for each workload; kernels that are small everywhere are one piece."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    works = list(dict.fromkeys(row["work"] for row in rows))
    shares = {(row["work"], row["kernel"]): row["share"] for row in rows}
    names = dict.fromkeys(row["kernel"] for row in rows)
    large = [n for n in names if max(shares.get((work, n), 0.0) for work in works) >= 0.04]
    figure = Figure(figsize=(10, 1.5 + 0.5 * len(works)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    left, colours = [0.0] * len(works), colormaps["tab20"].colors
    pieces = [(kernel.removesuffix("_worker"), [kernel]) for kernel in large]
    pieces.append(("others", [n for n in names if n not in large]))
    for i, (label, kernels) in enumerate(pieces):
        widths = [sum(shares.get((work, n), 0.0) for n in kernels) for work in works]
        axes.barh(works, widths, left=left, label=label, color=colours[i % len(colours)])
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel="share of the time", title=name)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
    figure.savefig(path, dpi=100)
