"""Is a backward exact? The complex step tells: `<f'(x) v, u> = <v, backward(u)>` for random directions v and u.

`Im f(x + ih v) / h` has no subtraction, hence no truncation error at h = 1e-30 and rounding error only
(Martins, Sturdza & Alonso 2003, "The complex-step derivative approximation"). One forward in complex128 and one
backward in float64 check all elements of an argument's gradient at once. The cotangent u is random: for u of ones the
gradient of a normalisation is zero, whatever terms its backward forgets.
"""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from backends.testing.pairs import Pair, Watched, bound, pair
from backends.testing.strategies import Arguments, directions

STEP = 1e-30
TOLERANCE = 1e-10
# Elements of one gradient that are looked at one by one, once it is known to be wrong
ONE_BY_ONE = 4096


def inner(a: Any, b: Any) -> float:
    """`<a, b>`, real."""
    return float(np.sum(a * b))


def norm(a: Any) -> float:
    """Euclidean, of all elements."""
    return float(np.sqrt(np.sum(np.square(np.asarray(a, np.float64)))))


def check_gradient(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    case: Arguments,
    *,
    wrt: tuple[str, ...] | None = None,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> None:
    """Raises AssertionError unless backward gives the exact gradients of forward at this case.

    forward: (xp, **case) -> (y, ctx), or without `xp`, as the methods of a backend; it must be analytic in the
    arguments of `wrt`: no abs, max, float() or astype of them. backward: (xp, dy, ctx) -> the gradients of the
    arguments that wrt names, in its order, None for an argument that is None.
    case: the arguments by name; real arrays are taken in float64. wrt: by default all of the case's real arrays, in
    the order of forward's parameters. seed: of cotangents and directions. tolerance: of the defect of
    `<f'(x) v, u> = <v, backward(u)>`, relative to the sizes of both sides' vectors, not to sums that may cancel.

    The message says which argument's gradient is wrong, by how much, and where; or what shape, dtype or None came
    instead; or which array was overwritten in place.
    """
    case = {k: v.astype(np.float64) if is_real(v) else v for k, v in case.items()}
    if wrt is None:
        order = [name for name in inspect.signature(forward).parameters if name in case]
        wrt = tuple(name for name in order or case if is_real(case[name]))
    found = Pair(pair((forward, backward)).name, bound(forward), bound(backward), wrt)
    check_pair(found, case, seed, tolerance)


def is_real(value: Any) -> bool:
    """Whether it is an array of real floating-point numbers."""
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def check_pair(checked: Pair, case: Arguments, seed: int, tolerance: float) -> None:
    """`check_gradient` of a pair."""
    name, wrt = checked.name, checked.wrt or ()
    assert checked.backward is not None
    unknown = [argument for argument in wrt if argument not in case]
    assert not unknown, f"{name}: wrt names {unknown[0]!r}, which the case lacks; it has {', '.join(case)}"
    rng = directions(seed)
    arguments = Watched(**case)
    y, ctx = result_of(name, checked.forward(**case))
    arguments.check(f"{name}: forward")
    u = np.asarray(rng.standard_normal(np.shape(y)))
    watched = Watched(**case, dy=u, ctx=ctx)
    gradients = checked.backward(u, ctx)
    watched.check(f"{name}: backward")
    check_form(name, gradients, wrt, case)

    for argument, gradient in zip(wrt, gradients, strict=True):
        if gradient is not None and not np.isfinite(gradient).all():
            place = tuple(int(i) for i in np.argwhere(~np.isfinite(gradient))[0])
            raise AssertionError(f"{name}: the gradient of {argument} is not finite: {gradient[place]} at {place}")

    defects: dict[str, float] = {}
    scale = 0.0
    for argument, gradient in zip(wrt, gradients, strict=True):
        if case[argument] is not None:
            v = np.asarray(rng.standard_normal(case[argument].shape))
            derivative = along(checked, case, argument, v, y)
            defects[argument] = abs(inner(derivative, u) - inner(v, gradient))
            # Added over all arguments, because a gradient may vanish identically (attention to a single key does not
            # depend on q) and then consists of rounding errors of the size of its neighbours
            scale += norm(derivative) * norm(u) + norm(v) * norm(gradient)
    wrong = [argument for argument, defect in defects.items() if not defect <= tolerance * (scale or 1.0)]
    if wrong:
        for argument in wrong:
            check_analytic(checked, case, argument, u, dict(zip(wrt, gradients, strict=True))[argument])
        right = {argument: one_by_one(checked, case, argument, u, y, rng) for argument in wrong}
        given = dict(zip(wrt, gradients, strict=True))
        told = [tell(argument, given, *right[argument], defects[argument] / (scale or 1.0)) for argument in wrong]
        raise AssertionError("\n".join(f"{name}: {line} (allowed {tolerance:.0e})" for line in told))


def result_of(name: str, result: Any) -> tuple[Any, Any]:
    """(y, ctx) of a forward, y float64."""
    assert isinstance(result, tuple) and len(result) == 2, (  # noqa: PT018
        f"{name}: forward returns (y, ctx), ctx being what backward needs; got {kind(result)}"
    )
    y = result[0]
    assert isinstance(y, np.ndarray | np.generic) and y.dtype == np.float64, (  # noqa: PT018
        f"{name}: y of float64 arguments is float64, got {kind(y)}"
    )
    return result


def kind(value: Any) -> str:
    """How a wrong value is told: a shape and dtype, or a type."""
    if isinstance(value, np.ndarray | np.generic):
        return f"shape {value.shape}, {value.dtype}"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"


def check_form(name: str, gradients: Any, wrt: tuple[str, ...], case: Arguments, dtype: Any = np.float64) -> None:
    """Raises AssertionError unless there is a gradient for each argument, None or of its shape and of the dtype."""
    assert isinstance(gradients, tuple), (
        f"{name}: backward returns a tuple, the gradients of {', '.join(wrt)}, got {kind(gradients)}"
    )
    assert len(gradients) == len(wrt), (
        f"{name}: backward returned {len(gradients)} gradients, wrt names {len(wrt)}: {', '.join(wrt)}"
    )
    for argument, gradient in zip(wrt, gradients, strict=True):
        x = case[argument]
        if x is None:
            assert gradient is None, f"{name}: {argument} is None, and so is its gradient; got {kind(gradient)}"
            continue
        fits = gradient is not None and (np.shape(gradient), gradient.dtype) == (x.shape, dtype)
        assert fits, (
            f"{name}: the gradient of {argument} has {argument}'s shape {x.shape} and dtype {np.dtype(dtype)}, "
            f"got {kind(gradient)}"
        )


def along(checked: Pair, case: Arguments, argument: str, v: np.ndarray, y: Any, rtol: float = 1e-9) -> np.ndarray:
    """f'(x) v by one complex step in one argument. Raises AssertionError where forward is not analytic."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.ComplexWarning)
        try:
            moved = checked.forward(**{**case, argument: case[argument] + 1j * STEP * v})[0]
        except np.exceptions.ComplexWarning as warning:
            raise AssertionError(
                f"{checked.name}: forward casts {argument} to real numbers, which hides it from the complex step; "
                "allocate with the dtype of the arguments, and look at real parts only to decide something"
            ) from warning
    assert np.allclose(np.real(moved), y, rtol=rtol, atol=1e-3 * rtol, equal_nan=True), (
        f"{checked.name}: forward is not analytic in {argument}: an imaginary part of 1e-30 changes the real part of y "
        "(abs, a maximum or a comparison of complex numbers?); compare real parts, and square by d * d, not by abs(d)"
    )
    return np.asarray(np.imag(moved) / STEP)


def check_analytic(checked: Pair, case: Arguments, argument: str, u: np.ndarray, gradient: np.ndarray) -> None:
    """Raises AssertionError if backward is right and forward hides from the complex step: a difference quotient, good
    for six digits, agrees with the one and not with the other."""
    x, h = case[argument], 1e-6
    v = np.asarray(directions(0).standard_normal(x.shape))
    ahead, behind = (checked.forward(**{**case, argument: x + step * v})[0] for step in (h, -h))
    quotient = inner(ahead - behind, u) / (2 * h)
    by_step = inner(along(checked, case, argument, v, (ahead + behind) / 2, rtol=1e-3), u)
    by_backward = inner(v, gradient)
    near, far = abs(quotient - by_backward), abs(quotient - by_step)
    assert not (far > 1e-5 * abs(quotient) and near < 1e-3 * far), (
        f"{checked.name}: forward is not analytic in {argument}: backward gives {by_backward:.6g} along a direction, "
        f"as a difference quotient does, the complex step {by_step:.6g}. "
        f"Something takes abs() or real parts of {argument}: "
        "square by d * d, not by abs(d)"
    )


def one_by_one(
    checked: Pair, case: Arguments, argument: str, u: np.ndarray, y: Any, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(indices into the flat gradient, the right values there), by a complex step for each element, or for
    ONE_BY_ONE of them drawn at random."""
    count = case[argument].size
    chosen = np.arange(count) if count <= ONE_BY_ONE else np.sort(rng.choice(count, ONE_BY_ONE, replace=False))
    values = np.empty(len(chosen))
    for i, place in enumerate(chosen):
        v = np.zeros(case[argument].shape)
        v.reshape(-1)[place] = 1.0
        values[i] = inner(along(checked, case, argument, v, y), u)
    return chosen, values


def tell(argument: str, gradients: dict[str, Any], chosen: np.ndarray, right: np.ndarray, defect: float) -> str:
    """One line: the argument, how wrong, where, and what it looks like."""
    gradient = gradients[argument]
    values = np.ravel(gradient)[chosen]
    off = np.abs(values - right)
    worst = int(np.argmax(off))
    place = tuple(int(i) for i in np.unravel_index(chosen[worst], np.shape(gradient)))
    relative = norm(values - right) / (norm(right) or 1.0)
    line = (
        f"the gradient of {argument} is wrong: relative error {relative:.1e}, largest difference {off[worst]:.3g} "
        f"at {place}, where backward gives {values[worst]:.6g} and the complex step {right[worst]:.6g}"
    )
    return f"{line}{guess(argument, gradients, chosen, right)}; defect {defect:.1e}"


def guess(argument: str, gradients: dict[str, Any], chosen: np.ndarray, right: np.ndarray) -> str:
    """What kind of mistake the numbers look like, or nothing."""
    values, size = np.ravel(gradients[argument])[chosen], norm(right)
    if size == 0:
        return f". To the complex step y does not depend on {argument}: does forward take abs() or real parts of it?"
    if norm(values) == 0:
        return ". It is zero everywhere: a term is not passed on"
    for other, gradient in gradients.items():
        if other != argument and gradient is not None and gradient.shape == gradients[argument].shape:
            swapped = norm(np.ravel(gradient)[chosen] - right) <= 1e-9 * size
            if swapped:
                return f". It is what stands for {other}: gradients come in the order of wrt"
    factor = inner(values, right) / size**2
    if abs(factor - 1) > 1e-9 and norm(values - factor * right) <= 1e-9 * norm(values):
        return f". Every element is {factor:.6g} times the right one: a factor is missing or too many"
    return ""
