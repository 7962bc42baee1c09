"""What an exhibit is made of: the mistake, and the checks that must notice it."""

import sys
import textwrap
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, is_hypothesis_test, settings

from tests.emulation.cupy.streams import drop_all
from tests.emulation.device import cupy_backend
from tests.emulation.launch import KernelError
from tests.museum.switch import Edit, SourceEdit


@dataclass(frozen=True, eq=False)
class Fixture:
    """An argument that is made for each call of a test, as pytest makes what its fixtures yield."""

    name: str
    make: Callable[[], AbstractContextManager[Any]]

    def __str__(self) -> str:
        return self.name


def emulated(precision: str = "fp32") -> Fixture:
    """The CuPy backend on the stand-in."""
    return Fixture(precision, partial(cupy_backend, precision=precision))


@dataclass(frozen=True, eq=False)
class Check:
    """A test function of the suite, or one of its cases, with the arguments that it is called with."""

    test: Callable[..., None]
    arguments: dict[str, Any] = field(default_factory=dict)

    def __call__(self) -> None:
        """Runs it. A Hypothesis test gets a few examples, the same each time and not made smaller."""
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), ExitStack() as stack:
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
            made = {
                name: stack.enter_context(value.make()) if isinstance(value, Fixture) else value
                for name, value in self.arguments.items()
            }
            stack.callback(drop_all)  # what a test leaves on emulated streams that fails
            self.test(**made)

    def cannot_run(self) -> str | None:
        """Why the test is skipped here, by its marks or its module's; None if it is not."""
        of_module = getattr(sys.modules[self.test.__module__], "pytestmark", [])
        marks = [*(of_module if isinstance(of_module, list) else [of_module]), *getattr(self.test, "pytestmark", [])]
        return next((mark.kwargs["reason"] for mark in marks if mark.name == "skipif" and any(mark.args)), None)

    def __str__(self) -> str:
        module = self.test.__module__.removeprefix("tests.")
        # A decorator's own qualified name says nothing
        name = self.test.__qualname__.rpartition("<locals>.")[2]
        values = [
            str(v) if isinstance(v, Fixture) else getattr(v, "__name__", repr(v)) for v in self.arguments.values()
        ]
        return f"{module}.{name}" + (f"({', '.join(textwrap.shorten(v, 40) for v in values)})" if values else "")


def check(test: Callable[..., None], **arguments: Any) -> Check:
    return Check(test, arguments)


@dataclass(frozen=True)
class Mutant:
    """A mistake: its pitfall, a short name, the edits that make it, and the tests, each of which must notice.

    passes: weaker checks, of the kind that let it pass elsewhere, and that must indeed let it pass.
    noticed_by: what the tests raise, and the emulation of kernels; where the library itself refuses to work, its error.
    """

    pitfall: int
    name: str
    edits: tuple[Edit | SourceEdit, ...]
    killers: tuple[Check, ...]
    passes: tuple[Check, ...] = ()
    noticed_by: tuple[type[BaseException], ...] = (AssertionError, pytest.fail.Exception, KernelError)

    def __str__(self) -> str:
        return f"{self.pitfall:02d}-{self.name.replace(' ', '-')}"
