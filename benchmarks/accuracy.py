"""Rounding errors of whole U-Nets: float32 against PyTorch in float64, at random parameters rounded to float32.

Errors are norms of differences over norms. NumPy in float64 is among the peers to show what "exact" is worth here:
it shares no line with PyTorch.
"""

from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

import backends
from tests.twins.gradients import CONFIGS, Problem, Results, errors, relative

SMOKE = "one level, no attention"
PEERS: dict[str, Callable[[Problem], Results]] = {
    "numpy": lambda problem: problem.ours(backends.get("numpy"), "float32"),
    "numba": lambda problem: problem.ours(backends.get("numba"), "float32"),
    "torch": lambda problem: problem.torch("float32"),
    "numpy float64": lambda problem: problem.ours(backends.get("numpy"), "float64"),
}
MEASURES = ("output", "dx", "gradient", "worst tensor")
ALL = "all"


def run_errors(found: Results, exact: Results) -> dict[str, Any]:
    """The errors of the output, of dx, of all parameters' gradients as one vector, and of the worst one, named."""
    each = errors(found, exact)
    tensors = [name for name in exact if name not in ("output", "dx")]
    worst = max(tensors, key=lambda name: each[name])
    whole = relative(*(np.concatenate([values[name].ravel() for name in tensors]) for values in (found, exact)))
    return {
        "output": each["output"],
        "dx": each["dx"],
        "gradient": whole,
        "worst tensor": each[worst],
        "tensor": worst,
    }


def summary(network: str, peer: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """A row: medians and maxima over runs, and the name of the tensor that is worst in all."""
    row: dict[str, Any] = {"network": network, "peer": peer}
    for measure in MEASURES:
        values = [run[measure] for run in runs]
        row |= {measure: median(values), f"{measure} max": max(values)}
    return row | {"tensor": max(runs, key=lambda run: run["worst tensor"])["tensor"]}


def rows(smoke: bool, seeds: int, only: str) -> list[dict[str, Any]]:
    """A row for each network and peer, then for each peer over all networks. Raises ValueError if there are none."""
    chosen = [name for name in CONFIGS if only in name and (not smoke or name == SMOKE)]
    if not chosen:
        raise ValueError(f"no network's name holds {only!r}; there are {'; '.join(CONFIGS)}")
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name in chosen:
        for seed in range(seeds):
            problem = Problem.random(CONFIGS[name], seed=seed)
            exact = problem.torch("float64")
            for peer, compute in PEERS.items():
                runs.setdefault((name, peer), []).append(run_errors(compute(problem), exact))
    table = [summary(name, peer, found) for (name, peer), found in runs.items()]
    for peer in PEERS:
        table.append(summary(ALL, peer, [run for (_, other), found in runs.items() if other == peer for run in found]))
    return table
