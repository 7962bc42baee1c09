"""Tables on the screen, JSON with the machine beside it, and a plot."""

import json
import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.settings import Settings

PACKAGES = ("numpy", "numba", "torch", "MNN", "onnxruntime", "openvino")
RESULTS = Path(__file__).parent / "results"


def machine(threads: int, isa: str = "", busy: bool = False) -> dict[str, Any]:
    """What the figures depend on; isa: what all were held to, if not all instructions that the processor has."""
    model = platform.processor() or platform.machine()
    instructions = isa
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = [line.partition(":")[::2] for line in cpuinfo.read_text().splitlines()]
        values = {name.strip(): value.strip() for name, value in fields}
        model = values.get("model name", model)
        if "cpu family" in values:  # some virtual machines tell the maker alone
            model += f", family {values['cpu family']} model {values['model']}"
        flags = values.get("flags", values.get("Features", "")).split()
        known = [name for name in ("avx512f", "avx2", "sve", "asimd") if name in flags]
        instructions = isa or (known[0] if known else "")
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "instructions": instructions or platform.machine(),
        "threads": threads,
        "busy": busy,
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in PACKAGES},
    }


def installed(package: str) -> str | None:
    """The package's version, None if it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table; numbers with three digits."""
    columns = list(rows[0])
    cells = [[f"{row[c]:.3g}" if isinstance(row[c], float) else str(row[c]) for c in columns] for row in rows]
    widths = [max(len(c), *(len(line[i]) for line in cells)) for i, c in enumerate(columns)]

    def line(values: list[str]) -> str:
        return "| " + " | ".join(value.ljust(width) for value, width in zip(values, widths, strict=True)) + " |"

    return "\n".join([line(columns), line(["-" * width for width in widths]), *map(line, cells)])


def write(
    name: str,
    rows: list[dict[str, Any]],
    threads: int,
    keep: bool,
    draw: Callable[[Path, str, list[dict[str, Any]]], None] | None = None,
    rates: dict[str, float] | None = None,
) -> None:
    """Prints the table; with keep also writes results/NAME.json and a bar chart, NAME.png.

    draw: what plots instead of `plot`; rates: measured of the machine, kept beside the rest of it.
    """
    print(table(rows), flush=True)
    if keep:
        save(name, rows, machine(threads) | (rates or {}), RESULTS, draw)


def save(
    name: str,
    rows: list[dict[str, Any]],
    about: dict[str, Any],
    folder: Path,
    draw: Callable[[Path, str, list[dict[str, Any]]], None] | None = None,
) -> None:
    """Writes FOLDER/NAME.json, the rows and what is said about the machine, and NAME.png."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n")
    (draw or plot)(folder / f"{name}.png", name, rows)


def progress(
    name: str,
    rows: list[dict[str, Any]],
    found: list[dict[str, Any]],
    settings: Settings,
    folder: Path,
    draw: Callable[[Path, str, list[dict[str, Any]]], None] | None = None,
) -> None:
    """Adds what was found to the rows, prints it, and writes all rows, unless this is a smoke run. draw: as `write`."""
    rows += found
    print(table(found), flush=True)
    if not settings.smoke:
        save(name, rows, machine(settings.threads, settings.isa, settings.busy), folder, draw)


def plot(
    path: Path,
    name: str,
    rows: list[dict[str, Any]],
    of: str = "ratio",
    label: str = "times as fast as the best float32 setting of PyTorch",
) -> None:
    """A bar for each row: its column `of`, of which `label` says what it is."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [row for row in rows if isinstance(row.get(of), float)]
    if not shown:
        return
    figure = Figure(figsize=(8, 1.2 + 0.35 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    labels = [" ".join(str(v) for v in row.values() if isinstance(v, str)) for row in shown]
    axes.barh(labels, [row[of] for row in shown])
    if of in ("ratio", "times"):
        axes.axvline(1.0, color="0.3", linewidth=1)
    axes.invert_yaxis()
    axes.set(xlabel=label, title=name)
    figure.savefig(path, dpi=100, bbox_inches="tight")
