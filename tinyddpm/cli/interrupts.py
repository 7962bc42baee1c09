"""Ctrl-C, SIGTERM and SIGHUP, which a terminal sends as it closes: all three stop a command in order."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
# Seconds until an interrupt that was dropped comes again
AGAIN = 0.01


class Interrupted(click.Abort):
    """An interrupt of which there is more to tell than that it came."""


def is_repeated(number: int) -> bool:
    """Whether a second signal of that kind says no more than the first: a terminal that closes may send SIGHUP twice,
    and a system that shuts down SIGTERM after it. Ctrl-C again means that a person does not want to wait."""
    return number in STOPPING and number != signal.SIGINT


@contextmanager
def handled_by(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Within, the stopping signals go to handler. One that the parent process ignores, as nohup does SIGHUP and a shell
    SIGINT for what it runs in the background, stays ignored."""
    old = {}
    if threading.current_thread() is threading.main_thread():
        for number in STOPPING:
            # None: a handler that is not Python's
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                old[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, before in old.items():
            signal.signal(number, before)


@contextmanager
def interrupts() -> Iterator[None]:
    """Within, a stopping signal raises KeyboardInterrupt, and again where that gets lost.

    Python drops what is raised in a callback: where LLVM hands over the code it has compiled, where a weak reference
    dies. It tells `sys.unraisablehook`, which cannot raise, but can have a signal sent a moment later.
    """

    seen = False

    def interrupt(number: int, frame: Any) -> None:
        nonlocal seen
        if seen and is_repeated(number):
            return
        seen = True
        raise KeyboardInterrupt

    def dropped(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, AGAIN)
        else:
            hook(unraisable)

    hook = sys.unraisablehook
    timed = hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread()
    with handled_by(interrupt):
        if not timed:
            yield
            return
        alarm = signal.signal(signal.SIGALRM, interrupt)
        sys.unraisablehook = dropped
        try:
            yield
        finally:
            sys.unraisablehook = hook
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, alarm)


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Within, a stopping signal only sets a flag, which the yielded function reads; Ctrl-C after that interrupts."""
    seen = False

    def note(number: int, frame: Any) -> None:
        nonlocal seen
        if seen and not is_repeated(number):
            raise KeyboardInterrupt
        seen = True

    with handled_by(note):
        yield lambda: seen
