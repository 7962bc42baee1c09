"""What an exhibit is made of: the mistake, and the checks that must notice it."""

import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, is_hypothesis_test, settings

from tests.museum.switch import Edit


@dataclass(frozen=True, eq=False)
class Check:
    """A test function of the suite, or one of its cases, with the arguments that it is called with."""

    test: Callable[..., None]
    arguments: dict[str, Any] = field(default_factory=dict)

    def __call__(self) -> None:
        """Runs it. A Hypothesis test gets a few examples, the same each time and not made smaller."""
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            # A mistake may well divide by zero on its way to a wrong result
            warnings.simplefilter("ignore")
            if is_hypothesis_test(self.test):
                attribute = "_hypothesis_internal_use_settings"
                few = settings(
                    getattr(self.test, attribute),
                    max_examples=10,
                    derandomize=True,
                    database=None,
                    phases=[Phase.explicit, Phase.generate],
                    suppress_health_check=list(HealthCheck),
                    report_multiple_bugs=False,
                )
                patch.setattr(self.test, attribute, few)
            self.test(**self.arguments)

    def __str__(self) -> str:
        module = self.test.__module__.removeprefix("tests.")
        # A decorator's own qualified name says nothing
        name = self.test.__qualname__.rpartition("<locals>.")[2]
        values = [getattr(v, "__name__", repr(v)) for v in self.arguments.values()]
        return f"{module}.{name}" + (f"({', '.join(textwrap.shorten(v, 40) for v in values)})" if values else "")


def check(test: Callable[..., None], **arguments: Any) -> Check:
    return Check(test, arguments)


@dataclass(frozen=True)
class Mutant:
    """A mistake: its pitfall, a short name, the edits that make it, and the tests, each of which must notice.

    passes: weaker checks, of the kind that let it pass elsewhere, and that must indeed let it pass.
    noticed_by: what the tests raise; where the library itself refuses to work, the library's error.
    """

    pitfall: int
    name: str
    edits: tuple[Edit, ...]
    killers: tuple[Check, ...]
    passes: tuple[Check, ...] = ()
    noticed_by: tuple[type[BaseException], ...] = (AssertionError, pytest.fail.Exception)

    def __str__(self) -> str:
        return f"{self.pitfall:02d}-{self.name.replace(' ', '-')}"
