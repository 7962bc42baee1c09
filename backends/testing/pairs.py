"""What is checked: a forward with its backward, however it is handed over."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import numpy as np

from backends.backend import Backend
from backends.ops import OPS, Op
from backends.testing.strategies import Arguments


class Pair(NamedTuple):
    """A forward and a backward, NumPy's namespace bound where they take one; wrt: None if nothing says it."""

    name: str
    forward: Callable[..., Any]
    backward: Callable[..., Any] | None
    wrt: tuple[str, ...] | None


def bound(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with NumPy as its `xp`, if that is its first parameter; a method of a backend as it is."""
    names = list(inspect.signature(function).parameters)
    return (lambda *args, **named: function(np, *args, **named)) if names[:1] == ["xp"] else function


def pair(operation: Any, name: str = "") -> Pair:
    """From an `Op`, its name in `OPS`, a backend (then `name` says which of its operations), (forward, backward), or
    a forward alone."""
    if isinstance(operation, str):
        if operation not in OPS:
            raise ValueError(f"there is no operation {operation!r}; OPS has {', '.join(OPS)}")
        operation = OPS[operation]
    if isinstance(operation, Op):
        backward = None if operation.backward is None else bound(operation.backward)
        return Pair(operation.name, bound(operation.forward), backward, operation.wrt)
    if isinstance(operation, Backend):
        op = OPS[name]
        backward = getattr(operation, f"{name}_backward") if op.backward else None
        return Pair(f"{operation.name}'s {name}", getattr(operation, name), backward, op.wrt)
    forward, backward = operation if isinstance(operation, tuple) else (operation, None)
    called = getattr(forward, "__name__", "forward")
    return Pair(called, bound(forward), None if backward is None else bound(backward), None)


def arrays_in(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """(place, array) for the arrays in a ctx: itself, members of tuples, lists and dictionaries, fields of records."""
    if isinstance(value, np.ndarray | np.generic):
        yield place, value
    elif hasattr(value, "_fields"):
        for name in value._fields:
            yield from arrays_in(getattr(value, name), f"{place}.{name}")
    elif isinstance(value, tuple | list):
        for i, member in enumerate(value):
            yield from arrays_in(member, f"{place}[{i}]")
    elif isinstance(value, dict):
        for key, member in value.items():
            yield from arrays_in(member, f"{place}[{key!r}]")
    elif is_dataclass(value):
        for field in fields(value):
            yield from arrays_in(getattr(value, field.name), f"{place}.{field.name}")


class Watched:
    """Arrays that a call must leave as they are: `watched.check("backward")` after it."""

    def __init__(self, **values: Any) -> None:
        self.arrays = [found for name, value in values.items() for found in arrays_in(value, name)]
        self.copies = [array.copy() for _, array in self.arrays]

    def check(self, call: str) -> None:
        """Raises AssertionError that names the first array which is no longer what it was."""
        for (name, array), copy in zip(self.arrays, self.copies, strict=True):
            if not np.array_equal(array, copy, equal_nan=array.dtype.kind in "fc"):
                place = first_difference(array, copy)
                raise AssertionError(
                    f"{call} overwrote {name}: at {place} it was {copy[place]:.6g} and is {array[place]:.6g}; "
                    "compute into a new array (an operator such as += or out= works in place)"
                )


def first_difference(a: np.ndarray, b: np.ndarray) -> tuple[int, ...]:
    """Index of the first element in which arrays of one shape differ, NaN being equal to NaN."""
    different = (a != b) & ~((a != a) & (b != b))
    return tuple(int(i) for i in np.argwhere(different)[0])


def in_precision(case: Arguments, dtype: Any) -> Arguments:
    """A copy of the case, its real arrays in that dtype, their order in memory kept."""
    return {
        name: np.array(value, dtype if value.dtype.kind == "f" else value.dtype, order="K")
        if isinstance(value, np.ndarray)
        else value
        for name, value in case.items()
    }


def single(case: Arguments) -> Arguments:
    """The case in float32."""
    return in_precision(case, np.float32)


def double(case: Arguments) -> Arguments:
    """The case in float64, at the values that float32 holds."""
    return in_precision(single(case), np.float64)
