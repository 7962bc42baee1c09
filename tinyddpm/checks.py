"""Checks of arguments and configurations, and the JSON form of the latter.

Every check of a number returns it as Python's own int, float or bool, so that what is stored goes to JSON and compares
equal whether NumPy's numbers were given, arrays of no axes among them, or Python's. Every check of an array returns it
as the kernels want it, so that none falls to a slow path unseen.
"""

import numbers
import operator
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any, Self, TypeVar

import numpy as np

import backends
from backends import Array
from tinyddpm.errors import InputError

# Random numbers are keyed by 64 bits
LARGEST_SEED = 2**64 - 1

Kind = TypeVar("Kind")


def as_scalar(value: Any) -> Any:
    """The one number in an array of no axes, as NumPy's or Python's; any other value itself."""
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


def as_whole(value: Any) -> int | None:
    """value as an int, or None where it is no whole number. NumPy's integers are; 2.0 and True are not."""
    value = as_scalar(value)
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


def as_number(value: Any) -> float | None:
    """value as a float, or None where it is no real number. NumPy's numbers are; True is not."""
    value = as_scalar(value)
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def check_number(
    name: str, value: Any, low: float, high: float, low_open: bool = False, high_open: bool = False
) -> float:
    """value as a float. Raises InputError unless it is a real number from low to high (either end can be left out)."""
    number = as_number(value)
    if (
        number is None
        or not (low < number if low_open else low <= number)
        or not (number < high if high_open else number <= high)
    ):
        interval = f"{'(' if low_open else '['}{low:g}, {high:g}{')' if high_open else ']'}"
        raise InputError(f"{name} must be a number in {interval}, got {value!r}")
    return number


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """value. Raises InputError unless it is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    return value


def check_flag(name: str, value: Any) -> bool:
    """value as a bool. Raises InputError unless it is True or False, Python's or NumPy's."""
    flag = as_scalar(value)
    if not isinstance(flag, bool | np.bool_):
        raise InputError(f"{name} must be True or False, got {value!r}")
    return bool(flag)


def check_kind(name: str, value: Any, kind: type[Kind], example: str) -> Kind:
    """value. Raises InputError unless it is of that class; example: how one is made."""
    if not isinstance(value, kind):
        raise InputError(f"{name} must be a {kind.__name__}, such as {example}, got {told(value)}")
    return value


def check_network(model: Any) -> None:
    """Raises InputError unless it is a `Model`, or like one: callable, with a backend and a config."""
    if not (callable(model) and hasattr(model, "backend") and hasattr(model, "config")):
        raise InputError(f"model must be a Model, such as UNet(UNetConfig()), got {told(model)}")


def told(value: Any) -> str:
    """A value in a message of one line: of an array its dtype and shape."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"an array of {value.dtype}, of shape {tuple(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 200 else f"{text[:200]} …"


def check_tuple(name: str, value: Any, example: str) -> tuple[int, ...]:
    """value as a tuple of ints. Raises InputError unless it is a tuple of whole numbers of at least 1."""
    if not isinstance(value, tuple):
        raise InputError(f"{name} must be a tuple of whole numbers, such as {example}, got {value!r}")
    return tuple(check_whole(name, member) for member in value)


def as_floats(name: str, x: Any, dtype: str | None = None) -> Array:
    """x where it is, in host memory or on a device, as kernels want it: of that dtype, native byte order, contiguous.

    x: an array of floating-point numbers, or nested lists. dtype: "float32" or "float64"; by default x's own, where
    that is neither, the next wider one. Complex numbers, which differentiate by the complex step, keep their dtype, and
    are refused in float32. Raises InputError for all else: integers would mostly be bytes, 0 … 255 for what lies in
    [-1, 1].
    """
    if not isinstance(x, np.ndarray) and not (hasattr(x, "dtype") and is_array_of_a_backend(x)):
        try:
            x = np.asarray(x)
        except (TypeError, ValueError) as error:
            raise InputError(f"{name} must be an array of floating-point numbers ({error})") from error
    if isinstance(x, np.ndarray):
        return as_numpy_floats(name, x, dtype)
    xp = backends.namespace(x)
    kinds = "real floating" if dtype == "float32" else ("real floating", "complex floating")
    if not xp.isdtype(x.dtype, kinds):
        raise no_floats(name, x)
    wanted = getattr(xp, dtype or ("float64" if x.dtype == xp.float64 else "float32"))
    if x.dtype != wanted and xp.isdtype(x.dtype, "real floating"):
        x = xp.astype(x, wanted)
    return xp.ascontiguousarray(x) if hasattr(xp, "ascontiguousarray") else x


def is_array_of_a_backend(x: Any) -> bool:
    """Whether operations take it as it is: an array of the array-API standard or CuPy's, not PyTorch's."""
    return hasattr(x, "shape") and hasattr(backends.namespace(x), "isdtype")


def as_numpy_floats(name: str, x: np.ndarray, dtype: str | None) -> np.ndarray:
    """`as_floats` of a NumPy array."""
    if x.dtype.kind not in ("f" if dtype == "float32" else "fc"):
        raise no_floats(name, x)
    if x.dtype.kind == "c":
        wanted = x.dtype.newbyteorder("=")
    else:
        wanted = np.dtype(dtype or ("float32" if x.dtype.itemsize <= 4 else "float64"))
    if x.dtype == wanted and x.flags.c_contiguous and x.flags.aligned:
        return x
    return np.require(x, wanted, ["C", "A"])


def no_floats(name: str, x: Array) -> InputError:
    """What is raised for an array of another kind."""
    if getattr(x.dtype, "kind", "") == "c":
        return InputError(
            f"{name} must be real in float32, got {told(x)}; differentiate in float64 by the complex step"
        )
    return InputError(
        f"{name} must be floating-point numbers, got {told(x)}; bytes 0 … 255 become images in [-1, 1] by "
        "tinyddpm.data.pixels.to_unit"
    )


def check_shape(name: str, x: Array, shape: tuple[int, ...], of: str) -> None:
    """Raises InputError unless x has that shape, which is that `of` something: a smaller one might be broadcast."""
    if tuple(x.shape) != tuple(shape):
        raise InputError(f"{name} must have the shape of {of}, {tuple(shape)}, got {tuple(x.shape)}")


def check_flat(
    name: str, flat: Any, length: int | None = None, complex_too: bool = False, written: bool = False
) -> Array:
    """flat. Raises InputError unless it is what kernels can change in place: one axis, float32 or float64, native byte
    order, contiguous.

    length: of it, if it is known. complex_too: whether complex numbers are taken as well. written: whether it must not
    be read-only.
    """
    size = "" if length is None else f"{length} "
    wanted = f"{name} must be {size}floating-point numbers in one flat, contiguous array of float32 or float64"
    if not (hasattr(flat, "dtype") and is_array_of_a_backend(flat)):
        raise InputError(f"{wanted}, got {told(flat)}")
    if len(flat.shape) != 1 or length not in (None, flat.shape[0]):
        raise InputError(f"{wanted}, got {told(flat)}")
    xp = backends.namespace(flat)
    real = flat.dtype in (xp.float32, xp.float64)
    if not real and not (complex_too and xp.isdtype(flat.dtype, "complex floating")):
        raise InputError(f"{wanted}, got {told(flat)}; cast them, as by .astype('float32')")
    if isinstance(flat, np.ndarray) and not (flat.flags.c_contiguous and flat.flags.aligned):
        raise InputError(f"{wanted}, got one with gaps; pass a copy of it")
    if written and isinstance(flat, np.ndarray) and not flat.flags.writeable:
        raise InputError(f"{name} are changed in place, but this array is read-only; pass a copy of it")
    return flat


def check_labels(labels: Any, n: int, classes: int) -> np.ndarray:
    """labels, in host memory, as (n,) int64. Raises InputError unless they are integers in 0 … classes, where classes
    means "no label"."""
    try:
        found = np.asarray(labels)
    except (TypeError, ValueError) as error:
        raise InputError(f"labels must be {n} integers in host memory ({error})") from error
    if found.shape != (n,) or found.dtype.kind not in "iu":
        raise InputError(f"labels must be {n} integers, got {found.dtype} of shape {found.shape}")
    if n and not (found.min() >= 0 and found.max() <= classes):
        raise InputError(
            f"labels must lie in 0 … {classes} ({classes} means no label), got {found.min()} … {found.max()}"
        )
    return found.astype(np.int64)


def check_indices(t: Any, T: int, n: int | None = None) -> np.ndarray:
    """t as int64, () or (n,). Raises InputError unless it is one index 0 … T-1 of a schedule, or one for each of n."""
    try:
        found = np.asarray(t)
    except (TypeError, ValueError) as error:
        raise InputError(f"t must be an index 0 … {T - 1} in host memory ({error})") from error
    if found.dtype.kind not in "iu":
        raise InputError(f"t must be a whole index 0 … {T - 1} of the schedule, got {told(t)}")
    if found.ndim > 1 or (n is not None and found.shape not in ((), (n,))):
        each = "image" if n is None else f"of the {n} images"
        raise InputError(f"t must be one index or one for each {each}, got shape {found.shape}")
    if found.size and not (found.min() >= 0 and found.max() < T):
        raise InputError(f"t must lie in 0 … {T - 1}, the schedule's {T} steps, got {found.min()} … {found.max()}")
    return found.astype(np.int64)


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
