"""Which tiles suit this GPU: every convolution of a training step by every candidate; `tuning` keeps the best."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from backends.cupy_kernels import tuning, tuning_hopper
from backends.cupy_kernels.convolution import (
    CONVOLVE,
    CONVOLVE_PATCHES,
    GRADIENT,
    GRADIENT_UNITS,
    HOPPER,
    NOTHING,
    PRODUCTS,
    Convolution,
)
from backends.cupy_kernels.geometry import Geometry
from backends.cupy_kernels.runtime import launch
from backends.cupy_kernels.runtime.compilation import cupy
from backends.cupy_kernels.runtime.launch import Kernel, expression
from backends.cupy_kernels.tuning import ConvTile, GradientTile
from backends.cupy_kernels.tuning_hopper import PatchTile, UnitTile
from benchmarks.gpu.preparation import compile_expressions
from benchmarks.gpu.session import Session
from benchmarks.gpu.speed import replayed, seconds_of

# Candidates on Hopper. A block's outputs and patches, warpgroups that share a slice, taps of
# a step, steps that weights are ahead
PATCH_TILES = tuple(
    PatchTile(*numbers)
    for numbers in (
        (128, 2, 1, 1, 2), (128, 1, 1, 1, 2), (64, 2, 1, 3, 1), (64, 2, 1, 1, 2), (64, 1, 1, 3, 1), (64, 1, 1, 1, 2),
        (64, 1, 2, 1, 2), (64, 1, 2, 2, 1), (64, 2, 2, 1, 1), (32, 4, 1, 3, 1), (32, 2, 1, 3, 1), (32, 2, 1, 1, 2),
        (32, 1, 1, 3, 1), (32, 1, 2, 3, 1), (32, 1, 2, 1, 2), (32, 1, 4, 1, 1), (16, 1, 1, 3, 1), (16, 1, 2, 3, 1),
        (16, 1, 4, 3, 1), (16, 1, 4, 1, 2),
    )
)  # fmt: skip
# By taps: a block's outputs, warpgroups, products of each, sixteens of channels
UNIT_TILES = {
    9: ((64, 3, 3, 4), (64, 1, 5, 2), (32, 3, 3, 4), (32, 1, 5, 2), (32, 2, 3, 2), (64, 2, 3, 2), (64, 3, 1, 1),
        (64, 1, 3, 1), (128, 3, 1, 1), (32, 1, 3, 1), (32, 3, 2, 2)),
    4: ((64, 2, 2, 4), (32, 1, 2, 2), (64, 1, 2, 2), (64, 4, 1, 4), (32, 2, 2, 4)),
    1: ((64, 1, 1, 4), (32, 1, 1, 4), (64, 2, 1, 8), (32, 1, 2, 8), (128, 1, 1, 4)),
}  # fmt: skip
# And elsewhere. A block's pixels, outputs, channels of a slice; a warp's pixels, outputs; stages
CONV_TILES = tuple(
    ConvTile(*numbers)
    for numbers in (
        (128, 128, 32, 64, 32, 3), (128, 64, 32, 64, 32, 3), (128, 64, 32, 32, 32, 3), (128, 64, 16, 32, 32, 4),
        (64, 64, 32, 32, 32, 3), (64, 64, 32, 32, 16, 3), (128, 32, 32, 32, 32, 3), (128, 32, 32, 32, 16, 3),
        (128, 32, 16, 32, 32, 3), (64, 32, 32, 32, 16, 3), (64, 32, 32, 16, 16, 3), (32, 32, 32, 16, 16, 3),
        (32, 64, 32, 16, 32, 3), (128, 16, 32, 32, 16, 3),
    )
)  # fmt: skip
# A block's channels, outputs, pixels; a warp's channels, outputs
GRADIENT_TILES = (
    (32, 64, 64, 32, 32), (32, 32, 64, 32, 16), (32, 32, 64, 16, 16), (16, 64, 64, 16, 32), (64, 64, 64, 32, 32),
    (64, 64, 32, 32, 32), (64, 32, 64, 32, 16),
)  # fmt: skip
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
    """`tuning` or `tuning_hopper`, whichever has them, with other functions."""
    places = {name: tuning if hasattr(tuning, name) else tuning_hopper for name in replaced}
    before = {name: getattr(place, name) for name, place in places.items()}
    for name, place in places.items():
        setattr(place, name, replaced[name])
    try:
        yield
    finally:
        for name, place in places.items():
            setattr(place, name, before[name])


def declare(kernel: Kernel, template: tuple) -> tuple[str, str, str]:
    """Makes an instance that no tile of `tuning` has; returns what `compiled` wants of it."""
    return kernel.source, kernel.expressions.setdefault(template, expression(kernel.name, template)), kernel.target


def conv_candidates() -> dict[str, tuple[Kernel, Any, tuple[Any, ...]]]:
    """By name the kernel, what chooses its tile in `tuning`, and the candidate."""
    if launch.capability(cupy()) == HOPPER:
        return {str(tuple(t)): (CONVOLVE_PATCHES, "patch_tile", t) for t in PATCH_TILES}
    return {str(tuple(t)): (CONVOLVE, "conv_tile", t) for t in CONV_TILES}


def gradient_candidates(geometry: Geometry) -> dict[str, tuple[Kernel, Any, tuple[Any, ...]]]:
    """The same of weight gradients."""
    if launch.capability(cupy()) == HOPPER:
        taps = geometry.window[0] * geometry.window[1]
        tiles = [UnitTile(*numbers) for numbers in UNIT_TILES.get(taps, ())]
        return {str(tuple(t)): (GRADIENT_UNITS, "unit_tile", t) for t in tiles}
    window = geometry.window if geometry.window in tuning.WINDOWS else (1, 1)
    tiles = [GradientTile(*numbers, *window, 2) for numbers in GRADIENT_TILES]
    return {str(tuple(t)): (GRADIENT, "gradient_tile", t) for t in tiles}


def sweep(session: Session, be: Any, name: str, step: Callable[[], Any], repeats: int, turn: float) -> None:
    """A row for each convolution and weight gradient of a step: microseconds by the tile in use, by the best, and, of
    one that normalises its input, without."""
    convolutions, gradients = met(step)
    product, wanted = PRODUCTS[be.precision], []
    for (_, inputs, _, _, by_columns), _, _ in convolutions:
        for kernel, choice, tile in conv_candidates().values() if inputs.copied_wide else ():
            wide = () if choice == "patch_tile" else (True,)
            wanted.append(declare(kernel, (product, *tile, *wide, by_columns, inputs.norm is not None)))
    for (geometry, inputs, _, _), _, _ in gradients:
        for kernel, choice, tile in gradient_candidates(geometry).values() if inputs.copied_wide else ():
            wide = () if choice == "unit_tile" else (True,)
            wanted.append(declare(kernel, (product, *tile, *wide, inputs.norm is not None)))
    compile_expressions(session, be.xp, dict.fromkeys(wanted))

    def timed(run: Callable[[], Any]) -> float | None:
        try:
            graph = replayed(be, run, repeats)
            return None if graph is None else 1e6 * seconds_of(graph, be.synchronize, turn) / repeats
        except Exception as error:
            session.say(f"left out: {type(error).__name__}: {error}")
            return None

    def off(found: Any, wanted: Any) -> float:
        first, other = (a[0] if isinstance(a, tuple) else a for a in (found, wanted))
        return float(abs(first - other).max() / abs(other).max())

    rows = []
    for kernel, calls in (("convolve", convolutions), ("weight_gradient", gradients)):
        method = getattr(be, kernel)
        for args, key, count in calls:
            run = lambda args=args, method=method: method(*args)  # noqa: E731
            row: dict[str, Any] = {
                "kernel": kernel,
                "key": key,
                "count": count,
                "used": timed(run),
                "tiles": {},
                "off": {},
            }
            wanted = run()
            if args[1].norm is not None:
                bare = args[0], args[1]._replace(norm=None), *args[2:]
                row["plain"] = timed(lambda bare=bare, method=method: method(*bare))
            candidates = conv_candidates() if kernel == "convolve" else gradient_candidates(args[0])
            for title, (_, choice, tile) in candidates.items() if args[1].copied_wide else ():
                for each in (2,) if kernel == "convolve" else SHARED_OUT:
                    with forced(
                        **{choice: lambda *_, tile=tile: tile, "BLOCKS_EACH": each},
                        blocks_each=lambda _, each=each: each,
                    ):
                        title_of = title if kernel == "convolve" else f"{title} {each}"
                        row["tiles"][title_of] = timed(run)
                        if row["tiles"][title_of] is not None:
                            row["off"][title_of] = off(run(), wanted)
            rows.append(row)
            told(session, be, row)
    (session.folder / f"gpu-tiles-{be.precision}-{name}.json").write_text(json.dumps(rows) + "\n", encoding="utf-8")


def told(session: Session, be: Any, row: dict[str, Any]) -> None:
    """A row for the log."""
    known = {tile: us for tile, us in row["tiles"].items() if us}
    best = min(known, key=lambda tile: known[tile]) if known else None
    session.row(
        "tiles", kernel=row["kernel"], precision=be.precision, key=row["key"][:150], count=row["count"],
        used_us=row["used"], best_us=known.get(best), best=best,
        plain_us=row.get("plain"), off=max(row["off"].values(), default=0.0),
    )  # fmt: skip
