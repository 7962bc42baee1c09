"""Where a training step's time goes on this GPU: what every kernel of it takes, as NVIDIA's tracer (CUPTI) saw it."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu.session import Session

# Kernels of one name that are shown; the file has all
SHOWN = 14


def traced(torch: Any, run: Callable[[], Any], wait: Callable[[], Any]) -> list[dict[str, Any]]:
    """Every kernel and copy of a run, in order: name, start and microseconds, grid, block, registers, shared bytes.

    PyTorch's profiler sees all launches of this process, ours too.
    """
    activity = torch.profiler.ProfilerActivity.CUDA
    wait()
    with torch.profiler.profile(activities=[activity]) as profiler:
        run()
        wait()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    found = [
        {
            "name": event["name"], "start": event["ts"], "us": event["dur"], "grid": event["args"].get("grid"),
            "block": event["args"].get("block"), "registers": event["args"].get("registers per thread"),
            "shared": event["args"].get("shared memory"),
        }
        for event in events
        if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")
    ]  # fmt: skip
    return sorted(found, key=lambda event: event["start"])


def summary(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By name, the longest together first."""
    rows: dict[str, dict[str, Any]] = {}
    for event in events:
        row = rows.setdefault(event["name"], {"name": event["name"], "calls": 0, "us": 0.0})
        row["calls"] += 1
        row["us"] += event["us"]
    return sorted(rows.values(), key=lambda row: -row["us"])


def trace(session: Session, torch: Any, name: str, run: Callable[[], Any], wait: Callable[[], Any]) -> None:
    """Rows of the kernels that take longest together, of one run, and a file of all."""
    for _ in range(3):
        run()
    events = traced(torch, run, wait)
    if not events:
        raise RuntimeError("the tracer saw no kernel")
    (session.folder / f"gpu-trace-{name}.json").write_text(json.dumps(events) + "\n", encoding="utf-8")
    busy, first, last = sum(e["us"] for e in events), events[0], events[-1]
    span = last["start"] + last["us"] - first["start"]
    session.row("traces", of=name, kernels=len(events), busy_us=busy, from_first_to_last_us=span)
    for row in summary(events)[:SHOWN]:
        session.row("kernels", of=name, **{**row, "name": row["name"][:110], "share": row["us"] / busy})
