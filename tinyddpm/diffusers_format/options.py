"""The options of a diffusers config file, read strictly: whatever is not understood is refused by name."""

import numbers
from typing import Any, NoReturn

from tinyddpm.checks import as_whole
from tinyddpm.errors import InputError


class Options:
    """The options of one diffusers class: those given, the rest at diffusers' own defaults.

    kind: the class's name. given: its JSON. Raises InputError for an option that `defaults` does not have.
    Entries that begin with an underscore are diffusers' notes to itself.
    """

    def __init__(self, kind: str, given: dict[str, Any], defaults: dict[str, Any]) -> None:
        self.kind = kind
        self.values = defaults | {name: value for name, value in given.items() if not name.startswith("_")}
        for name in self.values.keys() - defaults.keys():
            self.refuse(name, "this option is not known; remove it if it has no effect")

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def refuse(self, name: str, why: str) -> NoReturn:
        """Raises InputError for the value that an option has."""
        raise InputError(f"unsupported {self.kind} option {name}={self.values[name]!r}: {why}")

    def only(self, name: str, *accepted: Any) -> Any:
        """The option's value, one of those accepted."""
        value = self.values[name]
        # 1 == True in Python, but not in JSON
        if not any(value == a and isinstance(value, bool) == isinstance(a, bool) for a in accepted):
            self.refuse(name, f"only {' or '.join(map(repr, accepted))} can be expressed")
        return value

    def flag(self, name: str) -> bool:
        """The option's value, true or false."""
        return self.only(name, True, False)

    def whole(self, name: str, least: int = 1) -> int:
        """The option's value, a whole number of at least `least`."""
        number = as_whole(self.values[name])
        if number is None or number < least:
            self.refuse(name, f"it must be a whole number of at least {least}")
        return number

    def number(self, name: str) -> float:
        """The option's value, any number."""
        value = self.values[name]
        if not isinstance(value, numbers.Real) or isinstance(value, bool):
            self.refuse(name, "it must be a number")
        return float(value)

    def wholes(self, name: str) -> list[int] | None:
        """The option's value, a list of whole numbers of at least 1; None where it is another list or none at all."""
        value = self.values[name]
        found = [as_whole(member) for member in value] if isinstance(value, list) else []
        whole = [number for number in found if number is not None and number >= 1]
        return whole if whole and len(whole) == len(found) else None

    def several(self, name: str) -> list[Any]:
        """The option's value, a list with at least one entry."""
        value = self.values[name]
        if not isinstance(value, list) or not value:
            self.refuse(name, "it must be a list")
        return value
