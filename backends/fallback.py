"""Overrides that leave to the reference operation what they are not written for."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from backends.backend import operation

Method = TypeVar("Method", bound=Callable[..., Any])


def unless_reference(fits: Callable[..., bool]) -> Callable[[Method], Method]:
    """A decorator for the method of a backend that overrides the operation of its name.

    fits: the guard. It is called with the operation's own arguments, as the caller gave them; where it says yes, the
    method runs, else the reference operation of `OPS` with exactly these arguments. A guard names the operation's
    parameters from the first one on, with the same defaults, and takes those that it need not know as
    `*rest, **more`. If its very first parameter is called `dtype`, it is given the backend's `dtype` before them.

    Raises TypeError, when the class is defined, if the guard's parameters or the method's are not the operation's.
    """
    own_dtype = next(iter(inspect.signature(fits).parameters), None) == "dtype"

    def decorate(fast: Method) -> Method:
        name = fast.__name__
        expected = parameters(reference(name))[1:]  # less xp
        if parameters(fast)[1:] != expected:  # less self
            raise TypeError(f"{name}: the method takes {told(parameters(fast)[1:])}, the operation {told(expected)}")
        check_guard(fits, name, expected, skip=1 if own_dtype else 0)

        @wraps(fast)
        def with_dtype(self: Any, *args: Any, **kwargs: Any) -> Any:
            if fits(self.dtype, *args, **kwargs):
                return fast(self, *args, **kwargs)
            return reference(name)(self.xp, *args, **kwargs)

        @wraps(fast)
        def without_dtype(self: Any, *args: Any, **kwargs: Any) -> Any:
            if fits(*args, **kwargs):
                return fast(self, *args, **kwargs)
            return reference(name)(self.xp, *args, **kwargs)

        operation: Any = with_dtype if own_dtype else without_dtype
        operation.fits = fits
        return cast(Method, operation)

    return decorate


def reference(name: str) -> Callable[..., Any]:
    """The reference operation of this name, forward or backward. Raises TypeError where there is none."""
    function = operation(name)
    if function is None:
        raise TypeError(f"{name} is the name of no operation")
    return function


def parameters(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    """Name and default of each parameter, in order."""
    return [(p.name, p.default) for p in inspect.signature(function).parameters.values()]


def told(parameters: list[tuple[str, Any]]) -> str:
    """As they stand in a definition: "(x, weight, bias=None)"."""
    listed = (n if default is inspect.Parameter.empty else f"{n}={default!r}" for n, default in parameters)
    return f"({', '.join(listed)})"


def check_guard(fits: Callable[..., bool], name: str, expected: list[tuple[str, Any]], skip: int) -> None:
    """Raises TypeError unless the guard's parameters, less the first `skip`, are the operation's or begin them."""
    taken = list(inspect.signature(fits).parameters.values())[skip:]
    named = [(p.name, p.default) for p in taken if p.kind is p.POSITIONAL_OR_KEYWORD]
    others = {p.kind for p in taken if p.kind is not p.POSITIONAL_OR_KEYWORD}
    takes_rest = others == {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    if named != expected and not (takes_rest and named == expected[: len(named)]):
        guard = getattr(fits, "__name__", "the guard")
        raise TypeError(
            f"{name}: {guard} takes {told(named)}, which neither is nor begins the operation's {told(expected)}; "
            "parameters that it need not know are *rest, **more, at its end"
        )
