"""Finding the operation that first produced a NaN or an infinity."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from backends.backend import Backend
from backends.wrapping import WrappedBackend


class NonFiniteError(ArithmeticError):
    """An operation returned NaN or infinity; the message names it."""


def arrays(value: Any) -> Iterator[Any]:
    """The arrays in an operation's arguments or result: itself or the members of a tuple or list."""
    if isinstance(value, tuple | list):
        for member in value:
            yield from arrays(member)
    elif hasattr(value, "dtype") and hasattr(value, "shape"):
        yield value


class FiniteCheckBackend(WrappedBackend):
    """Another backend whose every operation is checked: slow, for finding out where a NaN came from.

    Raises NonFiniteError naming the first operation that returned one, its number, and whether a non-finite
    number already stood in its arguments (a broken weight or input rather than the operation itself).
    """

    name: ClassVar[str] = "finite-check"

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.calls = 0

    def around(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        result = function(*args, **kwargs)
        # ctx, the last member of a forward's result, only repeats arguments and inner values
        outputs = result if name.endswith("_backward") or not isinstance(result, tuple) else result[0]
        if not self.finite(outputs):
            clean = self.finite([*args, *kwargs.values()])
            where = "from finite arguments" if clean else "from arguments that were already not finite"
            raise NonFiniteError(f"operation {name} (number {self.calls}) returned NaN or infinity {where}")
        return result

    def finite(self, value: Any) -> bool:
        """Whether every floating-point array in value is finite throughout."""
        xp = self.xp
        return all(bool(xp.all(xp.isfinite(a))) for a in arrays(value) if not xp.isdtype(a.dtype, ("integral", "bool")))
