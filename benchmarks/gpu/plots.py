"""Pictures of what a session found."""

from pathlib import Path
from typing import Any

from benchmarks.report import plot


def draw(found: dict[str, Any], folder: Path) -> None:
    """gpu-networks.png, gpu-operations.png and gpu-crossover.png, of those sections that there are."""
    rows = found.get("networks", [])
    # Without PyTorch there is nothing to compare with
    of, label = "ratio", "times as fast as PyTorch at its best"
    if not any(row["ratio"] for row in rows):
        of, label = "ms", "milliseconds; PyTorch is not installed here"
    networks = [
        {"work": f"{row['work']} {row['name']}", "precision": row["precision"], "peer": row["peer"], of: row[of]}
        for row in rows
        if row[of]
    ]
    if networks:
        plot(folder / "gpu-networks.png", "gpu", networks, of=of, label=label)
    operations = [
        {"case": row["case"], "precision": row["precision"], "share": row["share"]}
        for row in found.get("operations", [])
    ]
    if operations:
        plot(folder / "gpu-operations.png", "gpu", operations, of="share", label="share of the roofline")
    crossing = [
        {"name": f"{row['name']}, batch {row['batch']}", "times": row["times"]} for row in found.get("crossover", [])
    ]
    if crossing:
        plot(folder / "gpu-crossover.png", "gpu", crossing, of="times", label="times as fast as the Numba backend")
