"""How many threads compute: one number for BLAS, OpenMP and the kernels of the Numba backend.

It comes from `set_threads`, else from the environment variable TINYDDPM_THREADS, which is read when the first
backend is made. Without either the kernels take all processors of this process, and the libraries, which are not
touched, what their own variables (OMP_NUM_THREADS and the like) say, else all processors too. A container's quota of
processor time counts as processors do; libraries do not know of it, so it is set for them as a number would be.
"""

import math
import operator
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import threadpoolctl

ENVIRONMENT = "TINYDDPM_THREADS"
# What libraries read that are loaded later
VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class ThreadsError(ValueError):
    """A number of threads that this process cannot have; the message says what it can."""


class Setting(NamedTuple):
    """A number of threads and where it comes from: the source given to `set_threads`, "quota of processor time" or "all
    processors"."""

    number: int
    source: str


_chosen: Setting | None = None


def processors() -> int:
    """How many processors this process may use: those that it is tied to, or fewer if a quota gives the time of
    fewer."""
    return math.ceil(min(tied_to(), quota()))


def affinity() -> set[int]:
    """The processors that this process may run on, by their numbers; all where the system does not say."""
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def tied_to() -> int:
    """How many processors this process may run on."""
    return len(affinity())


@cache
def quota(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> float:
    """How many processors' time this process's control groups may use; infinity without a limit.

    root: where the file system of control groups is mounted; groups: a file of the groups of this process, a line
    HIERARCHY:CONTROLLERS:PATH each. The smallest limit of a group and those around it counts. Version 2 states it in
    `cpu.max`, "QUOTA PERIOD" in microseconds or "max PERIOD", version 1 in two files, where -1 is no limit.
    """
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return math.inf
    least = math.inf
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers == "":
            top, files = root, ["cpu.max"]
        elif "cpu" in controllers.split(","):
            top, files = root / controllers, ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        # Inside a container the path may be the host's, of which only the top is mounted
        group = top / path.lstrip("/")
        for folder in [group, *group.parents[: len(group.parts) - len(top.parts)]]:
            try:
                limit, period = " ".join((folder / file).read_text() for file in files).split()
                if limit != "max" and int(limit) > 0:
                    least = min(least, int(limit) / int(period))
            except (OSError, ValueError):
                continue
    return least


def setting() -> Setting:
    """The number of threads in force, and its source."""
    return _chosen or Setting(processors(), "all processors")


def threads() -> int:
    """The number of threads in force."""
    return setting().number


def set_threads(count: int | str, source: str = "threads") -> None:
    """Limits BLAS, OpenMP and the kernels to `count` threads, whether they are loaded already or will be later.

    count: 1 … `processors()`: more would only take turns. source: what an error calls it. Sets the environment
    variables of BLAS and OpenMP too, so child processes inherit it. Call it at the start, not in every step: it takes
    about a millisecond. Raises ThreadsError, with nothing changed, for another count.
    """
    global _chosen
    most = processors()
    try:
        number = int(count) if isinstance(count, str) else operator.index(count)
    except (TypeError, ValueError):
        number = 0
    if not 1 <= number <= most:
        raise ThreadsError(
            f"{source} must be a whole number in 1 … {most}, the processors that this process may use, got {count!r}"
        )
    _chosen = Setting(number, source)
    os.environ.update(dict.fromkeys(VARIABLES, str(number)))
    threadpoolctl.threadpool_limits(number)


def begin() -> None:
    """Takes over TINYDDPM_THREADS, or else a quota, unless a number was chosen before. Raises ThreadsError as
    `set_threads`."""
    if _chosen is not None:
        return
    if os.environ.get(ENVIRONMENT):
        set_threads(os.environ[ENVIRONMENT], ENVIRONMENT)
    elif processors() < tied_to() and not any(variable in os.environ for variable in VARIABLES):
        set_threads(processors(), "quota of processor time")


class Process:
    """Whether this process was forked from one that may have had threads."""

    forked = False


def _note_fork() -> None:
    Process.forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


@contextmanager
def using_openmp() -> Iterator[None]:
    """Within, a library may compute with OpenMP. In a forked process it gets one thread: GNU's OpenMP would wait for
    ever for the threads that the parent had."""
    if not Process.forked:
        yield
        return
    with threadpoolctl.threadpool_limits(1, "openmp"):
        yield


class Pool(NamedTuple):
    """The threads of one library that is loaded; layer: what they are made with."""

    library: str
    layer: str
    threads: int


def pools() -> Iterator[Pool]:
    """Every library's pool of threads in this process."""
    for pool in threadpoolctl.threadpool_info():
        home = Path(pool["filepath"]).parent.name
        yield Pool(f"{pool['internal_api']} of {home}", pool.get("threading_layer", "openmp"), pool["num_threads"])
