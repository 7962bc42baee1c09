"""Signals that stop a command: in order, wherever they come, and not where the parent process ignores them."""

import signal
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tinyddpm.tiny_runs import QUICK, SIMPLE_OPTIONS, invoke, succeed, tree
from tinyddpm.cli.interrupts import STOPPING, interrupts, stop_signals
from tinyddpm.generation.images import Drawing

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Whatever happens, the handlers are those of before."""
    before = {number: signal.getsignal(number) for number in (*STOPPING, signal.SIGALRM)}
    hook = sys.unraisablehook
    yield
    assert {number: signal.getsignal(number) for number in before} == before
    assert sys.unraisablehook is hook


class Thing:
    pass


def send_in_a_callback(number: int) -> None:
    """The signal comes as a weak reference dies: Python drops what is raised there."""
    thing = Thing()
    reference = weakref.ref(thing, lambda _: signal.raise_signal(number))
    del thing
    assert reference() is None


def sent(send: Callable[[int], None], number: int) -> None:
    """Sends a signal, which is due within ten seconds."""
    send(number)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        time.sleep(0.001)


@pytest.mark.parametrize("send", [signal.raise_signal, send_in_a_callback])
@pytest.mark.parametrize("number", STOPPING)
def test_signals_interrupt(number: int, send: Callable[[int], None]) -> None:
    with interrupts(), pytest.raises(KeyboardInterrupt):
        sent(send, number)


@pytest.mark.parametrize("send", [signal.raise_signal, send_in_a_callback])
def test_a_second_one_interrupts_where_the_first_is_noted(send: Callable[[int], None]) -> None:
    with interrupts(), stop_signals() as stopped:
        send(signal.SIGINT)
        assert stopped()
        with pytest.raises(KeyboardInterrupt):
            sent(send, signal.SIGINT)


def test_a_terminal_that_says_twice_that_it_closes() -> None:
    """Their sender does not mean to be quicker than the checkpoint."""
    with interrupts():
        with stop_signals() as stopped:
            for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
                signal.raise_signal(number)
            assert stopped()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGHUP)
        # While what is open is closed
        for number in (signal.SIGHUP, signal.SIGTERM):
            signal.raise_signal(number)


def test_other_exceptions_in_callbacks_are_shown_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: seen.append(unraisable.exc_type))
    thing = Thing()
    reference = weakref.ref(thing, lambda _: 1 / 0)
    with interrupts():
        del thing
    assert reference() is None
    assert seen == [ZeroDivisionError]
    monkeypatch.undo()


@pytest.mark.parametrize("number", STOPPING)
def test_what_the_parent_process_ignores_stays_ignored(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with interrupts(), stop_signals() as stopped:
            signal.raise_signal(number)
            assert not stopped()
            assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    succeed("train", *SIMPLE_OPTIONS, *QUICK, "--steps", 2, "--out", folder)
    return folder


@pytest.mark.parametrize("number", STOPPING)
@pytest.mark.parametrize("output", ["new.png", "folder"])
def test_a_sample_that_is_stopped_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, output: str
) -> None:
    def stopped(*_: Any, **__: Any) -> Any:
        sent(send_in_a_callback, number)

    monkeypatch.setattr(Drawing, "states", stopped)
    result = invoke("sample", run, "-n", 1, "--steps", 2, "--backend", "numpy", "-o", tmp_path / output)
    assert result.exit_code == 130
    kept = "; 0 of 1 images are kept, the same command goes on" if output == "folder" else ""
    assert result.stderr.strip() == f"error: interrupted{kept}"
    # A folder has the settings that the same command must have
    assert all(Path(name).parts[:2] == ("folder", ".parts") for name in tree(tmp_path))
