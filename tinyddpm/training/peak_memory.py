"""The peak memory of a training step, predicted without taking one of full size.

At a given place in a step, memory is a constant plus a multiple of the batch size. So steps of two and of four
images, watched operation by operation, tell what any batch size takes at each place, and thereby at the worst.
"""

import gc
import os
import tracemalloc
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import backends
from tinyddpm.data import Batches
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.networks.model import Model
from tinyddpm.training.trainer import TrainConfig, Trainer

FEW, MORE = 2, 4
USUAL_BASE = 250_000_000


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of a training step.

    parameters, gradients, moments (Adam's two), average (of the weights): arrays as long as the parameters. tape:
    what forward keeps for backward. in_flight: everything else alive at the peak: gradients of activations,
    scratch. unused: gaps between these. base: interpreter, libraries, data set, compiled kernels.
    """

    parameters: int
    gradients: int
    moments: int
    average: int
    tape: int
    in_flight: int
    unused: int
    base: int

    @property
    def total(self) -> int:
        """The sum of all."""
        return sum(astuple(self))


def predict(model: Model, diffusion: Diffusion, training: TrainConfig) -> Memory:
    """What training this model takes. It stays as it is; steps of a few images are taken by a copy.

    For a model on a GPU the reference operations are measured, in NumPy: kernels there take no more. There base is 0.
    """
    on_gpu = model.backend.name == "cupy"
    inner = backends.Backend(np) if on_gpu else model.backend
    before = resident()
    meter = Meter(inner)
    params = inner.xp.asarray(model.backend.to_numpy(model.params), copy=True)
    metered = model.with_params(params, meter)
    training = replace(training, accumulate=min(training.accumulate, 2))  # more only repeat
    trainers = [
        Trainer(metered, diffusion, Blank(metered.config, n), replace(training, batch_size=n)) for n in (FEW, MORE)
    ]
    for trainer in trainers:
        trainer.take_step()  # compiles kernels and fills caches

    size = params.nbytes
    sums = 1 if training.accumulate > 1 else 0
    # The model's parameters, the copy and its gradients, the two trainers' moments, averages and sums
    arrays = (1 + 2 + 2 * (3 + sums)) * size
    held = inner.memory()
    # What a step leaves in memory is the pool's, or else the C library's, of which nobody knows how much
    base = 0 if on_gpu else before - size if held is None else resident() - held - arrays

    with inner.plain_arrays():
        (tape, marks), (tape_more, marks_more) = (meter.watch(trainer.take_step) for trainer in trainers)

    def at_size(few: int, more: int) -> int:
        return few + (more - few) * (training.batch_size - FEW) // (MORE - FEW)

    tape = at_size(tape, tape_more)
    peak = max(at_size(few, more) for few, more in zip(marks, marks_more, strict=True))
    return Memory(
        parameters=size,
        gradients=(1 + sums) * size,
        moments=2 * size,
        average=size,
        tape=tape,
        in_flight=peak - tape,
        unused=int(peak * model.backend.unused_share),
        base=base,
    )


def largest_batch(model: Model, diffusion: Diffusion, training: TrainConfig, limit: int) -> int:
    """Images of the largest batch whose step takes at most `limit` bytes, among those up to the configured; 0: none.

    The peak is the largest of some linear functions of the batch size, so it lies below the line between two sizes.
    """
    one, all_ = (predict(model, diffusion, replace(training, batch_size=n)).total for n in (1, training.batch_size))
    if all_ <= limit:
        return training.batch_size
    return 0 if one > limit else 1 + (training.batch_size - 1) * (limit - one) // (all_ - one)


class Meter(backends.WrappedBackend):
    """Another backend, noting after each operation the most memory that there was since the one before."""

    name: ClassVar[str] = "meter"

    def __init__(self, inner: backends.Backend) -> None:
        super().__init__(inner)
        self.marks: list[int] = []
        self.tape = 0

    def around(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if name.endswith("_loss") and tracemalloc.is_tracing():  # all of forward is done, nothing of backward
            self.tape = traced_arrays()
            tracemalloc.reset_peak()
        result = function(*args, **kwargs)
        self.marks.append(tracemalloc.get_traced_memory()[1])
        if tracemalloc.is_tracing():
            tracemalloc.reset_peak()
        return result

    def watch(self, step: Callable[[], Any]) -> tuple[int, list[int]]:
        """Runs the step; bytes after forward, and the most there were up to the end of each operation."""
        self.marks = []
        tracemalloc.start()
        try:
            step()
        finally:
            tracemalloc.stop()
        return self.tape, self.marks


def traced_arrays() -> int:
    """Bytes of NumPy's arrays that `tracemalloc` has seen, excluding Python objects and thread-local buffers."""
    gc.collect()
    only = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([only]).traces)


class Blank(Batches):
    """Batches of nothing: zeros, and the label 0."""

    def __init__(self, config: Any, batch_size: int) -> None:
        self.x0 = np.zeros((batch_size, *config.size, config.in_channels), np.float32)
        self.labels = np.zeros(batch_size, np.int64)

    def at(self, step: int, rows: slice | None = None) -> tuple[np.ndarray, np.ndarray]:
        """As `Batches.at`."""
        rows = rows or slice(None)
        return self.x0[rows], self.labels[rows]


def from_status(field: str) -> int | None:
    """A size in bytes from what Linux tells of this process (VmRSS, VmHWM); None elsewhere."""
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")), None)


def resident() -> int:
    """Bytes of memory that this process has resident; where the system does not tell, what is usual with Numba."""
    return from_status("VmRSS") or USUAL_BASE


def available() -> int | None:
    """Bytes that would be free if this process exited; None where the system does not tell.

    The memory of the machine, or what the control group of this process may use, whichever is less.
    """
    limits = []
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        limits.append(int(lines["MemAvailable"].split()[0]) * 1024 + resident())
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    group = Path("/sys/fs/cgroup")
    if (group / "memory.max").exists() and (text := (group / "memory.max").read_text().strip()) != "max":
        limits.append(int(text) - int((group / "memory.current").read_text()) + resident())
    return min(limits, default=None)
