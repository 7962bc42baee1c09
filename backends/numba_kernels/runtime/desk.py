"""The loop in which threads share out the parts of kernels: compiled, and all that it keeps is numbers on a desk.

The thread that calls and its helpers run the same loop. For each step every thread has a range of the step's parts; it
takes the next part of its own range, and once that is empty, of the others'. The thread that finishes a step's last
part opens the next step. So nobody is waited for but threads in the middle of a part, and a thread that has lost its
core to another process costs no more than its work: the others take it over. What a part computes does not depend on
who runs it, or when.

A range is a counter TICKET of parts taken, ever, and the number LIMIT up to which they may be: to take one is to raise
TICKET by a compare-and-exchange while it is below LIMIT. Both only grow, so a thread that comes back after a long
time takes a part of the present step or none; and as the step cannot end without the part that was taken, its FUNCTION
and PLAN can be read afterwards. A range of no parts is left as it is: otherwise a slow thread could undo there what
the next step has set.

A thread without work looks a hundred times, then offers its core to others between two looks. A helper that looks for
long enough leaves the loop, and sleeps (`team`).
"""

import sys
from ctypes import CDLL, c_void_p, cast
from functools import cache, partial

import numpy as np
from numba import njit

from backends.numba_kernels.runtime.addresses import call0, call2, longs
from backends.numba_kernels.runtime.atomics import add, exchange, load, store
from backends.numba_kernels.runtime.compilation import compiled
from backends.numba_kernels.runtime.pool import aligned_empty

# The desk: where in memory, in bytes, all that the threads share is. Two cache lines for what is written together,
# since processors fetch them in pairs
LINE = 128
STEPS, COUNT, THREADS, RUN, GIVE_WAY = range(0, 40, 8)
FUNCTION, PLAN, STEP, OPEN = range(LINE, LINE + 32, 8)
LEFT = 2 * LINE
RANGES = 3 * LINE
TICKET, LIMIT, SHIFT = range(0, 24, 8)

# Looks of a thread without work before it offers its core; before a helper sleeps, some 100 microseconds; and before
# one sleeps that was woken for a run which has not begun
LOOKS, PATIENCE, LONG_PATIENCE = 100, 500, 10_000


@njit(inline="always")
def _share_out(desk, function, parts, plan):
    """Makes the parts of a step free to be taken."""
    store(desk + FUNCTION, function)
    store(desk + PLAN, plan)
    store(desk + LEFT, parts)
    threads = load(desk + THREADS)
    for thread in range(threads):
        first, last = parts * thread // threads, parts * (thread + 1) // threads
        if first < last:
            line = desk + RANGES + thread * LINE
            limit = load(line + LIMIT)
            store(line + SHIFT, limit - first)
            store(line + LIMIT, limit + last - first)


@njit(inline="always")
def _open_next(desk):
    """Shares out the next step of several parts; what comes before it is run here."""
    while True:
        step = load(desk + STEP) + 1
        store(desk + STEP, step)
        if step == load(desk + COUNT):
            store(desk + OPEN, 0)
            return
        row = longs(load(desk + STEPS) + step * 24)
        if row[1] > 1:
            _share_out(desk, row[0], row[1], row[2])
            return
        if row[1] == 1:
            call2(row[0], 0, row[2])


@njit(inline="always")
def _take_part(desk, me):
    """Runs a part that nobody has taken yet, of this thread's range if there is one. Returns whether there was any."""
    threads = load(desk + THREADS)
    for i in range(threads):
        line = desk + RANGES + (me + i) % threads * LINE
        ticket = load(line + TICKET)
        if ticket < load(line + LIMIT) and exchange(line + TICKET, ticket, ticket + 1):
            call2(load(desk + FUNCTION), ticket - load(line + SHIFT), load(desk + PLAN))
            if add(desk + LEFT, -1) == 1:
                _open_next(desk)
            return True
    return False


@njit(inline="always")
def _look(desk, me, looks):
    """Runs a part if there is one, else may offer the core to others. Returns how often it looked without finding any,
    which was `looks`."""
    if me < load(desk + THREADS) and _take_part(desk, me):
        return 0
    if looks >= LOOKS:
        call0(load(desk + GIVE_WAY))
    return looks + 1


def _lead(desk, steps, count, threads):
    """The caller's share of a run: all steps, from the first on."""
    store(desk + STEPS, steps)
    store(desk + COUNT, count)
    store(desk + THREADS, threads)
    store(desk + STEP, -1)
    store(desk + OPEN, 1)
    add(desk + RUN, 1)
    _open_next(desk)
    looks = 0
    while load(desk + OPEN) == 1:
        looks = _look(desk, 0, looks)


def _help(desk, me, run):
    """A helper's share of that run and of those that follow at once. It has none where there are fewer threads."""
    looks = 0
    while (
        looks < PATIENCE
        or (load(desk + RUN) < run and looks < LONG_PATIENCE)
        or (load(desk + OPEN) == 1 and me < load(desk + THREADS))
    ):
        looks = _look(desk, me, looks)


def desk_for(most):
    """A desk for at most that many threads: an array that all of them share."""
    desk = aligned_empty(((RANGES + most * LINE) // 8,), np.int64)
    desk[:] = 0
    desk[GIVE_WAY // 8] = _give_way()
    return desk


def _give_way():
    """Address of the system's function that lets another thread run."""
    function = CDLL("kernel32").SwitchToThread if sys.platform == "win32" else CDLL(None).sched_yield
    return cast(function, c_void_p).value


@cache
def lead():
    """The compiled loop of the caller, of (desk, steps, count, threads)."""
    return compiled(_lead, partial(njit, "void(int64, int64, int64, int64)", nogil=True))


@cache
def helping():
    """The compiled loop of a helper, of (desk, me, run)."""
    return compiled(_help, partial(njit, "void(int64, int64, int64)", nogil=True))
