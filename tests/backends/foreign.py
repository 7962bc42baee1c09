"""An array namespace as unforgiving as CuPy's: nothing converts to or from NumPy by itself.

CuPy refuses to mix its arrays with NumPy's and to turn one into the other unasked; up to version 14 its arrays
have no `__array_namespace__` and its creation functions take no `device`. On top of that, no array here can
be read on the host (`bool`, `float`, `int`, iteration) nor indexed by data: either waits for the device,
which a captured CUDA graph forbids.
"""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

SCALARS = (bool, int, float, complex)


class ForeignArray:
    """An array that lives elsewhere; only `ForeignNamespace` reads it."""

    __array_ufunc__ = None
    __iter__ = None

    def __init__(self, data: np.ndarray) -> None:
        self._data = data

    @property
    def shape(self) -> tuple[int, ...]:
        return self._data.shape

    @property
    def ndim(self) -> int:
        return self._data.ndim

    @property
    def dtype(self) -> np.dtype:
        return self._data.dtype

    @property
    def T(self) -> "ForeignArray":
        return ForeignArray(self._data.T)

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("implicit conversion of a foreign array to the host")

    __array__ = __bool__ = __float__ = __int__ = __index__ = __complex__ = __len__ = _refuse

    def __getitem__(self, key: Any) -> "ForeignArray":
        return ForeignArray(np.asarray(self._data[plain_key(key)]))

    def __setitem__(self, key: Any, value: Any) -> None:
        self._data[plain_key(key)] = unwrapped(value)

    def __neg__(self) -> "ForeignArray":
        return ForeignArray(np.asarray(-self._data))


def binary(function: Callable[[Any, Any], Any], swapped: bool) -> Callable[[ForeignArray, Any], ForeignArray]:
    """The method that applies an operator to a foreign array and another or a Python number."""

    def method(self: ForeignArray, other: Any) -> ForeignArray:
        pair = (unwrapped(other), self._data) if swapped else (self._data, unwrapped(other))
        return ForeignArray(np.asarray(function(*pair)))

    return method


for name in (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and",
    "or",
    "xor",
    "lshift",
    "rshift",
):
    symbol = f"__{name}__"
    setattr(ForeignArray, symbol, binary(getattr(operator, symbol), swapped=False))
    setattr(ForeignArray, f"__r{name}__", binary(getattr(operator, symbol), swapped=True))
for name in ("lt", "le", "gt", "ge", "eq", "ne"):
    symbol = f"__{name}__"
    setattr(ForeignArray, symbol, binary(getattr(operator, symbol), swapped=False))


def plain_key(key: Any) -> Any:
    """The key, if it is made of integers, slices, None and dots only."""
    for part in key if isinstance(key, tuple) else (key,):
        if not (part is None or part is ... or isinstance(part, int | slice)):
            raise TypeError(f"indexing by data: {type(part).__name__}")
    return key


def unwrapped(value: Any) -> Any:
    """The arrays within a foreign value, a Python number as it is; NumPy's own are refused."""
    if isinstance(value, ForeignArray):
        return value._data
    if isinstance(value, list | tuple):
        return type(value)(unwrapped(member) for member in value)
    if isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"implicit conversion of {type(value).__name__} to a foreign array")
    return value


class ForeignNamespace:
    """NumPy's functions for foreign arrays and Python numbers only."""

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(np, name)
        if isinstance(attribute, type) or not callable(attribute):
            return attribute

        def function(*args: Any, **kwargs: Any) -> Any:
            if "device" in kwargs:
                raise TypeError(f"{name}() got an unexpected keyword argument 'device'")
            result = attribute(*unwrapped(args), **{key: unwrapped(value) for key, value in kwargs.items()})
            return ForeignArray(np.asarray(result)) if isinstance(result, np.ndarray | np.generic) else result

        return function


def to_foreign(x: np.ndarray) -> ForeignArray:
    return ForeignArray(x.copy())


def to_numpy(x: ForeignArray) -> np.ndarray:
    assert isinstance(x, ForeignArray)
    return x._data
