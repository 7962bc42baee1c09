"""Checks of the machine, and of a configuration before hours go into it."""

import importlib
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np

import backends
from backends import thread_count
from tinyddpm import data
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import LARGEST_FINAL_ALPHA_BAR
from tinyddpm.networks.model import Model
from tinyddpm.networks.registry import build_network, kind_of
from tinyddpm.training import peak_memory
from tinyddpm.training.optimizers import EMA
from tinyddpm.training.run_config import RunConfig
from tinyddpm.training.trainer import TrainConfig

LARGEST_SHARE_OF_START = 0.01

PACKAGES = ("numpy", "numba", "scipy", "scikit-learn", "pillow", "matplotlib", "safetensors", "cupy-cuda13x", "torch")


@dataclass(frozen=True)
class Check:
    """A line of the report, and whether it is as it should be."""

    ok: bool
    text: str


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
    yield memory_of_a_step(model, diffusion, training)
    yield initial_loss(model, config, x0, dataset)

    share = share_of_start(training)
    yield Check(
        share <= LARGEST_SHARE_OF_START,
        f"average of weights: after {training.steps} steps the untrained ones make up {share:.1%} of it "
        f"(at most {LARGEST_SHARE_OF_START:.0%}; lower --ema-decay or train longer)",
    )


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
