"""A training that something happens to at a chosen place: what a process of its own runs for `test_sudden_ends`.

Nothing waits for a moment to come: the place itself is patched to let it happen.
"""

import errno
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401
import numba
import sklearn.datasets  # noqa: F401
from llvmlite.binding import ExecutionEngine

from tinyddpm import files
from tinyddpm.cli import main
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.reporting import pictures
from tinyddpm.samplers.walk import Walk
from tinyddpm.training.run_config import DataConfig
from tinyddpm.training.run_folder import Run
from tinyddpm.training.trainer import Trainer

Event = Callable[[], None]


def once(owner: Any, name: str, event: Event, when: Callable[..., bool] = lambda *_: True, call: int = 1) -> None:
    """The event happens in front of the call-th call of owner.name of those that `when` says yes to."""
    function, calls = getattr(owner, name), 0

    def patched(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += when(*arguments)
        if calls == call:
            calls += 1
            event()
        return function(*arguments, **more)

    setattr(owner, name, patched)


def before_a_save(event: Event) -> None:
    """As the checkpoint of step 4 is about to be written."""
    once(Run, "checkpoint", event, lambda run: run.trainer.step == 4)


def in_a_save(event: Event) -> None:
    """As the checkpoint of step 4 has been written aside and is not flushed yet."""
    before_a_save(lambda: once(os, "fsync", event))


def while_compiling(event: Event) -> None:
    """In a callback of LLVM, whose exceptions Python drops, at step 5."""

    def compile_one() -> None:
        once(ExecutionEngine, "_find_module_ptr", event)
        numba.cfunc("int64(int64)", cache=True)(lambda x: x + 1)

    once(Trainer, "launch", compile_one, call=5)


PLACES: dict[str, Callable[[Event], None]] = {
    "in the first second": lambda event: once(DataConfig, "load", event),
    "while compiling": while_compiling,
    "in a step": lambda event: once(Diffusion, "learn", event, call=5),
    "in a save": in_a_save,
    "in a picture while training": lambda event: once(sys.modules["tinyddpm.cli.training_loop"], "draw", event),
    "in a picture at the end": lambda event: once(pictures, "save_gif", event),
}


def send(number: int) -> Event:
    """This process gets the signal, SIGKILL included."""
    return lambda: os.kill(os.getpid(), number)


def fill_the_disk(room: int) -> Event:
    """From now on no file grows beyond that many bytes."""

    def fill() -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))

    return fill


def protect() -> None:
    """From now on no file is opened for writing, as on a disk that the system has remounted after an error."""

    def refuse(path: Any, *_: Any, **__: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fspath(path))

    files.open = refuse  # type: ignore[attr-defined]


def move(folder: Path, replaced: bool) -> Event:
    """The run's folder gets another name; a new one may take its place."""

    def rename() -> None:
        folder.rename(folder.with_name("moved"))
        if replaced:
            folder.mkdir()

    return rename


def wait_for(there: Path, go: Path) -> Event:
    """Makes the file `there` and waits for the file `go`."""

    def wait() -> None:
        there.touch()
        end = time.monotonic() + 60
        while not go.exists() and time.monotonic() < end:
            time.sleep(0.005)

    return wait


def unable_to_flush_folders() -> None:
    """fsync answers as on file systems that know it for files alone."""
    fsync = os.fsync

    def patched(number: int) -> None:
        if Path(f"/proc/self/fd/{number}").is_dir():
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(number)

    os.fsync = patched


def train(
    arguments: list[str], out: Path | None, err: Path | None, place: str | None = None, event: Event | None = None
) -> None:
    """The command line with stdout and stderr going to these files, or to pipes that nobody reads."""
    for number, path in ((1, out), (2, err)):
        if path is None:
            reading, writing = os.pipe()
            os.close(reading)
        else:
            writing = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(writing, number)
        os.close(writing)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
    if place is not None and event is not None:
        PLACES[place](event)
    main(arguments)


def sample_and_die(arguments: list[str], out: Path, err: Path, call: int) -> None:
    """The command line, killed in front of the call-th of the steps and of all that changes what lies on the disk."""
    done = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def patched(*args: Any, **more: Any) -> Any:
            nonlocal done
            done += 1
            if done == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **more)

        return patched

    for owner, name in ((os, "fsync"), (os, "sync"), (Path, "replace"), (Path, "unlink"), (Walk, "output_and_v")):
        setattr(owner, name, counted(getattr(owner, name)))
    train(arguments, out, err)


def sample_and_get(arguments: list[str], out: Path, err: Path, number: int) -> None:
    """The command line that gets a signal in the third batch of two steps."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    once(Walk, "output_and_v", send(number), call=6)
    train(arguments, out, err)


def train_and_get(arguments: list[str], out: Path, err: Path, place: str, number: int, ignored: bool = False) -> None:
    """`train` that gets a signal at a place; ignored: by its parent process too, as under nohup."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if ignored:
        signal.signal(number, signal.SIG_IGN)
    numba.config.CACHE_DIR = str(out.parent / "kernels")
    train(arguments, out, err, place, send(number))


def train_and_meet(kind: str, folder: Path, arguments: list[str], out: Path, err: Path) -> None:
    """`train` that meets something else, by its name in `test_sudden_ends`."""
    happen = {
        # In the middle of the fifth row
        "a disk full for the log": lambda: PLACES["in a step"](fill_the_disk(420)),
        "a disk full for a checkpoint": lambda: before_a_save(fill_the_disk(5_000)),
        "a disk full for a picture": lambda: PLACES["in a picture at the end"](fill_the_disk(2_000)),
        "a disk that is write-protected": lambda: PLACES["in a step"](protect),
        "a folder that is moved": lambda: PLACES["in a step"](move(folder, replaced=False)),
        "a folder that is replaced": lambda: in_a_save(move(folder, replaced=True)),
    }
    happen[kind]()
    train(arguments, out, err)


def train_unable_to_flush_folders(arguments: list[str], out: Path, err: Path) -> None:
    unable_to_flush_folders()
    train(arguments, out, err)


def train_and_wait(arguments: list[str], out: Path, err: Path, place: str, there: Path, go: Path) -> None:
    train(arguments, out, err, place, wait_for(there, go))
