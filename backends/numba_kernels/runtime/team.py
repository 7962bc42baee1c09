"""The threads that compute: which of them runs which part of which kernel.

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

A thread without work looks a hundred times, then offers its core to others between two looks; a helper falls asleep in
the end, and is woken by the next run.
"""

import atexit
import os
import sys
import threading
import time
from ctypes import CDLL, c_void_p, cast
from functools import cache, partial

import numpy as np
from numba import cfunc, njit

from backends.numba_kernels.runtime.addresses import call0, call2, longs, start_of
from backends.numba_kernels.runtime.atomics import add, exchange, load, store
from backends.numba_kernels.runtime.compilation import compiled
from backends.numba_kernels.runtime.forks import hold_during_fork, on_fork
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
def _follow(desk, me, patience):
    """Runs parts until, after `patience` looks more, no step is open. Takes none while there are fewer threads."""
    looks = 0
    while looks < patience or (load(desk + OPEN) == 1 and me < load(desk + THREADS)):
        if me < load(desk + THREADS) and _take_part(desk, me):
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


@cache
def _lead_compiled():
    return compiled(_lead, partial(njit, "void(int64, int64, int64, int64)", nogil=True))


@cache
def _help_compiled():
    return compiled(_help, partial(njit, "void(int64, int64)", nogil=True))


class Team:
    """The caller, and helpers that begin when they are first needed.

    Several Python threads take turns as the caller: together they would run more threads than were asked for.
    """

    def __init__(self, most):
        """most: as many threads as there may ever be."""
        self.most = most
        self.memory = aligned_empty(((RANGES + self.most * LINE) // 8,), np.int64)
        self.memory[:] = 0
        self.memory[GIVE_WAY // 8] = _give_way()
        self.desk = start_of(self.memory)
        self.running = threading.Lock()
        self.be_alone()

    def be_alone(self):
        """Forgets the helpers: a forked process has none of its parent's."""
        self.helpers = []
        self.called = threading.Condition()
        # How many threads the run has that is going on
        self.open = 0
        self.ended = False

    def run(self, steps):
        """Runs kernels one after the other; `steps` as of `run_steps`."""
        # Tests cut work into more parts than there are processors
        number = min(threads(), self.most)
        lead = _lead_compiled()
        with self.running:
            try:
                if number > 1 and (len(steps) > 1 or steps[0, 1] > 1):
                    self.call(number)
                lead(self.desk, start_of(steps), len(steps), number)
            finally:
                self.open = 0

    def call(self, number):
        """Wakes as many helpers as make that many threads with the caller; starts them if they are not there yet."""
        while len(self.helpers) < number - 1 and self.hire():
            pass
        with self.called:
            self.open = number
            self.called.notify_all()

    def hire(self):
        """Starts another helper. Returns whether it could: else those that there are do without."""
        if self.ended:
            return False
        me = len(self.helpers) + 1
        helper = threading.Thread(target=self.follow, args=(me, _help_compiled()), name=f"kernels {me}", daemon=True)
        try:
            helper.start()
        except RuntimeError:  # the system gives no more threads
            return False
        self.helpers.append(helper)
        return True

    def follow(self, me, help_compiled):
        """What a helper does: it takes part in every run, and sleeps while there is none."""
        while not self.ended:
            help_compiled(self.desk, me)
            with self.called:
                while not (me < self.open or self.ended):
                    self.called.wait()

    def end(self):
        """Ends the helpers: when Python ends, none may be in compiled code."""
        with self.called:
            self.ended = True
            self.called.notify_all()
        for helper in self.helpers:
            helper.join()


TEAM = Team(os.cpu_count() or 1)
atexit.register(TEAM.end)
on_fork(after_in_child=TEAM.be_alone)
hold_during_fork(TEAM.running)


def run_steps(steps):
    """Runs kernels one after the other. steps: (n, 3) int64 of a kernel's address, its number of parts and the address
    of its plan, all of which the caller keeps alive."""
    TEAM.run(steps)


def _do_nothing(part, plan):
    pass


@cache
def _nothing():
    """A kernel that does nothing."""
    return compiled(_do_nothing, partial(cfunc, "void(int64, int64)"))


def seconds_of_a_step():
    """What a kernel costs besides its work, in a list of many that do nothing: the best of some runs."""
    steps = np.array([[_nothing().address, threads(), 0]] * 1000)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        run_steps(steps)
        seconds.append((time.perf_counter() - start) / len(steps))
    return min(seconds)
