"""Which tiles suit this GPU: every convolution of a training step by every candidate; `tuning` keeps the best."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from backends.cupy_kernels import tuning
from backends.cupy_kernels.convolution import CONVOLVE, GRADIENT, NOTHING, PRODUCTS, Convolution
from backends.cupy_kernels.geometry import Geometry
from backends.cupy_kernels.runtime.launch import Kernel, expression
from backends.cupy_kernels.tuning import ConvTile, GradientTile
from benchmarks.gpu.preparation import compile_expressions
from benchmarks.gpu.session import Session
from benchmarks.gpu.speed import replayed, seconds_of

# A block's pixels, outputs, channels of a slice; a warp's pixels, outputs; stages
CONV_TILES = tuple(
    ConvTile(*numbers)
    for numbers in (
        (128, 128, 32, 64, 32, 3),
        (128, 128, 16, 64, 32, 3),
        (128, 64, 32, 64, 32, 3),
        (128, 64, 16, 64, 32, 3),
        (128, 64, 32, 32, 32, 3),
        (128, 64, 16, 32, 32, 4),
        (64, 64, 32, 32, 32, 3),
        (64, 64, 16, 32, 32, 3),
        (64, 64, 32, 32, 16, 3),
        (128, 32, 32, 32, 32, 3),
        (128, 32, 32, 32, 16, 3),
        (128, 32, 16, 32, 32, 3),
        (256, 32, 16, 64, 32, 3),
        (64, 32, 32, 32, 32, 3),
        (64, 32, 32, 32, 16, 3),
        (64, 32, 16, 32, 16, 3),
        (64, 32, 32, 16, 16, 3),
        (32, 32, 32, 16, 16, 3),
        (32, 64, 32, 16, 32, 3),
        (64, 64, 32, 32, 32, 2),
        (128, 16, 32, 32, 16, 3),
        (64, 16, 32, 16, 16, 3),
    )
)
# A block's channels, outputs, pixels; a warp's channels, outputs
GRADIENT_TILES = (
    (32, 64, 64, 32, 32),
    (32, 64, 64, 16, 32),
    (32, 64, 32, 32, 32),
    (32, 32, 64, 32, 16),
    (32, 32, 64, 16, 16),
    (32, 32, 32, 32, 16),
    (16, 64, 64, 16, 32),
    (16, 32, 64, 16, 16),
    (64, 64, 64, 32, 32),
    (64, 64, 32, 32, 32),
    (64, 32, 64, 32, 16),
    (32, 128, 64, 32, 32),
)
# Blocks for a multiprocessor that shares are cut for
SHARED_OUT = (1, 2, 4)

# Arguments as they were, and how often
Calls = list[tuple[tuple[Any, ...], str, int]]


def met(step: Callable[[], Any]) -> tuple[Calls, Calls]:
    """What `convolve` and `weight_gradient` are asked for in a step: (arguments, what tells them apart, how often)."""
    found: list[dict[str, list[Any]]] = [{}, {}]
    convolve, weight_gradient = Convolution.convolve, Convolution.weight_gradient

    def note(kind: int, key: Any, args: tuple[Any, ...]) -> None:
        found[kind].setdefault(repr(key), [args, repr(key), 0])[2] += 1

    def convolved(self: Any, geometry: Any, inputs: Any, weight: Any, added: Any = NOTHING, by_columns: bool = False):  # type: ignore[no-untyped-def]
        masked = inputs.norm is not None and inputs.norm.mask is not None
        key = *short(geometry), inputs.groups, masked, tuple(a is not None for a in added), by_columns
        note(0, key, (geometry, inputs, weight, added, by_columns))
        return convolve(self, geometry, inputs, weight, added, by_columns)

    def summed(self: Any, forward: Any, inputs: Any, dy: Any, shape: Any) -> Any:
        note(1, (*short(forward), inputs.groups), (forward, inputs, dy, shape))
        return weight_gradient(self, forward, inputs, dy, shape)

    Convolution.convolve, Convolution.weight_gradient = convolved, summed  # type: ignore[method-assign]
    try:
        step()
    finally:
        Convolution.convolve, Convolution.weight_gradient = convolve, weight_gradient  # type: ignore[method-assign]
    return [tuple(entry) for entry in found[0].values()], [tuple(entry) for entry in found[1].values()]


def short(geometry: Geometry) -> tuple[Any, ...]:
    """A geometry without its phases: image, channels, out, outputs, steps, window, phases."""
    return (
        geometry.image, geometry.channels, geometry.out, geometry.outputs, geometry.steps, geometry.window,
        len(geometry.phases),
    )  # fmt: skip


@contextmanager
def forced(**replaced: Any) -> Iterator[None]:
    """`tuning` with other functions."""
    before = {name: getattr(tuning, name) for name in replaced}
    for name, function in replaced.items():
        setattr(tuning, name, function)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(tuning, name, function)


def declare(kernel: Kernel, template: tuple) -> str:
    """Makes an instance that no tile of `tuning` has."""
    return kernel.expressions.setdefault(template, expression(kernel.name, template))


def gradient_candidates(window: tuple[int, int]) -> list[GradientTile]:
    """For a window of taps; a warp has 9 or 4 times the accumulators of one tap."""
    taken = window if window in tuning.WINDOWS else (1, 1)
    return [GradientTile(*numbers, *taken, 2) for numbers in GRADIENT_TILES]


def sweep(session: Session, be: Any, step: Callable[[], Any], repeats: int, turn: float) -> None:
    """A row for each convolution and weight gradient of a step: microseconds by the tile in use, and by the best."""
    convolutions, gradients = met(step)
    product = PRODUCTS[be.precision]
    wanted = []
    for (_, inputs, _, _, by_columns), _, _ in convolutions:
        templates = [(product, *tile, True, by_columns, inputs.norm is not None) for tile in CONV_TILES]
        wanted += [(CONVOLVE.source, declare(CONVOLVE, t)) for t in templates if inputs.copied_wide]
    for (geometry, inputs, _, _), _, _ in gradients:
        tiles = gradient_candidates(geometry.window)
        templates = [(product, *tile, True, inputs.norm is not None) for tile in tiles]
        wanted += [(GRADIENT.source, declare(GRADIENT, t)) for t in templates if inputs.copied_wide]
    compile_expressions(session, be.xp, dict.fromkeys(wanted))

    def timed(run: Callable[[], Any]) -> float | None:
        try:
            graph = replayed(be, run, repeats)
            return None if graph is None else 1e6 * seconds_of(graph, be.synchronize, turn) / repeats
        except Exception as error:
            session.say(f"left out: {type(error).__name__}: {error}")
            return None

    rows = []
    for args, key, count in convolutions:
        run = lambda args=args: be.convolve(*args)  # noqa: E731
        row: dict[str, Any] = {"kernel": "convolve", "key": key, "count": count, "used": timed(run), "tiles": {}}
        for tile in CONV_TILES if args[1].copied_wide else ():
            with forced(conv_tile=lambda *_, tile=tile: tile):
                row["tiles"][str(tuple(tile))] = timed(run)
        rows.append(row)
        told(session, be, row)
    for args, key, count in gradients:
        run = lambda args=args: be.weight_gradient(*args)  # noqa: E731
        row = {"kernel": "weight_gradient", "key": key, "count": count, "used": timed(run), "tiles": {}}
        for tile in gradient_candidates(args[0].window) if args[1].copied_wide else ():
            for each in SHARED_OUT:
                with forced(gradient_tile=lambda *_, tile=tile: tile, BLOCKS_EACH=each):
                    row["tiles"][str((*tile, each))] = timed(run)
        rows.append(row)
        told(session, be, row)
    (session.folder / f"gpu-tiles-{be.precision}.json").write_text(json.dumps(rows) + "\n", encoding="utf-8")


def told(session: Session, be: Any, row: dict[str, Any]) -> None:
    """A row for the log."""
    known = {tile: us for tile, us in row["tiles"].items() if us}
    best = min(known, key=lambda tile: known[tile]) if known else None
    session.row(
        "tiles", kernel=row["kernel"], precision=be.precision, key=row["key"][:150], count=row["count"],
        used_us=row["used"], best_us=known.get(best), best=best,
    )  # fmt: skip
