"""How the Numba backend's training step grows with the batch, the image, the channels and the threads.

Each of a series has a process of its own, and only one computes at a time: they take turns, so that a drift of the
machine's speed meets the whole series alike.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import click

from benchmarks import report, workloads
from benchmarks.measure import TURN, runs_in_a_turn
from benchmarks.process import Process
from benchmarks.workloads import Workload
from tinyddpm.networks.unet import UNetConfig

# What is asked for: the spread of the time an image from FEW images on, and the speed-up at MANY
FEW, MANY = 8, 64
SPREAD, SPEED_UP = 0.15, 1.8


@dataclass(frozen=True)
class Point:
    """A workload at a number of threads, in a series named after what varies in it."""

    series: str
    value: int
    threads: int
    workload: Workload


def training(config: UNetConfig, batch: int) -> Workload:
    """The step of that U-Net."""
    side, channels = config.size[0], config.base_channels
    return Workload(f"{side}x{side}, {channels} channels, batch {batch}", "train", config, batch)


def sized(config: UNetConfig, side: int) -> UNetConfig:
    """Attention stays at the lowest level, so that only the pixels change."""
    return replace(config, image_size=side, attention_resolutions=(side >> len(config.channel_mults) - 1,))


def points(smoke: bool, threads: int) -> list[Point]:
    """All of them. In the series "image size" each batch has as many pixels as one of 64 images at 32x32."""
    if smoke:
        config, batch, batches, sides, channels = workloads.TINY, 4, (1, 4), (8,), (16,)
    else:
        config, batch, batches, sides, channels = (
            workloads.REFERENCE,
            64,
            (1, 8, 64, 256),
            (16, 32, 64, 128),
            (16, 32, 64),
        )
    found = [Point("batch", n, threads, training(config, n)) for n in batches]
    if threads > 1:
        # The largest batch on one thread would take longer than all the others together
        found += [Point("batch", n, 1, training(config, n)) for n in batches if n <= batch]
    pixels = batch * config.size[0] ** 2
    found += [Point("image size", s, threads, training(sized(config, s), pixels // s**2)) for s in sides]
    return found + [Point("channels", c, threads, training(replace(config, base_channels=c), batch)) for c in channels]


def measured(series: list[Point], rounds: int, turn: float) -> list[dict[str, Any]]:
    """A row for each point."""
    processes = [Process("numba", point.workload, point.threads) for point in series]
    times = [runs_in_a_turn(process.ask(2)["seconds"], turn) for process in processes]
    answers: list[list[dict[str, Any]]] = [[] for _ in series]
    for _ in range(rounds):
        for process, count, found in zip(processes, times, answers, strict=True):
            found.append(process.ask(count))
    for process in processes:
        process.close()
    rows = []
    for point, found in zip(series, answers, strict=True):
        seconds = median(s for answer in found for s in answer["seconds"])
        batch = point.workload.batch
        rows.append(
            {
                "series": point.series,
                "value": point.value,
                "threads": point.threads,
                "batch": batch,
                "seconds": seconds,
                "ms an image": seconds * 1e3 / batch,
                "peak MB": found[-1]["peak"] / 1e6,
            }
        )
    return rows


def with_speed_up(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, with the time of the same on one thread over this one where both were measured."""
    alone = {(row["series"], row["value"]): row["seconds"] for row in rows if row["threads"] == 1}

    def speed_up(row: dict[str, Any]) -> float | None:
        one = alone.get((row["series"], row["value"]))
        return one / row["seconds"] if one and row["threads"] > 1 else None

    return [{**row, "speed-up": speed_up(row)} for row in rows]


def summary(rows: list[dict[str, Any]], threads: int) -> list[str]:
    """The two figures that are asked for, as far as the rows have them."""
    batches = [row for row in rows if row["series"] == "batch" and row["threads"] == threads and row["value"] >= FEW]
    lines = []
    if len(batches) > 1:
        each = [row["ms an image"] for row in batches]
        spread, last = max(each) / min(each) - 1, max(row["value"] for row in batches)
        held = "held" if spread <= SPREAD else "NOT HELD"
        lines.append(f"time an image from batch {FEW} to {last}: spread {spread:.1%}, at most {SPREAD:.0%}: {held}")
    for row in batches:
        if row["value"] == MANY and row["speed-up"]:
            held = "held" if row["speed-up"] >= SPEED_UP else "NOT HELD"
            lines.append(
                f"{threads} threads over 1 at batch {MANY}: {row['speed-up']:.2f}, at least {SPEED_UP}: {held}"
            )
    return lines


def run(smoke: bool, rounds: int, threads: int, only: str) -> None:
    """Measures and reports. only: in the names of series. Raises UsageError if there are none."""
    chosen = [point for point in points(smoke, threads) if only in point.series]
    if not chosen:
        raise click.UsageError(f"no series' name holds {only!r}; there are batch, image size and channels")
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(point.series for point in chosen):
        series = [point for point in chosen if point.series == name]
        rows += measured(series, 1 if smoke else rounds, 0.02 if smoke else TURN)
    rows = with_speed_up(rows)
    report.write("scaling", rows, threads, not smoke, plot)
    for line in summary(rows, threads):
        print(line)


def plot(path: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """Milliseconds an image over batch, pixels and channels, and the speed-up over the batch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    threads = max(row["threads"] for row in rows)
    figure = Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"training step, Numba, {threads} threads")
    panels = list(figure.subplots(2, 2).flat)
    for axes, (series, label) in zip(
        panels, {"batch": "batch", "image size": "pixels", "channels": "channels"}.items(), strict=False
    ):
        shown = [row for row in rows if row["series"] == series and row["threads"] == threads]
        x = [row["value"] ** 2 if label == "pixels" else row["value"] for row in shown]
        axes.loglog(x, [row["ms an image"] for row in shown], "o-")
        axes.set_ylim(bottom=0.8 * min((row["ms an image"] for row in shown), default=1))
        axes.set(xlabel=label, ylabel="ms an image")
        axes.set_xticks(x, [str(v) for v in x])
        axes.set_xticks([], minor=True)
    shown = [row for row in rows if row["speed-up"]]
    batches = [row["value"] for row in shown]
    panels[3].semilogx(batches, [row["speed-up"] for row in shown], "o-")
    panels[3].axhline(threads, color="0.3", linewidth=1)
    panels[3].set(xlabel="batch", ylabel=f"speed-up of {threads} threads over 1", ylim=(0, 1.1 * threads))
    panels[3].set_xticks(batches, [str(v) for v in batches])
    panels[3].set_xticks([], minor=True)
    figure.savefig(path, dpi=100)
