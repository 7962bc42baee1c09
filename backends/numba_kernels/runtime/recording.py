"""Running a function of arrays again without Python: its kernels, one after the other over the same memory.

Between two kernels of a network Python checks arguments, finds memory and writes a plan: some 15 microseconds, while
the kernel itself may take no longer. All of this comes out the same whenever the shapes do. So `Recorder` notes the
plans the first time, and from then on only copies the inputs to where they were, and runs the list.

That is right only if nothing but kernels touches the numbers, and only if they do the same each time. So

- a kernel that is given memory which is neither the recording's nor the model's, nor declared to stay (`fixed`), has
  met the result of something else;
- what kernels make is handed out as `Recorded`, with which NumPy neither computes nor reads nor writes;
- an operation that a subclass replaces counts as something else unless it says `backends.recordable`, and a recording
  is of the methods that its backend had when it was made (`backends.backend.Methods`).

A function that meets any of these is never recorded, but called. What would escape: NumPy on `np.asarray` of a kernel's
result, if what it finds goes neither to a kernel nor into the result; NumPy on the parameters that writes to the
gradients; and a function that asks something else than its inputs what to do.

Where the rest of the code takes part: `addresses.address` checks, `addresses.fixed` declares; `launch.Worker.run`
notes; `pool.Pool.empty` allocates in the ARENA, by `POOL.override`; `functions.gradient_of` puts gradients where they
belong.

Not done, and why: dropout is never recorded, as its mask comes from a seed and a step that a plan would hold fixed;
they would have to be read from memory that each run fills. Noise likewise. Nor are kernels fused or reordered: the list
is what the function did, so each result can be compared with the call's, bit for bit.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from backends.backend import Backend, Methods
from backends.backend import Recorder as PlainRecorder
from backends.numba_kernels.runtime.addresses import ACTIVE, FIXED
from backends.numba_kernels.runtime.forks import hold_during_fork
from backends.numba_kernels.runtime.launch import Worker
from backends.numba_kernels.runtime.pool import POOL, Pool
from backends.numba_kernels.runtime.team import run_steps
from backends.thread_count import threads

# Where all recordings have their arrays. Only one runs at a time, so they share all memory but inputs and outputs.
ARENA = Pool(smallest=1)
ONE_AT_A_TIME = threading.Lock()
hold_during_fork(ARENA.lock)
hold_during_fork(ONE_AT_A_TIME)
# Recordings that are kept by one recorder: inputs, output, and some 200 KB each
MOST = 16


class NotRecordableError(Exception):
    """The function does something that running its kernels again would not do."""


def not_recordable() -> None:
    """To be called by what cannot be run again. Raises NotRecordableError during a recording."""
    if ACTIVE.recording is not None:
        raise NotRecordableError


# What NumPy may do with an array of a recording: say how it lies in memory, and make views of it
VIEWS = {np.shape, np.ndim, np.size, np.reshape, np.ravel, np.transpose, np.swapaxes, np.broadcast_to}
VIEWS |= {np.split, np.array_split}
VIEWING = {"reshape", "ravel", "transpose", "swapaxes", "squeeze", "view", "__getitem__", "__len__"}


def refuse(*_: Any, **__: Any) -> Any:
    """Stands for what NumPy may not do. Raises NotRecordableError."""
    raise NotRecordableError


class Recorded(np.ndarray):
    """What a kernel makes during a recording. NumPy's part in it would not be run again, hence raises
    NotRecordableError; only views are allowed."""

    __array_ufunc__ = refuse

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return super().__array_function__(function, types, args, kwargs) if function in VIEWS else refuse()

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        return part if isinstance(part, np.ndarray) else refuse()  # a number


for method in set(dir(np.ndarray)) - set(dir(object)) - set(vars(Recorded)) - VIEWING:
    if callable(getattr(np.ndarray, method)) and not method.startswith("__array_"):
        setattr(Recorded, method, refuse)


def recorded(array: np.ndarray) -> np.ndarray:
    """The array as one that only kernels write to."""
    view = array.view()
    view.flags.writeable = False
    return view.view(Recorded)


class Recording:
    """The kernels that were run while it was active, in the thread that made it so."""

    def __init__(self, params: np.ndarray, grads: np.ndarray) -> None:
        self.params, self.grads = params, grads
        self.places = [place_of(a) for a in (params, grads)]
        self.seen = 0
        self.calls: list[tuple[Worker, int, np.ndarray]] = []

    def note(self, kernel: Worker, parts: int, plan: np.ndarray) -> None:
        """Takes down a kernel."""
        self.calls.append((kernel, parts, plan))

    def check(self, array: np.ndarray) -> None:
        """Raises NotRecordableError unless the array will hold the same, or what a kernel puts there, next time."""
        start, _ = place_of(array)
        if ARENA.holds(start):
            return
        new = FIXED[self.seen :]
        self.places += [place_of(a) for a in new]
        self.seen += len(new)
        if not any(0 <= start - place < size for place, size in self.places):
            raise NotRecordableError

    def gradient_of(self, parameter: np.ndarray) -> np.ndarray | None:
        """Where among the gradients that of this parameter belongs; None for an array that is none of the parameters.

        A gradient that is made there need not be copied to it.
        """
        first = (place_of(parameter)[0] - place_of(self.params)[0]) // self.params.itemsize
        if parameter.flags.c_contiguous and 0 <= first < self.params.size:
            return recorded(self.grads[first : first + parameter.size].reshape(parameter.shape))
        return None

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """What a kernel writes to, as of `Pool.empty`."""
        return recorded(ARENA.empty(shape, dtype))

    def __enter__(self) -> "Recording":
        ACTIVE.recording = POOL.override.pool = self
        return self

    def __exit__(self, *_: Any) -> None:
        ACTIVE.recording = POOL.override.pool = None


def place_of(array: np.ndarray) -> tuple[int, int]:
    """Address and bytes of a contiguous array."""
    return array.__array_interface__["data"][0], array.nbytes


class Program:
    """A recorded function for inputs of certain shapes."""

    def __init__(self, function: Callable[..., Any], recording: Recording, inputs: tuple[Any, ...]) -> None:
        """Runs the function. Raises NotRecordableError, and what the function raises: also where NumPy finds that it
        may not write to what a kernel has made."""
        self.inputs = [None if a is None else ARENA.empty(a.shape, a.dtype) for a in inputs]
        self.fill(inputs)
        with recording:
            output = function(*(None if a is None else recorded(a) for a in self.inputs))
            recording.check(output)
            self.output = np.asarray(output)
        # Plans, and the memory that they point to, live as long as this
        self.calls, self.chunks = recording.calls, list(ARENA.chunks)
        steps = [(kernel.address, parts, place_of(plan)[0]) for kernel, parts, plan in self.calls]
        self.steps = np.array(steps, np.int64).reshape(-1, 3)

    def fill(self, inputs: tuple[Any, ...]) -> None:
        """Puts the inputs where the kernels read them."""
        for place, given in zip(self.inputs, inputs, strict=True):
            if place is not None:
                place[...] = given

    def run(self, inputs: tuple[Any, ...]) -> None:
        """Runs the kernels; the result is in `output`."""
        self.fill(inputs)
        run_steps(self.steps)


class Recorder(PlainRecorder):
    """Functions of arrays or None to one array, recorded at the first call with inputs of certain shapes.

    They may also use the flat arrays params and grads: these must stay where they are.
    """

    def __init__(self, backend: Backend, params: np.ndarray, grads: np.ndarray) -> None:
        self.methods = Methods(backend)
        self.params, self.grads = params, grads
        self.programs: OrderedDict[Any, Program] = OrderedDict()
        self.not_recordable: set[Any] = set()

    def run(self, name: Hashable, function: Callable[..., Any], *inputs: Any) -> Any:
        """function(*inputs), a new array. name: as of `backends.Recorder.run`."""
        if ACTIVE.recording is not None:
            return function(*inputs)
        key = (name, threads(), *(None if a is None else (a.shape, a.dtype) for a in inputs))
        with ONE_AT_A_TIME:
            if self.methods.have_changed():
                self.programs.clear()
                self.not_recordable.clear()
            program = self.program(key, function, inputs) if self.methods.recordable else None
            if program is not None:
                result = POOL.empty(program.output.shape, program.output.dtype)
                result[...] = program.output
                return result
        return function(*inputs)

    def program(self, key: Any, function: Callable[..., Any], inputs: tuple[Any, ...]) -> Program | None:
        """What was run for these inputs, recorded or replayed; None if it cannot be recorded."""
        program = self.programs.get(key)
        if program is not None:
            self.programs.move_to_end(key)
            program.run(inputs)
        elif key not in self.not_recordable:
            try:
                program = Program(function, Recording(self.params, self.grads), inputs)
            except Exception:  # if it is a mistake, the call raises it again
                self.not_recordable.add(key)
            else:
                self.programs[key] = program
                if len(self.programs) > MOST:
                    self.programs.popitem(last=False)
        return program
