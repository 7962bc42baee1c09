"""`python -m benchmarks ranks`: everything measured, extrapolated and told."""

from pathlib import Path
from statistics import median
from typing import Any

from backends import thread_count
from benchmarks import report, workloads
from benchmarks.ranks import cost, turns
from benchmarks.ranks.plot import plot
from benchmarks.ranks.start import World, sizes_of_worlds
from benchmarks.ranks.turns import Rows

# The most that sums may take of a step of two ranks with a batch each
SHARE = 0.02
# The least efficiency of two ranks with a batch each
EFFICIENCY = 0.95
# Bytes of the arrays that are summed, up to the gradient of 35 million parameters
SIZES = (1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 140 * 10**6)
# Seconds that a turn of steps lasts at the least, and the most sums in a turn of these
TURN, MOST = 2.0, 200
MODELLED = "sum of the gradient by two ranks, as modelled, ms"
TITLES = {
    "steps": "Measured: training steps, a thread each; waited and summed in sums of gradient and loss",
    "sums": "Measured: sums of an array, and the model fitted to them",
    "pieces": "Measured: the gradient in pieces, and what is left of their sums after computing for as long",
    "extrapolated": "EXTRAPOLATED, not measured: weak scaling, each rank with a link of its own",
}


def measure(smoke: bool, rounds: int) -> tuple[dict[str, Rows], dict[str, Any]]:
    """The tables by their names, each printed when it is finished; and what the ranks were."""
    (workload,) = workloads.SMOKE["train"] if smoke else workloads.TRAIN[:1]
    turn, most, sizes = (0.02, turns.FEWEST, SIZES[:6:2]) if smoke else (TURN, MOST, SIZES)
    tables: dict[str, Rows] = {name: [] for name in TITLES}
    networks: dict[str, tuple[float, int]] = {}
    about: dict[str, Any] = {}

    def tell(name: str, rows: Rows) -> None:
        print(f"\n{TITLES[name]}\n\n{report.table(rows)}", flush=True)
        tables[name] += rows

    for ranks in sizes_of_worlds(2 if smoke else thread_count.processors(), workload.batch):
        world = World(ranks, workload)
        gradient = world.about["gradient"]
        tell("steps", turns.steps(world, rounds, turn))
        rows, link = turns.sums(world, rounds, most, sizes)
        tell("sums", rows)
        tell("pieces", turns.pieces(world, rounds, most, gradient))
        if not networks:
            wider = world.ask("wider", steps=3)[0]
            one = tables["steps"][0]["ms"] / 1e3
            networks = {
                named(gradient): (one, gradient),
                named(wider["gradient"]): (median(step[0] for step in wider["seconds"]), wider["gradient"]),
            }
            about = {name: world.about[name] for name in ("MPI", "mpi4py")} | {
                MODELLED: cost.seconds_of_sum(link, ranks, gradient) * 1e3,
                "latency of two ranks, us": link.latency * 1e6,
                "bandwidth of two ranks, GB/s": link.bandwidth / 1e9,
                "latency of a link, assumed, us": cost.ASSUMED_LATENCY * 1e6,
            }
            first = link
        world.close()
    tell("extrapolated", cost.extrapolated(first, networks))
    return tables, about


def named(gradient: int) -> str:
    """The name of a network, by its parameters, whose gradient has these bytes."""
    return f"{gradient / 4e6:.3g} M"


def summary(tables: dict[str, Rows], about: dict[str, Any]) -> list[str]:
    """What the figures come to, and whether the limit is held."""
    step = {row["step"]: row for row in tables["steps"] if row["processes"] == 2}
    share, strong = step["weak"]["share summed"], step["strong"]["share summed"]
    beside, worst = step["beside"], max(abs(row["model ms"] / row["ms"] - 1) for row in tables["sums"])
    most = max((row for row in tables["pieces"] if row["ranks"] == 2), key=lambda row: row["pieces"])
    return [
        f"sums of 2 ranks with {step['weak']['images each']} images each: {share:.2%} of a step, at most {SHARE:.0%}: "
        f"{'held' if share <= SHARE else 'NOT HELD'}",
        f"two ranks with as many: {step['weak']['efficiency']:.1%} of one's speed each, at least {EFFICIENCY:.0%}: "
        f"{'held' if step['weak']['efficiency'] >= EFFICIENCY else 'NOT HELD'}",
        f"two processes that share nothing but the machine: {beside['efficiency']:.1%} of one's speed each",
        f"overlap with the backward pass would gain at most {share:.2%} of a step, {strong:.2%} with "
        f"{step['strong']['images each']} images each; {most['pieces']} pieces take {most['times whole']:.2f} times as "
        f"long as the whole, and after computing for as long {most['share left']:.0%} of that is left to do",
        f"model: {about['latency of two ranks, us']:.3g} us a message, {about['bandwidth of two ranks, GB/s']:.3g} "
        f"GB/s; off by {worst:.0%} at most; the gradient's sum in {about[MODELLED]:.3g} ms, in a step "
        f"{step['weak']['summed ms']:.3g} ms",
    ]


def run(smoke: bool, rounds: int, results: Path) -> None:
    """Measures, prints, and writes ranks.json and ranks.png into the folder, unless this is a smoke run."""
    tables, about = measure(smoke, 1 if smoke else rounds)
    if smoke:
        return
    print()
    for line in summary(tables, about):
        print(line)
    save(tables, about, results)


def save(tables: dict[str, Rows], about: dict[str, Any], folder: Path) -> None:
    """Writes the rows of all tables, each with its table's name."""
    rows = [{"table": name, **row} for name, found in tables.items() for row in found]
    report.save("ranks", rows, report.machine(1) | about, folder, plot)
