"""Work given to the device: in the order of its stream, as late as that allows; or captured, to be replayed."""

import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np

from tests.emulation.memory import allocation

Call = Callable[[], Any]


class State:
    """The current stream, the one that is captured, and those that have work left."""

    def __init__(self) -> None:
        self.capturing: Stream | None = None
        self.busy: set[Stream] = set()
        self.stream = Stream.null


class Stream:
    """A queue of work. What has no result on the host waits in it until somebody needs it done."""

    null: ClassVar["Stream"]

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: int = 0) -> None:
        self.ptr = 0 if null else id(self)
        self.waits_for_default = not non_blocking
        self.queue: deque[Call] = deque()
        self.given = self.done = 0
        self.captured: list[Call] | None = None
        self.outer: list[Stream] = []

    def __enter__(self) -> "Stream":
        self.outer.append(STATE.stream)
        STATE.stream = self
        return self

    def __exit__(self, *_: Any) -> None:
        STATE.stream = self.outer.pop()

    def use(self) -> "Stream":
        STATE.stream = self
        return self

    # The queue

    def later(self, call: Call) -> None:
        self.queue.append(call)
        self.given += 1
        STATE.busy.add(self)

    def finish(self, until: int | None = None) -> None:
        """Does what was given to it, up to that number of pieces."""
        while self.queue and (until is None or self.done < until):
            self.done += 1
            self.queue.popleft()()
        if not self.queue:
            STATE.busy.discard(self)

    def settle(self) -> None:
        """Does what must be done before the next piece of this stream may run."""
        if self is Stream.null:
            for other in [s for s in STATE.busy if s.waits_for_default]:
                other.finish()
        self.finish()

    def synchronize(self) -> None:
        refuse("waiting for a stream")
        self.settle()

    def record(self, event: "Event | None" = None) -> "Event":
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: "Event") -> None:
        refuse("waiting for an event")
        if event.stream is None:
            return
        stream, mark = event.stream, event.mark
        if self is Stream.null:
            stream.finish(mark)
        else:
            self.later(lambda: stream.finish(mark))

    # Capture

    def begin_capture(self, mode: Any = None) -> None:
        refuse("a second capture")
        if self is Stream.null:
            raise RuntimeError("the default stream cannot be captured; use Stream(non_blocking=True)")
        self.settle()
        self.captured, STATE.capturing = [], self

    def end_capture(self) -> "Graph":
        if STATE.capturing is not self or self.captured is None:
            raise RuntimeError("this stream is not being captured")
        calls, self.captured, STATE.capturing = self.captured, None, None
        return Graph(calls)

    def is_capturing(self) -> bool:
        return STATE.capturing is self


class Graph:
    """Captured work."""

    def __init__(self, calls: list[Call]) -> None:
        self.calls = calls

    def launch(self, stream: Stream | None = None) -> None:
        refuse("the launch of a graph")
        run_in_order(self.replay, stream)

    def replay(self) -> None:
        for call in self.calls:
            call()

    def upload(self, stream: Stream | None = None) -> None:
        refuse("the upload of a graph")


class Event:
    """A place in a stream."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.stream: Stream | None = None
        self.mark, self.time = 0, 0.0

    def record(self, stream: Stream | None = None) -> None:
        refuse("recording an event")
        self.stream = stream or STATE.stream
        self.mark, self.time = self.stream.given, time.perf_counter()

    @property
    def done(self) -> bool:
        return self.stream is None or self.stream.done >= self.mark

    def synchronize(self) -> None:
        refuse("waiting for an event")
        if self.stream is not None:
            self.stream.finish(self.mark)


Stream.null = Stream(null=True)
STATE = State()


def refuse(what: str) -> None:
    """Raises if a stream is captured."""
    if STATE.capturing is not None:
        raise RuntimeError(f"{what} is not allowed while a stream is captured")


def finish_all() -> None:
    """Does all work of all streams."""
    while STATE.busy:
        next(iter(STATE.busy)).finish()


def drop_all() -> None:
    """Forgets all work of all streams, and a capture: what a test leaves that failed."""
    for stream in STATE.busy:
        stream.queue.clear()
        stream.done = stream.given
    STATE.busy.clear()
    if STATE.capturing is not None:
        STATE.capturing.end_capture()


def run_in_order(call: Call, stream: Stream | None = None) -> None:
    """Work without a result on the host: at once on the default stream, on others when somebody waits for it."""
    stream = stream or STATE.stream
    if stream is Stream.null:
        stream.settle()
        call()
    else:
        stream.later(call)


def submit(call: Call, arrays: Iterable[np.ndarray], stream: Stream | None = None, late: bool = False) -> Any:
    """A call on device arrays: done now, or later, or noted for the graph, which does not hold its arrays."""
    stream = stream or STATE.stream
    if STATE.capturing is None:
        if late:
            return run_in_order(call, stream)
        stream.settle()
        return call()
    if stream is not STATE.capturing:
        raise RuntimeError("work on another stream while one is captured; enter the captured one by `with stream:`")
    held = [(weakref.ref(allocation(a)), a.shape) for a in arrays]

    def replay() -> None:
        for ref, shape in held:
            if ref() is None:
                raise RuntimeError(f"a graph uses an array of shape {shape} that was freed after the capture")
        call()

    assert stream.captured is not None
    stream.captured.append(replay)
    return None


class Address:
    """What a noted call needs of an array, without keeping its memory."""

    def __init__(self, a: np.ndarray) -> None:
        self.__array_interface__ = {**a.__array_interface__, "data": (a.ctypes.data, False)}


def loose(a: Any) -> Any:
    """While a stream is captured, an array at the same place that does not keep it alive; else a itself."""
    return np.asarray(Address(a)) if STATE.capturing is not None and isinstance(a, np.ndarray) else a
