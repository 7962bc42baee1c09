"""What was measured as solid lines with marks, what is extrapolated dashed."""

from pathlib import Path
from typing import Any

from benchmarks.ranks.turns import Rows


def plot(path: Path, name: str, rows: Rows) -> None:
    """Seconds of a sum over its bytes, and efficiency over the ranks for each network."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("training over MPI ranks: measured solid, extrapolated dashed")
    sums, *panels = figure.subplots(1, 3)
    of_sums = [row for row in rows if row["table"] == "sums"]
    for color, ranks in enumerate(sorted({row["ranks"] for row in of_sums})):
        shown = [row for row in of_sums if row["ranks"] == ranks]
        x = [row["bytes"] for row in shown]
        sums.loglog(x, [row["ms"] for row in shown], f"C{color}o-", label=f"{ranks} ranks")
        sums.loglog(x, [row["model ms"] for row in shown], f"C{color}:", label="fitted")
    sums.set(xlabel="bytes", ylabel="ms", title="sum of an array on this machine")
    sums.legend()

    extrapolated = [row for row in rows if row["table"] == "extrapolated"]
    least = min(row["efficiency"] for row in rows if "efficiency" in row)
    networks = list(dict.fromkeys(row["network"] for row in extrapolated))
    for axes, network in zip(panels, networks, strict=True):
        # Measured were steps of the first alone
        if network == networks[0]:
            for work, points in efficiencies(rows).items():
                axes.semilogx(*zip(*points, strict=True), "o-", label=work)
        for color, gbit in enumerate(dict.fromkeys(row["Gbit/s"] for row in extrapolated)):
            shown = [row for row in extrapolated if row["network"] == network and row["Gbit/s"] == gbit]
            x = [row["ranks"] for row in shown]
            axes.semilogx(x, [row["efficiency"] for row in shown], f"C{color + 3}--", label=f"weak, {gbit} Gbit/s")
        axes.set(xlabel="ranks", ylabel="efficiency", ylim=(0.9 * least, 1.02), title=f"{network} parameters")
        ticks = sorted({1, *(row["processes"] for row in rows if row["table"] == "steps"), *x})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.legend()
    figure.savefig(path, dpi=100)


def efficiencies(rows: Rows) -> dict[str, list[tuple[int, Any]]]:
    """(processes, efficiency) for each kind of step measured; all begin at one rank alone."""
    steps = [row for row in rows if row["table"] == "steps" and row["step"] != "alone"]
    return {
        work: [(1, 1.0), *((row["processes"], row["efficiency"]) for row in steps if row["step"] == work)]
        for work in dict.fromkeys(row["step"] for row in steps)
    }
