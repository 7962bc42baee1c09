"""What ranks are asked in turns, and the rows that come of it: medians over the turns of means over the ranks."""

from statistics import fmean, median
from typing import Any

from benchmarks.measure import runs_in_a_turn
from benchmarks.ranks import cost
from benchmarks.ranks.start import World

Rows = list[dict[str, Any]]

WORKS = ("alone", "beside", "weak", "strong")
PIECES = (1, 4, 16)
# A turn's sums are of BYTES together, but FEWEST at least, and no more than a run allows
BYTES, FEWEST = 1 << 28, 3


def steps(world: World, rounds: int, turn: float) -> Rows:
    """A row for each kind of step. turn: the least seconds that one lasts."""
    # A first step makes the list of kernels that later ones run
    times = {work: runs_in_a_turn([step[0] for step in world.ask(work, steps=3)[0][1:]], turn) for work in WORKS}
    found: dict[str, list[list[float]]] = {work: [] for work in WORKS}
    for _ in range(rounds):
        for work in WORKS:
            # Ranks at rest have no steps
            told = [of_rank for of_rank in world.ask(work, steps=times[work]) if of_rank]
            for step in zip(*told, strict=True):
                found[work].append([fmean(part) for part in zip(*step, strict=True)])
    world.ask("same")
    middle = {work: [median(part) for part in zip(*step, strict=True)] for work, step in found.items()}
    return step_rows(middle, world.size, world.batch)


def step_rows(middle: dict[str, list[float]], ranks: int, batch: int) -> Rows:
    """A row for each kind, given seconds of a step, and how many of these were waited and exchanged.

    "efficiency" compares with one rank alone, "of the machine's" with one rank beside ranks - 1 others that it does not
    work with: what these take from each other's memory and clock is no cost of the ranks' working together.
    """
    one = middle["alone"][0]
    efficiency = {
        work: cost.strong_efficiency(one, step, ranks) if work == "strong" else cost.weak_efficiency(one, step)
        for work, (step, *_) in middle.items()
    }
    return [
        {
            "step": work,
            "processes": 1 if work == "alone" else ranks,
            "images each": batch // ranks if work == "strong" else batch,
            "ms": step * 1e3,
            "waited ms": waited * 1e3,
            "summed ms": exchanged * 1e3,
            "share summed": exchanged / step,
            "efficiency": efficiency[work],
            "of the machine's": None if work == "alone" else efficiency[work] / efficiency["beside"],
        }
        for work, (step, waited, exchanged) in middle.items()
    ]


def sums(world: World, rounds: int, most: int, sizes: tuple[int, ...]) -> tuple[Rows, cost.Link]:
    """A row for each size of an array, beside what the model fitted to all of them says; and that fit. most: sums in a
    turn."""
    found: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size in sizes:
            found[size] += world.means("sums", size=size, times=times_in_a_turn(size, most))
    measured = [(size, median(seconds)) for size, seconds in found.items()]
    link = cost.fit(world.size, measured)
    rows = [
        {
            "ranks": world.size,
            "bytes": size,
            "ms": seconds * 1e3,
            "model ms": cost.seconds_of_sum(link, world.size, size) * 1e3,
            "GB/s sent": cost.coefficients(world.size, size)[1] / seconds / 1e9,
        }
        for size, seconds in measured
    ]
    return rows, link


def times_in_a_turn(size: int, most: int) -> int:
    """How many sums of that size a turn has."""
    return min(most, max(FEWEST, BYTES // size))


def pieces(world: World, rounds: int, most: int, gradient: int) -> Rows:
    """A row for each number of pieces of the gradient, `gradient` bytes: their sum's time beside that of the whole,
    and which share of it is left to do after each rank has computed for as long. most: sums in a turn."""
    times = times_in_a_turn(gradient, most)
    found: dict[int, list[float]] = {count: [] for count in (0, *PIECES)}
    left: dict[int, list[float]] = {count: [] for count in PIECES}
    for _ in range(rounds):
        for count in found:
            found[count] += world.means("pieces", count=count, times=times, computing=0)
        for count in PIECES:
            left[count] += world.means("pieces", count=count, times=times, computing=median(found[count]))
    whole = median(found[0])
    return [
        {
            "ranks": world.size,
            "call": "Iallreduce" if count else "Allreduce",
            "pieces": count or 1,
            "ms": median(seconds) * 1e3,
            "times whole": median(seconds) / whole,
            "share left": median(left[count]) / median(seconds) if count else None,
        }
        for count, seconds in found.items()
    ]
