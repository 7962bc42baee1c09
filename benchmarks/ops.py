"""Every operation by itself: our backends beside PyTorch, checked to agree, then timed in alternating turns.

The share of the roofline is max(FLOPs / rate of a matrix product, bytes / rate of a copy) / time, with both rates
measured by the same command. FLOPs are those of the matrix products and convolutions by definition (backward: twice
as many), so that Winograd's algorithm, which needs a quarter of the multiplications, may exceed 1; bytes are
those of all arguments and results, each moved once, so that what stays in the caches may exceed 1 as well.
"""

import importlib.util
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

from backends import OPS
from benchmarks import report
from benchmarks.operation_cases import FULL, SMOKE, Arguments, Case, Numbers, Size, cases_with
from benchmarks.operation_peers import twin_of
from benchmarks.process import Child

# The most by which results and gradients may differ, relative by norm
AGREEMENT = 1e-4
# Seconds that the threads of the peer before may spin on; that runs go uncounted, until a peer's own threads are awake
# and on cores of their own; that runs are counted in a turn; and, of these in all, after which no further turn follows
PAUSE, WARM_UP, TURN, ENOUGH = 0.03, 0.04, 0.05, 0.2
# Its twin takes our mask, drawn by NumPy: no use to time it
UNTIMED = ("dropout",)


def peers_of(op: str) -> list[str]:
    """Who computes it, the one that all are compared with first."""
    ours = ["numpy", "numba"]
    if importlib.util.find_spec("torch") is None:
        return ours
    return [*ours, "torch"] if twin_of(op) is not None and op not in UNTIMED else ours


def work(op: str, case: Arguments, results: list[np.ndarray], both: bool) -> tuple[int, int]:
    """(FLOPs, bytes) of an operation on these arguments; results: its outputs, then, where it has, its gradients."""
    kept = {name: a for name, a in case.items() if isinstance(a, np.ndarray)}
    count = len(results) if OPS[op].backward is None else 1
    y, gradients = results[0], results[count:]
    flops = 0
    if "weight" in kept:
        # Every weight meets every pixel of the output; of an attention's, whose output is a third, of the input
        rows = y.size // y.shape[-1]
        flops += 2 * kept["weight"].size * rows
    if "num_heads" in case:
        images, tokens, channels = y.shape
        flops += 4 * images * tokens**2 * channels
    moved = sum(a.nbytes for a in (*kept.values(), *results[:count]))
    if both:
        again = sum(kept[name].nbytes for name in OPS[op].keeps if name in kept)
        moved += y.nbytes + again + sum(a.nbytes for a in gradients)
    return flops * (3 if both else 1), moved


def check_agreement(case: Case, found: dict[str, list[np.ndarray]]) -> None:
    """Raises RuntimeError unless all peers' arrays are those of the first.

    A gradient that vanishes is rounding errors in proportion to the others, hence the floor.
    """
    (first, expected), *others = found.items()
    norms = [float(np.linalg.norm(np.ravel(a))) for a in expected]
    floor = 0.1 * max(norms[1:], default=0.0)
    for name, arrays in others:
        for i, (a, b, norm) in enumerate(zip(arrays, expected, norms, strict=True)):
            off = float(np.linalg.norm(np.ravel(a) - np.ravel(b)))
            if a.shape != b.shape or not off <= AGREEMENT * max(norm, floor if i else norm):
                raise RuntimeError(f"{case.name}: result {i} of {name} is not {first}'s: no use to time it")


def check(case: Case, peers: dict[str, Child]) -> list[np.ndarray]:
    """Prepares the case in every process; the results, on which they agree."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, peer in peers.items():
            path = Path(folder) / f"{name}.npz"
            peer.tell({"what": "save", "case": case.name, "path": str(path)})
            with np.load(path) as arrays:
                found[name] = list(arrays.values())
            path.unlink()
    check_agreement(case, found)
    return next(iter(found.values()))


def times(peers: dict[str, Child], both: bool, rounds: int) -> dict[str, float]:
    """Median seconds of each peer at the case prepared; rounds 0: of one run."""
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    question = {"what": "seconds", "both": both, "warm_up": WARM_UP if rounds else 0, "turn": TURN if rounds else 0}
    for _ in range(rounds or 1):
        for name, peer in peers.items():
            if sum(seconds[name]) < ENOUGH:
                time.sleep(PAUSE if rounds else 0)
                seconds[name] += peer.tell(question)["seconds"]
    return {name: median(found) for name, found in seconds.items()}


def rows_of(
    case: Case, size: Size, peers: dict[str, Child], rounds: int, rates: dict[str, float]
) -> list[dict[str, Any]]:
    """A row for forward and, where there is one, a row for forward and backward. Raises as `check_agreement`."""
    chosen = {name: peers[name] for name in peers_of(case.op)}
    results = check(case, chosen)
    rows = []
    for both in (False, True) if OPS[case.op].backward else (False,):
        flops, moved = work(case.op, case.make(Numbers(size)), results, both)
        least = max(flops / rates["gemm"], moved / rates["copy"])
        found = times(chosen, both, rounds)
        torch = found.get("torch")
        row: dict[str, Any] = {"work": case.name, "pass": "forward+backward" if both else "forward"}
        for name in ("numba", "torch", "numpy"):
            row[f"{name} ms"] = found[name] * 1e3 if name in found else None
        row["ratio"] = torch / found["numba"] if torch else None
        row["numpy ratio"] = torch / found["numpy"] if torch else None
        for name in ("numba", "torch", "numpy"):
            row[f"{name} roofline"] = least / found[name] if name in found else None
        rows.append({**row, "MFLOP": flops / 1e6, "MB": moved / 1e6})
    return rows


def measure(
    smoke: bool, rounds: int, threads: int, only: str, modules: tuple[str, ...] = ()
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The rows of all cases whose name holds `only`, and the rates. Raises UsageError if there are none.

    modules: to be loaded first, in every process; they may register operations of their own.
    """
    cases = [case for case in cases_with(modules) if only in case.name]
    if not cases:
        raise click.UsageError(f"no operation's case holds {only!r}; there are {', '.join(OPS)}")
    size, names = SMOKE if smoke else FULL, sorted({name for case in cases for name in peers_of(case.op)})
    job = {"size": [size.batch, size.params], "modules": modules}
    start = {name: partial(Child, name, "benchmarks.operation_peers", {**job, "peer": name}, threads) for name in names}
    # Before the others load their libraries, which takes a core for seconds
    peers = {"numpy": start.pop("numpy")()}
    rates = peers["numpy"].tell({"what": "rates"})
    peers |= {name: begin() for name, begin in start.items()}
    rows = [row for case in cases for row in rows_of(case, size, peers, 0 if smoke else rounds, rates)]
    for peer in peers.values():
        peer.close()
    return rows, rates


def run(smoke: bool, rounds: int, threads: int, only: str, modules: tuple[str, ...] = ()) -> None:
    """Measures and reports; a run of only some operations leaves the saved results as they are."""
    rows, rates = measure(smoke, rounds, threads, only, modules)
    print(f"matrix product {rates['gemm'] / 1e9:.0f} GFLOP/s, copy {rates['copy'] / 1e9:.1f} GB/s read and written")
    print("roofline: the least time by these two over the time; Winograd's algorithm and the caches may exceed 1")
    kept = {"matrix product FLOP/s": rates["gemm"], "copy bytes/s": rates["copy"]}
    report.write("ops", rows, threads, not (smoke or only), plot, kept)


def plot(path: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """Bars of PyTorch's time over ours on a logarithmic scale, a panel for each pass."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = {kind: [r for r in rows if r["pass"] == kind and r["ratio"]] for kind in ("forward", "forward+backward")}
    shown = {kind: found for kind, found in panels.items() if found}
    if not shown:
        return
    heights = [len(found) for found in shown.values()]
    figure = Figure(figsize=(9, 1.5 + 0.26 * sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(len(shown), 1, sharex=True, height_ratios=heights))
    for axis, (kind, found) in zip(axes, shown.items(), strict=True):
        places = np.arange(len(found))
        # Bars from 1, to the right where we are faster
        for offset, column, peer, colour in ((-0.2, "ratio", "numba", "C0"), (0.2, "numpy ratio", "numpy", "C1")):
            values = np.array([row[column] for row in found])
            axis.barh(places + offset, values - 1, 0.4, left=1, color=colour, label=peer)
        axis.axvline(1.0, color="0.3", linewidth=1)
        axis.set_yticks(places, [row["work"] for row in found], fontsize=8)
        axis.set(xscale="log", title=kind, ylim=(len(found) - 0.5, -0.5))
        axis.grid(axis="x", which="both", alpha=0.3)
        low, high = axis.get_xlim()
        ticks = [t for t in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if low < t < high]
        axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes[0].legend(loc="lower right")
    axes[-1].set_xlabel("times as fast as PyTorch")
    figure.savefig(path, dpi=100)
