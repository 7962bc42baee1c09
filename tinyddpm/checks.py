"""Checks of arguments and configurations, and the JSON form of the latter.

Every check returns the value as Python's own int, float or tuple, so that what is stored goes to JSON and compares
equal whether NumPy's numbers were given or Python's.
"""

import numbers
import operator
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any, Self

import numpy as np

from tinyddpm.errors import InputError

# Random numbers are keyed by 64 bits
LARGEST_SEED = 2**64 - 1


def as_whole(value: Any) -> int | None:
    """value as an int, or None where it is no whole number. NumPy's integers are; 2.0 and True are not."""
    if isinstance(value, bool | np.bool_):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def check_whole(name: str, value: Any, least: int = 1, most: int | None = None, note: str = "") -> int:
    """value as an int. Raises InputError unless it is a whole number of at least `least` and at most `most`.

    note: what the range comes from, for the message.
    """
    number = as_whole(value)
    if number is None or number < least or (most is not None and number > most):
        span = f"of at least {least}" if most is None else f"in {least} … {most}"
        raise InputError(f"{name} must be a whole number {span}{f' ({note})' if note else ''}, got {value!r}")
    return number


def check_number(
    name: str, value: Any, low: float, high: float, low_open: bool = False, high_open: bool = False
) -> float:
    """value as a float. Raises InputError unless it is a real number from low to high (either end can be left out)."""
    fits = isinstance(value, numbers.Real) and not isinstance(value, bool)
    fits = fits and (low < value if low_open else low <= value) and (value < high if high_open else value <= high)
    if not fits:
        interval = f"{'(' if low_open else '['}{low:g}, {high:g}{')' if high_open else ']'}"
        raise InputError(f"{name} must be a number in {interval}, got {value!r}")
    return float(value)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """value. Raises InputError unless it is one of the choices."""
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    return value


def check_flag(name: str, value: Any) -> bool:
    """value. Raises InputError unless it is True or False."""
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, got {value!r}")
    return value


def check_tuple(name: str, value: Any, example: str) -> tuple[int, ...]:
    """value as a tuple of ints. Raises InputError unless it is a tuple of whole numbers of at least 1."""
    if not isinstance(value, tuple):
        raise InputError(f"{name} must be a tuple of whole numbers, such as {example}, got {value!r}")
    return tuple(check_whole(name, member) for member in value)


def check_sides(name: str, value: Any, note: str = "") -> int | tuple[int, int]:
    """A height and width, or one number for both. Raises InputError for anything else; note: as of `check_whole`."""
    if isinstance(value, list) or (isinstance(value, tuple) and len(value) != 2):
        raise InputError(f"{name} must be one number or a tuple (height, width), got {value!r}")
    if isinstance(value, tuple):
        return check_whole(name, value[0], note=note), check_whole(name, value[1], note=note)
    return check_whole(name, value, note=note)


def both_sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of what `check_sides` gave."""
    return size if isinstance(size, tuple) else (size, size)


def settle(config: Any, name: str, check: Callable[..., Any], *limits: Any, **more: Any) -> None:
    """Checks a field of a frozen dataclass under construction, and stores what the check returns in its place."""
    object.__setattr__(config, name, check(name, getattr(config, name), *limits, **more))


class JsonConfig:
    """Mixin for frozen dataclasses that go to JSON and come back, their tuples as lists."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()  # type: ignore[call-overload]
        }

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """The config of these fields. Raises InputError for anything that is not exactly its fields."""
        names = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        if not isinstance(values, dict):
            raise InputError(f"{cls.__name__} is made of a dictionary of its fields, got {values!r}")
        if not set(values) <= names:
            seen = sorted(map(str, set(values) - names))
            raise InputError(f"{cls.__name__} does not know {seen}; it takes {', '.join(sorted(names))}")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
