"""Running a function of arrays again without Python: its launches, captured in a CUDA graph.

A training step launches some hundreds of kernels of a few microseconds each; Python needs longer than that to launch
one. So `Recorder` calls a function as it is the first time (kernels are compiled, memory is found), captures it the
second, and from then on copies the inputs to where they were and launches the graph.

That is right only if nothing but launches touches the numbers, and only in memory that stays. A capture allocates in an
arena of its own (`arena`); CuPy raises where a function waits for the device, copies from the host, or calls a library
that cannot be captured; and a kernel that is given an array which is neither the arena's nor the model's has met
something that may be gone, or stale, at the next replay. Such a function is then called each time, and `reasons` tells
why; so is one that calls an operation which a subclass has replaced and not marked as `backends.recordable`. What would
escape: CuPy's own elementwise operations on arrays from elsewhere; memory that such a function writes besides its
result and the state it declares; and a function that asks something else than its inputs what to do.

Numbers that differ from call to call are inputs like any other: arrays, if only of one element. Inputs in host memory
go to the device while it is still at work on the call before (`uploads`), so that a function of such inputs, a whole
training step say, never keeps it waiting.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any

import numpy as np

from backends.backend import Backend, Methods
from backends.backend import Recorder as PlainRecorder
from backends.cupy_kernels.limits import on_device
from backends.cupy_kernels.runtime.arena import Arena, ArenaFullError
from backends.cupy_kernels.runtime.launch import ACTIVE
from backends.cupy_kernels.runtime.uploads import Uploads

# Where all graphs have their arrays. They run one after the other, so they share all memory but inputs and outputs.
ARENA = Arena()
ONE_AT_A_TIME = threading.RLock()
# Graphs that are kept by one recorder
MOST = 16
# Captures of one function before its memory must have been found: each chunk that is missing costs one
TRIES = 20


class NotCapturableError(Exception):
    """The function does something that launching its kernels again would not do."""


def not_capturable(reason: str) -> None:
    """To be called by what cannot be replayed. Raises NotCapturableError during a capture."""
    if ACTIVE.capture is not None:
        raise NotCapturableError(reason)


class Capture:
    """What a function may use while it is captured in this thread: the arena, and arrays that stay, as the model's."""

    def __init__(self, staying: list[Any]) -> None:
        self.places = [(a.data.ptr, a.nbytes) for a in staying]

    def check(self, array: Any) -> None:
        """Raises NotCapturableError unless the array will hold the same, or what a kernel puts there, next time."""
        address = array.data.ptr
        if ARENA.holds(address) or any(0 <= address - place < size for place, size in self.places):
            return
        raise NotCapturableError(
            f"it uses an array of shape {array.shape} that is neither among its inputs nor the model's"
        )

    def __enter__(self) -> "Capture":
        ACTIVE.capture, ARENA.capturing.now = self, True
        return self

    def __exit__(self, *_: Any) -> None:
        ACTIVE.capture, ARENA.capturing.now = None, False


class Program:
    """A captured function for inputs of certain shapes."""

    def __init__(self, xp: Any, function: Callable[..., Any], capture: Capture, inputs: tuple[Any, ...]) -> None:
        """Captures the function. Raises what its capture raises."""
        sent = [a for a in inputs if isinstance(a, np.ndarray)]
        with xp.cuda.using_allocator(ARENA.allocate):
            self.uploads = Uploads(xp, sent) if sent else None
            arrived = iter(self.uploads.arrays if self.uploads else [])
            self.inputs = [
                None if a is None else next(arrived) if isinstance(a, np.ndarray) else xp.empty(a.shape, a.dtype)
                for a in inputs
            ]
        self.stream = xp.cuda.Stream(non_blocking=True)
        for _ in range(TRIES):
            ARENA.touched.clear()
            try:
                self.graph, self.output = self.captured(xp, function, capture)
            except ArenaFullError as full:
                missing = full.size
            else:
                ARENA.keep()
                return
            # Not where the exception holds the capture's arrays
            ARENA.grow(missing)
        raise NotCapturableError("its memory does not fit the arena")

    def captured(self, xp: Any, function: Callable[..., Any], capture: Capture) -> tuple[Any, Any]:
        """The graph, and the array that it leaves its result in."""
        with self.stream:
            # Whatever this thread does that a capture cannot hold raises, allocation of memory too
            self.stream.begin_capture(xp.cuda.runtime.streamCaptureModeThreadLocal)
            try:
                with capture, xp.cuda.using_allocator(ARENA.allocate):
                    output = function(*self.inputs)
                    if not on_device(output):
                        raise NotCapturableError(f"it returns {type(output).__name__}, not an array on the device")
                    capture.check(output)
            except BaseException:
                self.discard()
                raise
            return self.stream.end_capture(), output

    def discard(self) -> None:
        """Ends a capture that failed. That it is invalid is no news: what made it so is the error to tell."""
        with suppress(Exception):
            self.stream.end_capture()

    def run(self, inputs: tuple[Any, ...]) -> None:
        """Launches the graph on the current stream; the result will be in `output`."""
        if self.uploads is not None:
            self.uploads.send([a for a in inputs if isinstance(a, np.ndarray)])
        for place, given in zip(self.inputs, inputs, strict=True):
            if place is not None and not isinstance(given, np.ndarray):
                place[...] = given
        self.graph.launch()


class Recorder(PlainRecorder):
    """Functions of arrays or None to one array, captured at the second call with inputs of certain shapes.

    They may also use the flat arrays params and grads, and change the state: these must stay where they are. `reasons`
    tells of each function that cannot be captured why.
    """

    def __init__(self, backend: Backend, params: Any, grads: Any, *state: Any) -> None:
        self.methods = Methods(backend)
        self.xp = backend.xp
        self.staying = [a for a in (params, grads, *state) if a is not None]
        # None after the first call
        self.programs: OrderedDict[Any, Program | None] = OrderedDict()
        self.reasons: dict[Any, str] = {}

    def run(self, name: Hashable, function: Callable[..., Any], *inputs: Any) -> Any:
        """function(*inputs), a new array. name: as of `backends.Recorder.run`."""
        if ACTIVE.capture is not None or ACTIVE.first:
            return function(*inputs)
        key = (name, *(None if a is None else (a.shape, a.dtype.str) for a in inputs), *map(on_device, inputs))
        with ONE_AT_A_TIME:
            if self.methods.have_changed():
                self.programs.clear()
                self.reasons.clear()
            if self.methods.recordable and key not in self.reasons:
                if key not in self.programs:
                    return self.first(key, function, inputs)
                program = self.programs[key] or self.program(key, function, inputs)
                if program is not None:
                    self.programs.move_to_end(key)
                    program.run(inputs)
                    return self.copy(program.output)
                ARENA.trim()
        return function(*inputs)

    def first(self, key: Any, function: Callable[..., Any], inputs: tuple[Any, ...]) -> Any:
        """The first call, as it is but for its memory, which the arena will then have."""
        ACTIVE.first = True
        try:
            with self.xp.cuda.using_allocator(ARENA.allocate):
                output = function(*inputs)
        finally:
            ACTIVE.first = False
        self.programs[key] = None
        if len(self.programs) > MOST:
            self.programs.popitem(last=False)
        return self.copy(output)

    def program(self, key: Any, function: Callable[..., Any], inputs: tuple[Any, ...]) -> Program | None:
        """The function captured; None, and a reason, where it cannot be."""
        try:
            program = Program(self.xp, function, Capture(self.staying), inputs)
        except Exception as error:
            # CuPy and CUDA raise types of their own; if it is a mistake, the call raises it again
            self.reasons[key] = " ".join(str(error).split()) or type(error).__name__
            del self.programs[key]
            return None
        self.programs[key] = program
        return program

    def copy(self, output: Any) -> Any:
        """The result in memory that no graph writes to."""
        result = self.xp.empty(output.shape, output.dtype)
        result[...] = output
        return result
