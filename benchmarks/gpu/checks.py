"""Is it right on this GPU? Every operation and a training step, in each precision, against float64 on the CPU."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

import backends
from backends import OPS
from benchmarks.gpu.session import Session
from benchmarks.operation_cases import CASES, Arguments, Case, Numbers, Size
from benchmarks.workloads import Workload
from tinyddpm import Diffusion, Schedule, UNet

# Largest relative errors, by norm
LIMITS = {"fp32": 1e-5, "tf32": 2e-3, "bf16": 2e-2}
# A gradient that nearly vanishes is compared with the others' size
FLOOR = 0.1
# These return their results alone, the others (y, ctx)
FLAT = ("adam", "ema", "adam_ema", "global_norm", "clip_by_global_norm")


def moved(case: Arguments, to: Callable[[np.ndarray], Any]) -> Arguments:
    """The arguments with every array moved."""
    return {name: to(a) if isinstance(a, np.ndarray) else a for name, a in case.items()}


def results(op: str, forward: Any, backward: Any, case: Arguments, to: Callable[[np.ndarray], Any]) -> list[Any]:
    """An operation's results and, at a random cotangent, its gradients."""
    made = forward(**moved(case, to))
    if op in FLAT:
        return list(made) if isinstance(made, tuple) else [made]
    y, ctx = made
    if backward is None:
        return [y]
    dy = np.asarray(np.random.default_rng(7).standard_normal(y.shape), np.float32)
    return [y, *(g for g in backward(to(dy), ctx) if g is not None)]


def exact(case: Case, size: Size) -> list[np.ndarray]:
    """By the reference in float64."""
    op = OPS[case.op]

    def bound(function: Any) -> Any:
        return None if function is None else lambda *args, **named: function(np, *args, **named)

    def wide(a: np.ndarray) -> np.ndarray:
        return a.astype(np.float64) if a.dtype.kind == "f" else a

    return [
        np.asarray(a) for a in results(case.op, bound(op.forward), bound(op.backward), case.make(Numbers(size)), wide)
    ]


def errors(found: list[np.ndarray], wanted: list[np.ndarray]) -> list[tuple[float, str]]:
    """Each result's relative error, and where it is largest."""
    norms = [float(np.linalg.norm(np.ravel(a))) for a in wanted]
    floor = FLOOR * max(norms[1:], default=0.0)
    told = []
    for i, (a, b, norm) in enumerate(zip(found, wanted, norms, strict=True)):
        if a.shape != b.shape:
            told.append((float("inf"), f"shape {a.shape}, not {b.shape}"))
            continue
        off = np.abs(np.asarray(a, np.float64) - b)
        bad = np.isnan(off)
        place = tuple(
            int(j) for j in (np.argwhere(bad)[0] if bad.any() else np.unravel_index(np.argmax(off), off.shape))
        )
        error = float(np.linalg.norm(np.ravel(off)) / (max(norm, floor if i else norm) or 1.0))
        told.append((error, f"worst at {place}: {np.asarray(a)[place]:.6g}, not {b[place]:.6g}; {int(bad.sum())} NaNs"))
    return told


def check_operations(session: Session, be: Any, size: Size, without: tuple[str, ...] = ()) -> None:
    """A row for each case: its largest error, and for a wrong one the first results that are."""
    for case in [case for case in CASES if not any(word in case.name for word in without)]:

        def one(case: Case = case) -> None:
            backward = getattr(be, f"{case.op}_backward") if OPS[case.op].backward else None
            found = results(case.op, getattr(be, case.op), backward, case.make(Numbers(size)), be.asarray)
            told = errors([be.to_numpy(a) for a in found], exact(case, size))
            worst = max(error if error == error else float("inf") for error, _ in told)
            right = worst <= LIMITS[be.precision]
            wrong = {} if right else {"where": "; ".join(f"result {i} {text}" for i, (_, text) in enumerate(told))}
            session.row("checks", case=case.name, precision=be.precision, error=worst, right=right, **wrong)

        session.attempt(f"checking {case.name} in {be.precision}", one)


def gradients(
    backend: backends.Backend, workload: Workload, dtype: str, steps: int = 1
) -> tuple[list[np.ndarray], list[str]]:
    """Loss and gradients of training steps, several, so that what a graph replays is checked too; and the reasons why
    no graph was captured."""
    model = UNet(workload.config, backend=backend, seed=0, dtype=dtype)
    noise = 0.02 * np.random.default_rng(1).standard_normal(model.params.shape)
    model.params[...] += backend.asarray(noise.astype(dtype))
    shape = (workload.batch, *workload.config.size, workload.config.in_channels)
    found = []
    for step in range(steps):
        x0 = np.random.default_rng(step).uniform(-1, 1, shape).astype(np.float32)
        loss = Diffusion(Schedule.cosine(1000)).training_step(model, x0.astype(dtype), step=step)
        found += [np.asarray(loss), np.array(backend.to_numpy(model.grads), np.float64)]
    return found, list(getattr(model.recorder, "reasons", {}).values())


@cache
def exact_steps(workload: Workload) -> list[np.ndarray]:
    """Three by the reference in float64."""
    return gradients(backends.Backend(np), workload, "float64", steps=3)[0]


def check_step(session: Session, be: Any, workload: Workload) -> None:
    """Three steps: the first eager, the second captured, the third replayed."""
    wanted = exact_steps(workload)
    found, reasons = gradients(be, workload, "float32", steps=3)
    for step in range(3):
        told = errors(found[2 * step : 2 * step + 2], wanted[2 * step : 2 * step + 2])
        worst = max(error for error, _ in told)
        session.row(
            "steps", step=("eager", "captured", "replayed")[step], precision=be.precision, error=worst,
            right=worst <= LIMITS[be.precision],
        )  # fmt: skip
    if reasons:
        raise RuntimeError(f"the step is not captured: {reasons[0]}")
