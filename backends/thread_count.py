"""How many threads compute: one number for BLAS, OpenMP and Numba.

It comes from `set_threads`, else from the environment variable TINYDDPM_THREADS, which is read when the first
backend is made. Without either nothing is touched: each library then takes all processors of this process, or what
its own variable (OMP_NUM_THREADS and the like) says.
"""

import operator
import os
import sys
from collections.abc import Iterator
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
    """A number of threads and where it comes from: the source given to `set_threads`, or "all processors"."""

    number: int
    source: str


_chosen: Setting | None = None


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def setting() -> Setting:
    """The number of threads in force, and its source."""
    return _chosen or Setting(processors(), "all processors")


def threads() -> int:
    """The number of threads in force."""
    return setting().number


def set_threads(count: int | str, source: str = "threads") -> None:
    """Limits BLAS, OpenMP and Numba to `count` threads, whether they are loaded already or will be later.

    count: 1 … `processors()`: more would only take turns. source: what an error calls it. Sets the environment
    variables of BLAS and OpenMP too, so child processes inherit it. Call it at the start, not in every step: it takes
    about a millisecond. Raises ThreadsError, with nothing changed, for another count, and for more than Numba was
    launched with (NUMBA_NUM_THREADS).
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
    numba = sys.modules.get("numba")
    if numba is None:
        # Its own default, all processors, leaves room for any later number
        os.environ.pop("NUMBA_NUM_THREADS", None)
    elif number > numba.config.NUMBA_NUM_THREADS:
        raise ThreadsError(
            f"{source} is {number}, but Numba was loaded with at most {numba.config.NUMBA_NUM_THREADS} threads; "
            "unset NUMBA_NUM_THREADS, or set the number before Numba is loaded"
        )
    _chosen = Setting(number, source)
    os.environ.update(dict.fromkeys(VARIABLES, str(number)))
    limit_numba()
    threadpoolctl.threadpool_limits(number)


def limit_numba() -> None:
    """Tells Numba the number that was chosen, if both are there."""
    if _chosen and "numba" in sys.modules:
        # Launches its threads, for which it sets OpenMP's number to that of all processors
        sys.modules["numba"].set_num_threads(_chosen.number)
        threadpoolctl.threadpool_limits(_chosen.number, user_api="openmp")


def begin() -> None:
    """Takes over TINYDDPM_THREADS unless a number was chosen before. Raises ThreadsError as `set_threads`."""
    if _chosen is None and os.environ.get(ENVIRONMENT):
        set_threads(os.environ[ENVIRONMENT], ENVIRONMENT)


class Pool(NamedTuple):
    """The threads of one library that is loaded; layer: what they are made with."""

    library: str
    layer: str
    threads: int


def pools() -> Iterator[Pool]:
    """Every pool of threads in this process; Numba's is launched where Numba is loaded."""
    limit_numba()
    numba = sys.modules.get("numba")
    if numba is not None:
        count = numba.get_num_threads()
        yield Pool("numba", numba.threading_layer(), count)
    for pool in threadpoolctl.threadpool_info():
        home = Path(pool["filepath"]).parent.name
        yield Pool(f"{pool['internal_api']} of {home}", pool.get("threading_layer", "openmp"), pool["num_threads"])
