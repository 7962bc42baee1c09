"""The threads that compute: who runs which part of which kernel.

The thread that calls and its helpers run the same loop. For each step every thread has a range of the step's parts; it
takes the next part of its own range, and once that is empty, of the others'. Whoever finishes a step's last part opens
the next step. So nobody is waited for but threads in the middle of a part, and a thread that has lost its core to
another process costs no more than its work: the others take it over. What a part computes does not depend on who runs
it, or when.

A range is a counter TICKET of parts taken, ever, and the number LIMIT up to which they may be: to take one is to raise
TICKET by a compare-and-exchange while it is below LIMIT. Both only grow, so a thread that comes back after a long
time takes a part of the present step or none; and as the step cannot end without the part that was taken, its FUNCTION
and PLAN can be read afterwards. A range of no parts is left as it is: otherwise a slow thread could undo there what
the next step has set.

A thread without work looks a hundred times, then offers its core to others between two looks; a helper falls asleep in
the end, and is woken by the next run.
"""

import os
import sys
import threading
from ctypes import CDLL, addressof, c_void_p, cast
from functools import cached_property, partial

import numpy as np
from numba import njit

from backends.numba_kernels.runtime.addresses import call0, call2, longs
from backends.numba_kernels.runtime.atomics import add, exchange, load, store
from backends.numba_kernels.runtime.compilation import compiled
from backends.numba_kernels.runtime.pool import aligned_empty
from backends.thread_count import threads

# The desk: where in memory, in bytes, all that the threads share is. Two cache lines for what is written together,
# since processors fetch them in pairs
LINE = 128
STEPS, COUNT, THREADS, GIVE_WAY = range(0, 32, 8)
FUNCTION, PLAN, STEP, OPEN = range(LINE, LINE + 32, 8)
LEFT = 2 * LINE
RANGES = 3 * LINE
TICKET, LIMIT, SHIFT = range(0, 24, 8)

# Looks of a thread without work before it offers its core, and before a helper sleeps: some 100 microseconds
LOOKS, PATIENCE = 100, 400


@njit(inline="always")
def _open_next(desk):
    """Makes the parts of the next step free to be taken; steps of one part are run here."""
    while True:
        step = load(desk + STEP) + 1
        store(desk + STEP, step)
        if step == load(desk + COUNT):
            store(desk + OPEN, 0)
            return
        row = longs(load(desk + STEPS) + step * 24)
        function, parts, plan = row[0], row[1], row[2]
        if parts == 1:
            call2(function, 0, plan)
            continue
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
        return


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
def _follow(desk, me, patience):
    """Runs parts until, after `patience` looks more, no step is open."""
    looks = 0
    while looks < patience or load(desk + OPEN) == 1:
        if _take_part(desk, me):
            looks = 0
        else:
            looks += 1
            if looks > LOOKS:
                call0(load(desk + GIVE_WAY))


def _lead(desk, steps, count, threads):
    """The caller's share: all steps, from the first on."""
    store(desk + STEPS, steps)
    store(desk + COUNT, count)
    store(desk + THREADS, threads)
    store(desk + STEP, -1)
    store(desk + OPEN, 1)
    _open_next(desk)
    _follow(desk, 0, 0)


def _help(desk, me):
    """A helper's share of all runs, until for some time there is none."""
    _follow(desk, me, LOOKS + PATIENCE)


def _give_way():
    """Address of the system's function that lets another thread run."""
    function = CDLL("kernel32").SwitchToThread if sys.platform == "win32" else CDLL(None).sched_yield
    return cast(function, c_void_p).value


class Team:
    """The caller, and helpers that begin when they are first needed.

    Several Python threads take turns: together they would run more threads than were asked for.
    """

    def __init__(self):
        self.running = threading.Lock()
        self.called = threading.Condition()
        self.runs = self.helpers = 0
        most = max(os.cpu_count() or 1, threads())
        self.memory = aligned_empty(((RANGES + most * LINE) // 8,), np.int64)
        self.memory[:] = 0
        self.memory[GIVE_WAY // 8] = _give_way()
        self.desk = self.memory.ctypes.data

    lead = cached_property(lambda self: compiled(_lead, partial(njit, "void(int64, int64, int64, int64)", nogil=True)))
    help = cached_property(lambda self: compiled(_help, partial(njit, "void(int64, int64)", nogil=True)))

    def run(self, steps):
        """Runs kernels one after the other; `steps` as of `run_steps`."""
        count, number = len(steps), threads()
        with self.running:
            if count > 1 or steps[0, 1] > 1:
                while self.helpers < number - 1:
                    self.hire()
                with self.called:
                    self.runs += 1
                    self.called.notify(number - 1)
            self.lead(self.desk, steps.ctypes.data, count, number)

    def hire(self):
        """Begins another helper."""
        self.helpers += 1
        self.help  # compiled here, as kernels are compiled by one thread at a time
        threading.Thread(target=self.follow, args=(self.helpers,), name=f"kernels {self.helpers}", daemon=True).start()

    def follow(self, me):
        """A helper's life."""
        while True:
            seen = self.runs
            self.help(self.desk, me)
            with self.called:
                while self.runs == seen:
                    self.called.wait()


TEAM = Team()


def _begin_again():
    """In a forked process, which has none of the helpers."""
    global TEAM
    TEAM = Team()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_again)


def run_steps(steps):
    """Runs kernels one after the other. steps: (n, 3) int64 of a kernel's address, its number of parts and the address
    of its plan, all of which the caller keeps alive."""
    TEAM.run(steps)
