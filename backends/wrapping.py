"""A backend around another, which sees every operation that is called."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any

import numpy as np

from backends.array import Array
from backends.backend import Backend, operation


class WrappedBackend(Backend):
    """Another backend, `inner`; each operation goes through `around`, every other method to it unchanged.

    Only `recorder` stays behind: a replay calls no operation, so that `around` would see none.
    """

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner.xp)
        self.inner = inner

    def around(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the operation of this name returns. A subclass calls function(*args, **kwargs) in the midst of its own
        work."""
        return function(*args, **kwargs)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if operation(name) is None:
            raise AttributeError(f"{type(self).__name__} has no attribute or operation {name!r}")
        function = getattr(self.inner, name)

        @wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return self.around(name, function, *args, **kwargs)

        return wrapped

    def overrides(self) -> tuple[str, ...]:
        return self.inner.overrides()

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        return self.inner.asarray(x, dtype)

    def to_numpy(self, x: Array) -> np.ndarray:
        return self.inner.to_numpy(x)

    def number(self, x: Array) -> Any:
        return self.inner.number(x)

    def synchronize(self) -> None:
        self.inner.synchronize()

    def store(self, source: Array, target: Array) -> None:
        self.inner.store(source, target)

    def storing(self) -> AbstractContextManager[None]:
        return self.inner.storing()

    def not_recordable(self) -> None:
        self.inner.not_recordable()

    def capacity(self) -> int | None:
        return self.inner.capacity()

    def memory(self) -> int | None:
        return self.inner.memory()

    def plain_arrays(self) -> AbstractContextManager[None]:
        return self.inner.plain_arrays()
