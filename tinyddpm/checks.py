"""Checks of configurations and their JSON form."""

from dataclasses import asdict, fields
from typing import Any, Self

from tinyddpm.errors import InputError

# Random numbers are keyed by 64 bits
LARGEST_SEED = 2**64 - 1


def check_whole(name: str, value: Any, least: int = 1, most: int | None = None) -> None:
    """Raises InputError unless value is a whole number of at least `least` and at most `most`."""
    fits = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if not fits or (most is not None and value > most):
        range_ = f"of at least {least}" if most is None else f"in {least} … {most}"
        raise InputError(f"{name} must be a whole number {range_}, got {value!r}")


def check_number(
    name: str, value: Any, low: float, high: float, low_open: bool = False, high_open: bool = False
) -> None:
    """Raises InputError unless value is a number between low and high (either end possibly left out)."""
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    fits = fits and (low < value if low_open else low <= value) and (value < high if high_open else value <= high)
    if not fits:
        interval = f"{'(' if low_open else '['}{low:g}, {high:g}{')' if high_open else ']'}"
        raise InputError(f"{name} must be a number in {interval}, got {value!r}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises InputError unless value is one of the choices."""
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_flag(name: str, value: Any) -> None:
    """Raises InputError unless value is True or False."""
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, got {value!r}")


def check_tuple(name: str, value: Any, example: str) -> None:
    """Raises InputError unless value is a tuple of whole numbers of at least 1."""
    if not isinstance(value, tuple):
        raise InputError(f"{name} must be a tuple of whole numbers, such as {example}, got {value!r}")
    for member in value:
        check_whole(name, member)


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
