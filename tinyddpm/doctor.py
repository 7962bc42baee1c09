"""Checks of the machine, and of a configuration before hours go into it."""

import importlib
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np

import backends
from backends import thread_count
from tinyddpm import data
from tinyddpm.diffusers_format import why_not
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import LARGEST_FINAL_ALPHA_BAR
from tinyddpm.networks.model import Model
from tinyddpm.networks.registry import build_network, kind_of
from tinyddpm.ranks import MpiRanks, world
from tinyddpm.training import peak_memory
from tinyddpm.training.optimizers import EMA
from tinyddpm.training.run_config import RunConfig
from tinyddpm.training.trainer import TrainConfig, Trainer

LARGEST_SHARE_OF_START = 0.01
# With Adam, such networks are trained between these
SENSIBLE_RATES = 1e-5, 1e-2
LARGEST_WEIGHT_DECAY = 0.3
# Seconds for which steps are timed at the least, and after which none is begun
TIMED_SECONDS, MOST_SECONDS = 1.0, 20.0

PACKAGES = ("numpy", "numba", "scipy", "scikit-learn", "pillow", "matplotlib", "safetensors", "cupy-cuda13x", "torch")


@dataclass(frozen=True)
class Check:
    """A line of the report, and whether it is as it should be; a note says what is good to know and no fault."""

    ok: bool
    text: str
    note: bool = False


def environment() -> Iterator[str]:
    """Lines on Python, libraries and backends of this machine."""
    yield f"python {platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} processors"
    yield "packages: " + ", ".join(f"{name} {installed(name)}" for name in PACKAGES)
    for name, reason in backends.available().items():
        overrides = ""
        if reason is None:
            replaced = backends.get(name).overrides()
            overrides = f", own kernels for {', '.join(replaced)}" if replaced else ", the reference operations"
        yield f"backend {name}: {'works' + overrides if reason is None else 'unavailable: ' + reason}"


def threads() -> Iterator[str]:
    """Lines on the threads of this process, and what it costs to share out a kernel to them; compiles three kernels."""
    setting = thread_count.setting()
    yield f"threads: {setting.number} ({setting.source})"
    if backends.available()["numba"] is None:
        team = importlib.import_module("backends.numba_kernels.runtime.team")  # loads Numba
        microseconds = 1e6 * team.seconds_to_share_out()
        yield f"threads: {setting.number} in kernels, own loop, {microseconds:.1f} µs to start a kernel"
    for pool in thread_count.pools():
        yield f"threads: {pool.threads} in {pool.library}, layer {pool.layer}"


def ranks() -> str:
    """A line on the processes that share the work."""
    own = world()
    if not isinstance(own, MpiRanks):
        mpi = ", ".join(f"{name} {installed(name)}" for name in ("mpi4py", "mpich", "openmpi"))
        return f"ranks: 1, this process alone ({mpi}; mpiexec -n 4 tinyddpm train … starts more)"
    count = thread_count.threads()
    return (
        f"ranks: {own.size}, {own.local_size} of them on this machine, {count} thread{'s' * (count > 1)} each; "
        f"{own.library()}"
    )


def arithmetic(backend: backends.Backend) -> str:
    """A line on the backend that is chosen: how it computes products, and whether it replays steps."""
    if not isinstance(backend, backends.CupyBackend):
        return f"computing on {backend.name}, precision fp32: all in float32"
    others = " or ".join(name for name in backends.PRECISIONS if name != backend.precision)
    replays = (
        "steps are replayed as CUDA graphs" if backend.graphs else "each kernel is launched by itself (--no-graph)"
    )
    return (
        f"computing on {backend.name}, precision {backend.precision}: {backends.PRECISIONS[backend.precision]} "
        f"(--precision {others} for another); {replays}"
    )


def installed(package: str) -> str:
    """The package's version, or "missing"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def images(config: RunConfig, dataset: data.Dataset) -> Iterator[Check]:
    """What the images are, and what was left out of them."""
    yield Check(True, f"data {config.data.title}: {len(dataset):,} images to train on")
    if dataset.class_names is not None:
        use = "" if config.model.num_classes is not None else ", not learned without --classes"
        yield Check(True, f"classes: {dataset.named_classes()}{use}")
    for note in dataset.notes:
        yield Check(False, note)


def configuration(config: RunConfig, dataset: data.Dataset, backend: backends.Backend) -> Iterator[Check]:
    """Checks of a run's configuration against its data, on its own model with fresh weights."""
    images, training = dataset.images, config.training
    yield Check(True, f"model {kind_of(config.model)}: {config.model}")
    halvings = len(config.model.channel_mults) - 1
    yield Check(True, f"images {images.shape[1]}x{images.shape[2]} can be halved {halvings} times")

    low, high = float(images.min()), float(images.max())
    x0 = data.to_unit(images[: training.batch_size])
    spread = high - low > 128 and x0.min() >= -1 and x0.max() <= 1
    yield Check(
        spread, f"data range: bytes {low:.0f} … {high:.0f} become [{x0.min():.2f}, {x0.max():.2f}], wanted [-1, 1]"
    )

    diffusion = config.diffusion.build()
    end = float(diffusion.schedule.alpha_bars[-1])
    yield Check(
        end <= LARGEST_FINAL_ALPHA_BAR,
        f"alpha_bar_T = {end:.2g}: the chain ends in noise if this is small (at most {LARGEST_FINAL_ALPHA_BAR:g})",
    )

    model = build_network(config.model, backend=backend, seed=0)
    memory = memory_of_a_step(model, diffusion, training)
    yield memory
    yield initial_loss(model, config, x0, dataset)
    yield from rates_and_sizes(training, len(dataset))

    share = share_of_start(training)
    yield Check(
        share <= LARGEST_SHARE_OF_START,
        f"average of weights: after {training.steps} steps the untrained ones make up {share:.1%} of it "
        f"(at most {LARGEST_SHARE_OF_START:.0%}; lower --ema-decay or train longer)",
    )
    if reason := why_not(config.model):
        yield Check(True, f"`tinyddpm export` could not write this model: {reason}", note=True)
    # Last, since it trains the model
    if memory.ok:
        yield time_of_the_run(Trainer(model, diffusion, batches(config, dataset), training))
    else:
        yield Check(True, "time: not measured, since a step does not fit into memory", note=True)


def rates_and_sizes(training: TrainConfig, images: int) -> Iterator[Check]:
    """Whether rates, batches and warm-up are of a sensible size."""
    low, high = SENSIBLE_RATES
    yield Check(
        low <= training.lr <= high,
        f"learning rate {training.lr:g}: Adam trains such networks between {low:g} and {high:g} (--lr)",
    )
    if training.weight_decay > LARGEST_WEIGHT_DECAY:
        yield Check(False, f"weight decay {training.weight_decay:g}: usual are 0 to 0.1 (--weight-decay)")
    taken = training.batch_size * training.accumulate
    seen = f"{training.steps:,} steps see each {training.steps * taken / images:,.1f} times"
    remedy = "; lower --batch-size or --accumulate, since it sees some twice" if taken > images else ""
    yield Check(taken <= images, f"batch: a step takes {taken:,} of {images:,} images, {seen}{remedy}")
    short = 2 * training.warmup_steps > training.steps
    remedy = ", so that most of the run is below the full learning rate; lower --warmup-steps or raise --steps"
    yield Check(not short, f"warm-up: {training.warmup_steps:,} of {training.steps:,} steps{remedy if short else ''}")


def batches(config: RunConfig, dataset: data.Dataset) -> data.Batches:
    """The batches that training would take."""
    return data.Batches(dataset, config.training.batch_size, config.training.seed, config.data.flip)


def time_of_the_run(trainer: Trainer) -> Check:
    """How long the run would take here, by its first few steps, which are taken."""
    steps = trainer.config.steps
    spent: list[float] = []
    started = time.monotonic()
    try:
        # The first compiles and records; the second fills the memory pool
        while len(spent) < 3 or sum(spent[2:]) < TIMED_SECONDS:
            before = time.monotonic()
            trainer.take_step()
            spent.append(time.monotonic() - before)
            if time.monotonic() - started > MOST_SECONDS:
                break
    except backends.NonFiniteError as error:
        return Check(False, f"time: not measured, since training fails at once: {error}")
    timed = spent[2:] or spent[-1:]
    seconds = float(np.median(timed))
    how = f"measured over {len(timed)}" if len(spent) > 2 else "roughly, by one of the first"
    return Check(
        True,
        f"time: about {duration(steps * seconds)} for {steps:,} steps of {1e3 * seconds:,.0f} ms, {how}; "
        "sampling, and compiling in a first run, come on top",
    )


def duration(seconds: float) -> str:
    """Seconds in the unit that fits them."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def memory_of_a_step(model: Model, diffusion: Diffusion, training: TrainConfig) -> Check:
    """The peak of a training step against what the machine, or its GPU, has."""
    need = peak_memory.predict(model, diffusion, training)
    limit = model.backend.capacity() or peak_memory.available()
    fits = limit is None or need.total <= limit
    parts = {
        "kept for backward": need.tape,
        "other activations": need.in_flight + need.unused,
        "parameters, gradients, Adam, average": need.parameters + need.gradients + need.moments + need.average,
        "process": need.base,
    }
    text = f"memory at the peak of a step: {megabytes(need.total)} MB"
    text += " (" + ", ".join(f"{name} {megabytes(size)}" for name, size in parts.items()) + ")"
    if limit is not None:
        text += f" of {megabytes(limit)} MB available"
    if not fits:
        text += "; lower --batch-size, split it with --accumulate, or keep less with --recompute"
    return Check(fits, text)


def megabytes(size: int) -> str:
    """Millions of bytes, thousands set apart."""
    return f"{size / 1e6:,.0f}"


def share_of_start(training: TrainConfig) -> float:
    """How much of the averaged weights at the end of the run is still their initial values."""
    average = EMA(np.ones(1), training.ema_decay)
    # The warm-up leaves nothing of them after a thousand, whatever the decay
    for _ in range(min(training.steps, 1000)):
        average.update(np.zeros(1))
    return float(average.params[0])


def initial_loss(model: Model, config: RunConfig, x0: np.ndarray, dataset: data.Dataset) -> Check:
    """The mean squared error before training: 1 for eps, since the network predicts 0 and noise has variance 1."""
    diffusion = Diffusion(config.diffusion.build().schedule, config.diffusion.prediction)
    labels = dataset.labels[: len(x0)] if config.model.num_classes and dataset.labels is not None else None
    loss = diffusion.training_step(model, x0, step=0, labels=labels, backward=False)
    # The mean of n squared standard normals has standard deviation sqrt(2 / n)
    near = config.diffusion.prediction != "eps" or abs(loss - 1) < max(0.1, 5 * (2 / x0.size) ** 0.5)
    return Check(near, f"initial loss {loss:.3f} (mse of {config.diffusion.prediction}; near 1 for eps)")
