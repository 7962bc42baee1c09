"""Does a guard let through only what its kernel is written for? Arguments that fit no kernel, one change at a time.

A kernel reads memory by address: one that is given an array of other numbers or of another shape than it is written
for computes nonsense, or ends the process. Whatever the guard refuses runs the reference operation; so an override must
refuse what the reference refuses, and compute what that computes.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from backends.testing.comparison import ALLOWANCE, Condition, arrays_of, returns_ctx
from backends.testing.gradients import kind, norm
from backends.testing.pairs import in_precision, pair, single
from backends.testing.strategies import Arguments, directions

DTYPE = "in float64"
# Numbers from beside an array are wrong by more than this; how well a kernel rounds is for `check_against` to judge
NONSENSE = 1e-2


def misfits(case: Arguments) -> Iterator[tuple[str, Arguments]]:
    """Copies of the case with one array changed, each with the words for it."""
    for name, x in case.items():
        if not isinstance(x, np.ndarray) or x.dtype.kind != "f":
            continue
        changes = {DTYPE: x.astype(np.float64)}
        for axis in range(x.ndim):
            changes[f"with axis {axis} longer by one"] = np.concatenate([x, np.take(x, [-1], axis)], axis)
            changes[f"with axis {axis} of length zero"] = np.take(x, [], axis)
        changes["with an axis more"] = x[None]
        if x.ndim:
            changes["with an axis less"] = x[0]
        for words, changed in changes.items():
            yield f"{name} {words}", case | {name: np.ascontiguousarray(changed)}


def check_refusals(name: str, override: Any, case: Arguments, *, seed: int = 0, tolerance: float = NONSENSE) -> None:
    """Raises AssertionError unless the override refuses what the reference refuses, and agrees elsewhere.

    name: of an operation. override: a backend, whose methods of that name are meant, or (forward, backward). case:
    arguments that fit; they are tried in float32, and then each array by itself in float64, with an axis longer by one,
    of length zero, an axis more and an axis less; backward likewise with the cotangent changed. tolerance: relative, by
    norm, of what the reference computes. Raises what the kernel raises, and a kernel that reads beyond an array may end
    the process: run under `python -X faulthandler` it tells where.
    Where the reference makes something of a wrong shape, an override may refuse it.
    """
    wanted, found, ours = pair(name), pair(override, name), single(case)
    has_ctx = wanted.backward is not None or returns_ctx(name)
    for words, changed in misfits(ours):
        agree(f"{found.name}, {words}", wanted.forward, found.forward, changed, has_ctx, tolerance)
    if wanted.backward is None or found.backward is None:
        return
    y, ctx = wanted.forward(**ours)
    dy = np.asarray(directions(seed).standard_normal(np.shape(y)).astype(np.float32))
    for words, changed in misfits({"dy": dy}):
        what = f"{found.name}: backward, {words}"
        agree(what, wanted.backward, found.backward, changed | {"ctx": ctx}, False, tolerance)


def agree(
    what: str,
    reference: Callable[..., Any],
    override: Callable[..., Any],
    case: Arguments,
    has_ctx: bool,
    tolerance: float,
) -> None:
    """Raises AssertionError unless both raise the same kind of error, or compute the same."""
    (right, refused), (found, raised) = outcome(reference, case, has_ctx), outcome(override, case, has_ctx)
    if refused is not None:
        assert raised is not None, (
            f"{what}: the reference refuses it ({type(refused).__name__}: {refused}), the override computes; its guard "
            "must say no"
        )
        return
    if raised is not None:
        assert DTYPE not in what, (
            f"{what}: the reference computes it, the override raises {type(raised).__name__}: {raised}"
        )
        return
    for i, (y, wanted) in enumerate(zip(found, right, strict=True)):
        if wanted is None:
            continue
        fits = (np.shape(y), np.asarray(y).dtype) == (np.shape(wanted), np.asarray(wanted).dtype)
        assert fits, f"{what}: the reference gives {kind(np.asarray(wanted))}, the override {kind(np.asarray(y))}"
        same = np.array_equal(y, wanted, equal_nan=np.asarray(y).dtype.kind == "f")
        if same or norm(np.asarray(y, np.float64) - wanted) <= tolerance * norm(wanted):
            continue

        def output(given: Any, number: int = i) -> Any:
            return arrays_of(reference(**given), has_ctx)[number]

        exact = in_precision(case, np.float64)
        precise = output(exact)
        off = norm(np.asarray(y, np.float64) - precise)
        assert off <= max(tolerance * norm(precise), ALLOWANCE * Condition(output, exact, precise).measured()), (
            f"{what}: it differs from the reference by {off / (norm(precise) or 1.0):.1e}, more than rounding "
            "explains; the guard lets through what the kernel is not written for"
        )


def outcome(function: Callable[..., Any], case: Arguments, has_ctx: bool) -> tuple[list[Any], Exception | None]:
    """What it computes from copies of the arguments, and what it raises."""
    copies = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in case.items()}
    try:
        with np.errstate(all="ignore"):
            return arrays_of(function(**copies), has_ctx), None
    except Exception as error:
        return [], error
