"""What signatures call an array, of whichever library a backend runs."""

from typing import Any, TypeAlias

# An array of the backend's own library: NumPy's, CuPy's, or any other that keeps the array-API standard. These share
# no type that a checker could name, so this is `Any`; shapes and dtypes stand in the docstrings
Array: TypeAlias = Any

# The module whose functions take such arrays, bound to an operation's first argument: numpy, cupy, array_api_strict
Namespace: TypeAlias = Any

# A dtype of that module, such as `xp.float32`
DType: TypeAlias = Any
