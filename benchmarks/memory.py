"""Peak memory of training: ours as predicted and as measured, with and without recomputation, and PyTorch's."""

import json
import subprocess
import sys
from typing import Any

from benchmarks.peers import TORCH
from benchmarks.process import Process
from benchmarks.workloads import Workload

OURS = ("numba", "numba recompute")


def rows(workload: Workload, torch_peers: list[str], threads: int) -> list[dict[str, Any]]:
    """A row for each peer, in processes one after the other; ratio: its peak over the least of PyTorch's in float32."""
    megabytes = {name: measured(workload, name, threads) / 1e6 for name in (*OURS, *torch_peers)}
    best = min((size for name, size in megabytes.items() if name in TORCH and "bf16" not in name), default=None)
    table = []
    for name, size in megabytes.items():
        parts = predicted(workload, name) if name in OURS else {}
        table.append(
            {
                "work": workload.name,
                "peer": name,
                "MB": size,
                "ratio": size / best if best else None,
                "predicted": sum(parts.values()) or None,
                **{part: parts.get(part) for part in ("tape", "in flight", "parameters", "process")},
            }
        )
    return table


def measured(workload: Workload, name: str, threads: int) -> int:
    """The peak of a process of its own after three steps, in bytes; kernels are compiled before, in another."""
    if name == OURS[0]:
        warm_up = Process(name, workload, threads)
        warm_up.ask(1)
        warm_up.close()
    process = Process(name, workload, threads)
    peak = process.ask(3)["peak"]
    process.close()
    return peak


def predicted(workload: Workload, name: str) -> dict[str, float]:
    """Megabytes by what they are for, predicted in another process."""
    job = json.dumps([workload.to_dict(), name])
    command = [sys.executable, "-m", "benchmarks.memory", job]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def predict(workload: Workload, name: str) -> dict[str, float]:
    """As `predicted`, in this process."""
    import backends
    from tinyddpm import Diffusion, Schedule, TrainConfig, UNet
    from tinyddpm.training import peak_memory

    training = TrainConfig(batch_size=workload.batch, recompute=name == OURS[1])
    model = UNet(workload.config, backend=backends.get("numba"))
    need = peak_memory.predict(model, Diffusion(Schedule.cosine(1000)), training)
    parts = {
        "tape": need.tape,
        "in flight": need.in_flight + need.unused,
        # The workload keeps no average
        "parameters": need.parameters + need.gradients + need.moments,
        "process": need.base,
    }
    return {part: size / 1e6 for part, size in parts.items()}


if __name__ == "__main__":
    values, peer = json.loads(sys.argv[1])
    print(json.dumps(predict(Workload.from_dict(values), peer)))
