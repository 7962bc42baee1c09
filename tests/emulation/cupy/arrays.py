"""Device arrays: NumPy's arithmetic, CuPy's manners."""

import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.emulation.cupy import pointers
from tests.emulation.cupy.pointers import MemoryPointer, allocate, is_pinned
from tests.emulation.cupy.streams import STATE, Stream, loose, refuse, submit

# Libraries' work, which a capture refuses (cuBLAS, cuRAND, cuSOLVER), and reductions, which are said to be wrong there
LIBRARIES = {"matmul", "__matmul__", "__rmatmul__", "dot", "tensordot", "einsum", "vdot", "inner"}
REDUCTIONS = {"sum", "mean", "max", "min", "prod", "std", "var", "any", "all", "argmax", "argmin", "cumsum"}


class ndarray:
    """An array on the "device"."""

    __slots__ = ("__weakref__", "_a")
    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        shape: Any,
        dtype: Any = float,
        memptr: MemoryPointer | None = None,
        strides: Any = None,
        order: str = "C",
    ) -> None:
        shape = (shape,) if isinstance(shape, int | np.integer) else tuple(int(side) for side in shape)
        if strides is not None or order != "C":
            raise NotImplementedError("the stand-in makes contiguous arrays only")
        object.__setattr__(self, "_a", allocate(shape, np.dtype(dtype), memptr))

    @classmethod
    def of(cls, a: np.ndarray) -> "ndarray":
        """The device array of this one in device memory."""
        self = cls.__new__(cls)
        object.__setattr__(self, "_a", a)
        return self

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    # To and from the host

    def get(self, stream: Stream | None = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        refuse("a copy to the host")
        stream, source = stream or STATE.stream, self._a
        stream.settle()
        if out is None:
            return np.array(source)
        if out.shape != self.shape or out.dtype != self.dtype:
            raise ValueError(f"get: {self.shape} {self.dtype} into {out.shape} {out.dtype}")
        if not blocking and is_pinned(out) and stream is not Stream.null:
            poison(out)
            stream.later(lambda: np.copyto(out, source))
        else:
            out[...] = source
        return out

    def set(self, arr: Any, stream: Stream | None = None) -> None:
        """Pinned memory on a stream of one's own is read as late as can be; other memory is staged at once."""
        refuse("a copy from the host")
        if arr.shape != self.shape or arr.dtype != self.dtype:
            raise ValueError(f"set: {arr.shape} {arr.dtype} into {self.shape} {self.dtype}")
        stream, target = stream or STATE.stream, self._a
        stream.settle()
        if is_pinned(arr) and stream is not Stream.null:
            poison(target)
            stream.later(lambda: np.copyto(target, arr))
        else:
            target[...] = arr

    def item(self, *args: Any) -> Any:
        refuse("a copy to the host")
        STATE.stream.settle()
        return self._a.item(*args)

    def tolist(self) -> Any:
        return self.get().tolist()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        return self.item().__index__()

    def __bool__(self) -> bool:
        return bool(self.item())

    def __len__(self) -> int:
        return len(self._a)

    def __iter__(self) -> Iterator["ndarray"]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"device {self._a!r}"

    @property
    def data(self) -> MemoryPointer:
        return pointers.pointer_to(self._a)

    # Elements and attributes

    def __getitem__(self, key: Any) -> Any:
        return call("__getitem__", lambda a, k: a[k], (self, key))

    def __setitem__(self, key: Any, value: Any) -> None:
        target, source = loose(self._a), loose(strip(value))
        key = strip(key)
        submit(lambda: target.__setitem__(key, source), devices((self, value)))

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._a, name, value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # above all __array_interface__
            raise AttributeError(name)
        value = getattr(self._a, name)
        if isinstance(value, np.ndarray):
            return ndarray.of(value)  # .T, .real: views
        if not callable(value):
            return value
        if name == "fill":
            return lambda v: self.__setitem__(Ellipsis, v)
        return lambda *args, **kw: call(name, lambda a, *p, **k: getattr(a, name)(*p, **k), (self, *args), kw)


def in_place(name: str) -> Callable[[ndarray, Any], ndarray]:
    def method(self: ndarray, other: Any) -> ndarray:
        target, operand = loose(self._a), loose(strip(other))
        submit(lambda: getattr(target, name)(operand), devices((self, other)))
        return self

    return method


def operator(name: str) -> Callable[..., Any]:
    return lambda self, *other: call(name, lambda a, *b: getattr(a, name)(*b), (self, *other))


for _name in [
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
]:
    setattr(ndarray, f"__{_name}__", operator(f"__{_name}__"))
    setattr(ndarray, f"__r{_name}__", operator(f"__r{_name}__"))
    setattr(ndarray, f"__i{_name}__", in_place(f"__i{_name}__"))
for _name in ["lt", "le", "gt", "ge", "eq", "ne", "neg", "pos", "abs", "invert"]:
    setattr(ndarray, f"__{_name}__", operator(f"__{_name}__"))
ndarray.__module__ = "cupy"


def poison(a: np.ndarray) -> None:
    """Makes it 0xff bytes: NaNs."""
    a.view(np.uint8 if a.flags.c_contiguous and a.ndim else a.dtype)[...] = 0xFF if a.ndim else np.nan


# NumPy's functions on device arrays


def strip(x: Any, host: bool = False) -> Any:
    """Device arrays -> NumPy's, everywhere in x. Host arrays are refused, as CuPy does, unless allowed by `host`."""
    if isinstance(x, ndarray):
        return x._a
    if isinstance(x, tuple | list):
        members = (strip(member, host) for member in x)
        return list(members) if isinstance(x, list) else tuple(members)
    if isinstance(x, np.ndarray) and x.ndim and not host:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>: put it on the device with cupy.asarray")
    return x


def devices(x: Any) -> list[np.ndarray]:
    """The device arrays in x."""
    if isinstance(x, tuple | list):
        return [a for member in x for a in devices(member)]
    return [x._a] if isinstance(x, ndarray) else []


def call(name: str, function: Callable[..., Any], args: tuple, kw: dict[str, Any] | None = None) -> Any:
    """A NumPy function on device arrays. Views cost nothing; results take memory, or `out`."""
    kw = kw or {}
    plain, options = strip(list(args)), {key: strip(value) for key, value in kw.items()}
    used = devices([*args, *kw.values()])
    if STATE.capturing is None:
        STATE.stream.settle()
        found = function(*plain, **options)
        return kw["out"] if kw.get("out") is not None else wrap(found, used)
    if name in LIBRARIES | REDUCTIONS:
        raise NotImplementedError(f"calling {name.strip('_')} under stream capture is not supported")
    inputs, loose_options = [loose(a) for a in plain], {key: loose(value) for key, value in options.items()}
    if kw.get("out") is not None:
        submit(lambda: function(*inputs, **loose_options), used)
        return kw["out"]
    with np.errstate(all="ignore"):
        found = function(*plain, **options)  # for its shape alone: a capture computes nothing
    if isinstance(found, np.ndarray) and any(np.may_share_memory(found, a) for a in used):
        return ndarray.of(found)
    if not isinstance(found, np.ndarray | np.generic):
        return wrap(found, used)
    out = ndarray(found.shape, found.dtype)
    target = loose(out._a)
    submit(lambda: np.copyto(target, function(*inputs, **loose_options)), [*used, out._a])
    return out


def wrap(x: Any, inputs: list[np.ndarray]) -> Any:
    """NumPy's result as device arrays: views of the inputs stay views."""
    if isinstance(x, tuple | list):
        return type(x)(wrap(member, inputs) for member in x) if type(x) in (tuple, list) else x
    if not isinstance(x, np.ndarray | np.generic):
        return x
    if isinstance(x, np.ndarray) and any(np.may_share_memory(x, a) for a in inputs):
        return ndarray.of(x)
    out = ndarray(x.shape, x.dtype)
    out._a[...] = x
    return out


def lift(value: Any, name: str = "") -> Any:
    """A function, submodule or constant of NumPy as this namespace has it."""
    if isinstance(value, types.ModuleType):
        return Namespace(value)
    if isinstance(value, type) or not callable(value):
        return value
    name = name or getattr(value, "__name__", "")
    return lambda *args, **kw: call(name, value, args, kw)


class Namespace:
    """numpy.linalg and the like, on device arrays."""

    def __init__(self, module: types.ModuleType) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        refuse(f"{self.module.__name__}.{name}, a library's work,")
        return lift(getattr(self.module, name))


# Making arrays


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return ndarray(shape, dtype)


def empty_like(prototype: ndarray, dtype: Any = None, **_: Any) -> ndarray:
    return ndarray(prototype.shape, dtype or prototype.dtype)


def array(obj: Any, dtype: Any = None, copy: bool = True, **_: Any) -> ndarray:
    if isinstance(obj, ndarray):
        return call("array", lambda a: np.array(a, dtype), (obj,)) if copy else asarray(obj, dtype)
    refuse("a copy from the host")
    return wrap(np.array(strip(obj, host=True), dtype), [])


def asarray(a: Any, dtype: Any = None, order: Any = None) -> ndarray:
    if isinstance(a, ndarray):
        return a if dtype is None or a.dtype == dtype else a.astype(dtype)
    return array(a, dtype)


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    a = asarray(a, dtype)
    return a if a.flags.c_contiguous else call("array", lambda x: np.array(x, order="C"), (a,))


def asnumpy(a: Any, stream: Stream | None = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> Any:
    if isinstance(a, ndarray):
        return a.get(stream=stream, out=out, blocking=blocking)
    return np.asarray(a)
