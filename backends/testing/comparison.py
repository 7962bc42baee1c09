"""Is a kernel right? An override in float32 against the reference operation in float64, forward and backward.

Errors are judged by norm, relative to the result. Where a result is ill-conditioned (a sum that cancels, a
normalisation of two numbers that are nearly equal, a gradient that vanishes) no computation in float32 meets a relative
tolerance; there the judge is the problem's condition: by how much the reference itself moves when each number that it
is given, ctx included, moves by one unit in its last place of float32. An override may be off by ALLOWANCE times
that. In a problem of good condition this is far below the tolerance, hence loosens nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from unittest import mock

import numpy as np

from backends.backend import Backend
from backends.ops import OPS, Op
from backends.testing.gradients import check_form, kind, norm
from backends.testing.pairs import Pair, Watched, in_precision, pair
from backends.testing.strategies import Arguments, directions

VALUE, GRADIENT = 2e-5, 1e-4
# Gradients are relative to at least this share of the largest of them: one that vanishes is rounding errors in
# proportion to the others
FLOOR = 0.1
# Units in the last place of all inputs that a result may be off by, where that is more than its tolerance
ALLOWANCE = 16


def check_against(
    reference: Op | str | tuple[Callable[..., Any], Callable[..., Any]],
    override: Any,
    case: Arguments,
    *,
    wrt: tuple[str, ...] | None = None,
    seed: int = 0,
    precision: str = "float32",
    value: float = VALUE,
    gradient: float = GRADIENT,
    overwrites: tuple[str, ...] = (),
) -> None:
    """Raises AssertionError unless an override gives the reference's results and gradients at this case.

    reference: an `Op`, its name, or (forward, backward), run in float64. override: a backend, whose methods of that
    name are meant, (forward, backward), or a forward alone. case: the arguments by name; the override gets them in
    `precision`, the reference the same values. wrt: as the reference's op says; needed for a pair of functions.
    value, gradient: tolerances, relative by norm. overwrites: arguments that the override may write its results to.

    Besides, what the override allocates begins as NaN, so that an element left unwritten shows; arguments, cotangent
    and ctx must stay as they were; a second run must repeat the first bit for bit; arguments and a cotangent with gaps
    between their elements give the same. If the override is a backend, either's backward must take the other's ctx,
    because a backend may override one of the two alone.
    """
    wanted, name = pair(reference), reference.name if isinstance(reference, Op) else reference
    if isinstance(override, Backend) and not isinstance(name, str):
        raise TypeError("a backend is compared with an Op or its name; hand (forward, backward) of the backend instead")
    found = pair(override, str(name))
    wrt = wanted.wrt if wrt is None else wrt
    ours = in_precision(case, precision)
    exact = in_precision(ours, np.float64)

    expected = wanted.forward(**exact)
    has_ctx = wanted.backward is not None or returns_ctx(wanted.name)
    with unwritten_is_nan():
        results = [run(found, ours, overwrites, layout) for layout in (in_order, in_order, with_gaps)]
    *outputs, strewn = [arrays_of(result, has_ctx) for result in results]
    outputs_wanted = arrays_of(expected, has_ctx)
    assert len(outputs[0]) == len(outputs_wanted), (
        f"{found.name} returned {len(outputs[0])} arrays, the reference {len(outputs_wanted)}"
    )
    check_repeats(found.name, *outputs)
    for i, (y, right) in enumerate(zip(outputs[0], outputs_wanted, strict=True)):
        what = "y" if len(outputs_wanted) == 1 else f"result {i}"
        dtype = np.asarray(right).dtype if "dtype" in case else np.dtype(precision)
        fits = (np.shape(y), np.asarray(y).dtype) == (np.shape(right), dtype)
        assert fits, f"{found.name}: {what} has shape {np.shape(right)} and dtype {dtype}, got {kind(y)}"

        def output(given: Arguments, number: int = i) -> Any:
            return arrays_of(wanted.forward(**given), has_ctx)[number]

        condition = Condition(output, exact, right)
        compare(f"{found.name}: {what}", y, right, value, norm(right), condition)
        compare(f"{found.name}: {what} of arguments with gaps", strewn[i], right, value, norm(right), condition)
    if wanted.backward is None:
        return
    assert found.backward is not None, f"{found.name} has no backward to compare with the reference's"
    assert wrt is not None, f"{wanted.name}: say by wrt= which arguments the gradients are of"
    u = np.asarray(directions(seed).standard_normal(np.shape(expected[0])).astype(np.float32))
    check_gradients(
        found, wanted, (u, results[0][1], expected[1]), ours, wrt, gradient, exchange=isinstance(override, Backend)
    )


def check_gradients(
    found: Pair,
    wanted: Pair,
    at: tuple[np.ndarray, Any, Any],
    case: Arguments,
    wrt: tuple[str, ...],
    tolerance: float,
    exchange: bool,
) -> None:
    """The gradients of an override against the reference's. at: cotangent in float32, the override's ctx and the
    reference's; case: as the override got it; exchange: whether either's backward must take the other's ctx."""
    u, ctx, exact_ctx = at
    assert found.backward is not None and wanted.backward is not None  # noqa: PT018
    name, backward, dtype = found.name, wanted.backward, case[wrt[0]].dtype
    dy, exact_u = u.astype(dtype), u.astype(np.float64)
    right = backward(exact_u, exact_ctx)
    scale = max(norm(g) for g in right if g is not None)

    def judge(gradients: Any, way: str = "") -> None:
        check_form(name, gradients, wrt, case, dtype)
        for i, argument in enumerate(wrt):
            if right[i] is not None:

                def output(given: Any, number: int = i) -> Any:
                    return backward(*given)[number]

                moved = Condition(output, (exact_u, exact_ctx), right[i])
                size = max(norm(right[i]), FLOOR * scale)
                compare(f"{name}: the gradient of {argument}{way}", gradients[i], right[i], tolerance, size, moved)

    watched = Watched(dy=dy, ctx=ctx)
    with unwritten_is_nan():
        gradients = found.backward(dy, ctx)
        watched.check(f"{name}: backward")
        again = found.backward(dy, ctx)
        strewn = found.backward(with_gaps(dy), ctx)
    judge(gradients)
    check_repeats(f"{name}: backward", list(gradients), list(again))
    judge(strewn, " at a cotangent with gaps")
    if exchange:
        plain_ctx = wanted.forward(**case)[1]
        judge(taken(f"{name}: backward", found.backward, dy, plain_ctx, "the reference's"), " with the reference's ctx")
        judge(taken(f"{wanted.name}: backward", backward, dy, ctx, f"{name}'s"), " by the reference with this ctx")


def taken(name: str, backward: Callable[..., Any], dy: np.ndarray, ctx: Any, whose: str) -> Any:
    """backward(dy, ctx) of another forward's ctx. Raises AssertionError where it does not take it."""
    try:
        return backward(dy, ctx)
    except Exception as error:
        raise AssertionError(
            f"{name} does not take {whose} ctx ({type(error).__name__}: {error}); an override keeps what the reference "
            "keeps, in the same order, because a backend may override forward or backward alone"
        ) from error


def returns_ctx(name: str) -> bool:
    """Whether the forward of an operation without backward returns (y, ctx) all the same."""
    from backends.testing.registry import WITHOUT_CTX

    return name in OPS and name not in WITHOUT_CTX


def arrays_of(result: Any, has_ctx: bool) -> list[Any]:
    """The arrays that an operation computed, without its ctx."""
    if has_ctx:
        return [result[0]]
    return list(result) if isinstance(result, tuple) else [result]


def in_order(x: np.ndarray) -> np.ndarray:
    """A copy, its order in memory kept."""
    return x.copy("K")


def with_gaps(x: np.ndarray) -> np.ndarray:
    """A copy with a gap behind each element, which holds NaN, or a number that is no index."""
    if x.ndim == 0:
        return x.copy()
    nothing = np.nan if x.dtype.kind == "f" else np.iinfo(x.dtype).min if x.dtype.kind == "i" else 0
    wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), nothing, x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def run(found: Pair, case: Arguments, overwrites: tuple[str, ...], layout: Callable[[np.ndarray], np.ndarray]) -> Any:
    """The forward on arrays of its own, of which only those named may change."""
    copies = {k: layout(v) if isinstance(v, np.ndarray) else v for k, v in case.items()}
    watched = Watched(**{k: v for k, v in copies.items() if k not in overwrites})
    result = found.forward(**copies)
    watched.check(f"{found.name}: forward")
    return result


def check_repeats(name: str, first: list[Any], second: list[Any]) -> None:
    """Raises AssertionError unless the arrays are the same to the bit."""
    for a, b in zip(first, second, strict=True):
        same = (a is None and b is None) or np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f")
        assert same, (
            f"{name}: a second run gives other bits, by up to {np.nanmax(np.abs(np.subtract(a, b))):.3g}; "
            "sum in a fixed order, whichever thread is first"
        )


@contextmanager
def unwritten_is_nan() -> Iterator[None]:
    """What an override allocates and leaves unwritten is NaN, not by chance the right value of a call before.

    Covers `np.empty` and `np.empty_like` called from Python and the pool of the Numba kernels.
    """

    def poisoned(make: Callable[..., Any]) -> Callable[..., Any]:
        def empty(*args: Any, **options: Any) -> Any:
            array = make(*args, **options)
            if isinstance(array, np.ndarray) and array.dtype.kind in "fc":
                array.fill(np.nan)
            return array

        return empty

    with ExitStack() as stack:
        with suppress(ImportError):
            # Tells Numba of `np.empty`; loaded later, it would take the patched one for NumPy's ever after
            import numba.np.arrayobj  # noqa: F401

            from backends.numba_kernels.runtime.pool import POOL

            stack.enter_context(mock.patch.object(POOL, "empty", poisoned(POOL.empty)))
        for name in ("empty", "empty_like"):
            stack.enter_context(mock.patch.object(np, name, poisoned(getattr(np, name))))
        yield


class Condition:
    """How far a result moves when every number that it is computed from moves by a unit in its last place."""

    def __init__(self, function: Callable[[Any], Any], given: Any, result: Any) -> None:
        self.function, self.given, self.result = function, given, result

    def measured(self, draws: int = 8) -> float:
        """The norm of the largest of some random movements; expensive, hence only where there is doubt."""
        rng = np.random.default_rng(0)
        moved = (self.function(jittered(self.given, rng)) for _ in range(draws))
        return max(norm(np.asarray(m, np.float64) - self.result) for m in moved)


def jittered(value: Any, rng: np.random.Generator) -> Any:
    """The value with every real array in it, each number times 1 + eps or 1 - eps of float32, by chance."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return np.asarray(value * (1 + np.finfo(np.float32).eps * rng.choice((-1.0, 1.0), value.shape)))
    if isinstance(value, dict):
        return {key: jittered(member, rng) for key, member in value.items()}
    if hasattr(value, "_fields"):
        return type(value)(*(jittered(member, rng) for member in value))
    if isinstance(value, tuple | list):
        return type(value)(jittered(member, rng) for member in value)
    return value


def compare(what: str, found: Any, right: Any, tolerance: float, size: float, condition: Condition) -> None:
    """Raises AssertionError unless |found - right| <= tolerance size, or what float32 can tell."""
    off = np.abs(np.asarray(found, np.float64) - right)
    if norm(off) <= tolerance * size:
        return
    rounding = ALLOWANCE * condition.measured()
    if norm(off) <= rounding:
        return
    if np.isnan(off).any():
        place = tuple(int(i) for i in np.argwhere(np.isnan(off))[0])
        raise AssertionError(
            f"{what} is NaN at {place} and {int(np.isnan(off).sum())} of {off.size} places: an element that was never "
            "written (allocations begin as NaN here), or a division by zero"
        )
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(off)), off.shape))
    raise AssertionError(
        f"{what} is wrong: relative error {norm(off) / (size or 1.0):.1e} (allowed {tolerance:.0e}; rounding in "
        f"float32 explains {rounding / (size or 1.0):.0e}), largest difference {off[place]:.3g} at {place}, where "
        f"the override gives {np.asarray(found)[place]:.6g} and the reference {np.asarray(right)[place]:.6g}"
    )
