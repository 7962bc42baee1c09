"""A backend: one array namespace bound to all operations."""

import importlib
import inspect
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from types import MethodType, ModuleType
from typing import Any, ClassVar, TypeVar, cast

import numpy as np

from backends import thread_count
from backends.array import Array, Namespace
from backends.ops import OPS


def namespace(x: Array) -> Namespace:
    """The array-API namespace of an array: what `x.__array_namespace__()` gives, or CuPy's module, which lacks it."""
    if hasattr(x, "__array_namespace__"):
        return x.__array_namespace__()
    return importlib.import_module(type(x).__module__.partition(".")[0])


def operation(name: str) -> Callable[..., Any] | None:
    """The reference operation of that name, "conv2d" or "conv2d_backward"; None where there is none."""
    op = OPS.get(name.removesuffix("_backward"))
    return None if op is None else op.backward if name.endswith("_backward") else op.forward


def operation_names() -> Iterator[str]:
    """All names of reference operations, forward and backward."""
    for name, op in OPS.items():
        yield name
        if op.backward is not None:
            yield f"{name}_backward"


class Recorder:
    """Calls functions of arrays. A backend may record the first call and replay later ones."""

    def run(self, name: Hashable, function: Callable[..., Any], *inputs: Any) -> Any:
        """function(*inputs), where an input may be None and the result is one array.

        name: identifies the function; the same name must mean the same computation, and it may depend on nothing but
        its inputs. An input may lie in host memory, a NumPy array: the function, which begins with `asarray` of such,
        is handed it there or on the device.
        """
        return function(*inputs)


Method = TypeVar("Method", bound=Callable[..., Any])


def recordable(method: Method) -> Method:
    """Marks a subclass's method of an operation as one that a recorder may run again without calling it.

    It promises that what it does depends on its arguments alone, and that kernels of the backend do all of it: neither
    NumPy, nor CuPy's own functions. A network that meets a method without this mark is called each time.
    """
    method.recordable = True  # type: ignore[attr-defined]
    return method


def may_be_recorded(method: Any) -> bool:
    """Whether it is one of this package's own, or marked as `recordable`."""
    own = getattr(method, "__module__", "").partition(".")[0] == __name__.partition(".")[0]
    return own or getattr(method, "recordable", False)


def called_each_time(method: Method) -> Method:
    """The method, which ends a recording that it is called in."""

    @wraps(method)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.not_recordable()
        return method(self, *args, **kwargs)

    return recordable(cast(Method, called))


class Methods:
    """The methods of a backend's operations, as a recorder sees them."""

    def __init__(self, backend: "Backend") -> None:
        self.backend = backend
        self.seen: list[Any] = []
        self.recordable = False

    def have_changed(self) -> bool:
        """Whether another method stands for an operation than the last time. `recordable` says then of these whether
        all may be recorded: one that was put into a class or an instance may not, unless it is marked."""
        now = [self.of(name) for name in operation_names()]
        if now == self.seen:
            return False
        self.seen = now
        self.recordable = all(method is None or may_be_recorded(method) for method in now)
        return True

    def of(self, name: str) -> Any:
        """The method of that name; None where the reference operation stands, bound to the instance or not."""
        own = vars(self.backend).get(name)
        if own is not None and getattr(own, "__func__", None) is not operation(name):
            return own
        return getattr(type(self.backend), name, None)


class BackendUnavailable(RuntimeError):
    """A backend that this machine cannot run; the message says why and what would make it work."""


def is_made_again(name: str, value: Any) -> bool:
    """Whether a backend makes this attribute at its first use: a reference operation, or a module."""
    return isinstance(value, ModuleType) or getattr(value, "__func__", None) is operation(name) is not None


def restored(kind: "type[Backend]", state: dict[str, Any]) -> "Backend":
    """A backend from what pickle has kept of it. Raises BackendUnavailable where its library does not import."""
    thread_count.begin()
    backend = object.__new__(kind)
    vars(backend).update(state)
    if isinstance(backend.xp, str):
        try:
            backend.xp = importlib.import_module(backend.xp)
        except ImportError as error:
            raise BackendUnavailable(f"{backend.xp}, of a pickled backend, does not import ({error})") from error
    return backend


class Backend:
    """Binds `xp` to every operation of `OPS`: `be.conv2d(x, w, b)` is `conv2d(be.xp, x, w, b)`.

    A subclass overrides an operation by defining a method of its name (`conv2d`, `conv2d_backward`) with
    the same arguments less `xp`; everything not overridden runs the reference operation. Both tell `help` what the
    operation's docstring says. It can be copied and pickled.
    """

    name: ClassVar[str]
    # Memory held beyond live arrays, as a fraction of their peak: gaps and free lists
    unused_share: ClassVar[float] = 0.0
    # Whether calls return before their results are there, so that asking for a number makes the device wait
    asynchronous: ClassVar[bool] = False

    def __init__(self, xp: Namespace) -> None:
        thread_count.begin()
        self.xp = xp

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, method in list(vars(cls).items()):
            function = operation(name)
            if function is None or not inspect.isfunction(method):
                continue
            if method.__doc__ is None:
                method.__doc__ = function.__doc__
            if not may_be_recorded(method):
                setattr(cls, name, called_each_time(method))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        # Reached only for what neither the class nor the instance defines: the reference operations
        function = operation(name)
        if function is None:
            raise AttributeError(f"{type(self).__name__} has no attribute or operation {name!r}")
        # A method of xp: name, docstring and parameters are the function's, but for the first
        bound = MethodType(function, self.xp)
        setattr(self, name, bound)
        return bound

    def __reduce__(self) -> tuple[Any, ...]:
        # Modules cannot be pickled, and what is bound to them is bound again at its first use
        kept = {name: value for name, value in vars(self).items() if not is_made_again(name, value)}
        xp = self.xp.__name__ if isinstance(self.xp, ModuleType) else self.xp
        return restored, (type(self), {**kept, "xp": xp})

    def overrides(self) -> tuple[str, ...]:
        """Names of the operations that this backend replaces, forward or backward, by kernels of its own."""
        return tuple(n for n in OPS if hasattr(type(self), n) or hasattr(type(self), f"{n}_backward"))

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        """x as an array of this backend, of the given dtype (a string or a NumPy dtype) if one is given."""
        return self.xp.asarray(x, dtype=None if dtype is None else getattr(self.xp, np.dtype(dtype).name))

    def to_numpy(self, x: Array) -> np.ndarray:
        """x as a NumPy array in host memory."""
        return np.asarray(x)

    def number(self, x: Array) -> Any:
        """The one number in x as operations take it: Python's, or where x lies on a device of its own, x itself."""
        self.not_recordable()
        return self.to_numpy(x).item()

    def synchronize(self) -> None:
        """Waits until all work given to the device is done."""

    def recorder(self, params: Array, grads: Array, *state: Array | None) -> Recorder:
        """What runs functions many times on inputs of the same shapes.

        params, grads: arrays of one layout that these functions may use besides their inputs, and write gradients to;
        state: other arrays that they change. All must stay where they are.
        """
        return Recorder()

    def not_recordable(self) -> None:
        """To be called by what a recorder must not run again without calling it. Ends the recording, if there is one,
        by an exception that the recorder awaits."""

    def store(self, source: Array, target: Array) -> None:
        """target[...] = source, as an operation of this backend."""
        target[...] = source

    def storing(self) -> AbstractContextManager[None]:
        """A context at whose end all is stored that `store` was given within; until then, perhaps nothing."""
        return nullcontext()

    def memory(self) -> int | None:
        """Bytes that arrays hold on the device, or held free for reuse; None where they are not counted."""
        return None

    def capacity(self) -> int | None:
        """Bytes that arrays could take on a device of its own, those they take now among them; None where arrays lie in
        the memory of the process."""
        return None

    def plain_arrays(self) -> AbstractContextManager[None]:
        """A context in which all arrays are the namespace's own, so that `tracemalloc`, say, sees them."""
        return nullcontext()
