"""The threads that run kernels: the caller, and helpers that sleep while there is nothing to do.

Ctrl-C may come between any two lines of Python here: a bell that rings for nothing does no harm, and once a run is on
the desk, compiled code alone leads it to its end.
"""

import atexit
import os
import threading
import time
from functools import cache, partial
from statistics import median

import numpy as np
from numba import cfunc

from backends.numba_kernels.runtime.addresses import longs, start_of
from backends.numba_kernels.runtime.compilation import compiled
from backends.numba_kernels.runtime.desk import RUN, desk_for, helping, lead
from backends.numba_kernels.runtime.forks import hold_during_fork, on_fork
from backends.thread_count import threads


class Team:
    """The caller, and helpers that begin when they are first needed.

    Several Python threads take turns as the caller: together they would run more threads than were allowed.
    """

    def __init__(self, most):
        """most: as many threads as there may ever be."""
        self.most = most
        self.desk = desk_for(most)
        self.running = threading.Lock()
        self.be_alone()

    def be_alone(self):
        """Forgets the helpers: a forked process has none of its parent's."""
        # Threads and their bells
        self.helpers = []
        # The number of the run that they were last woken for
        self.called = 0
        self.ended = False

    def run(self, steps):
        """Runs kernels one after the other; `steps` as of `run_steps`."""
        # Tests cut work into more parts than there are processors
        number = min(threads(), self.most)
        alone = number == 1 or (len(steps) == 1 and steps[0, 1] == 1)
        with self.running:
            if not alone:
                self.call(number - 1)
            lead()(start_of(self.desk), start_of(steps), len(steps), number)

    def call(self, number):
        """Wakes that many helpers for the next run; starts them if they are not there yet."""
        while len(self.helpers) < number and self.hire():
            pass
        self.called = int(self.desk[RUN // 8]) + 1
        self.ring(number)

    def ring(self, number):
        """Rings the first bells. A bell is a lock that is released; the helper takes it again as it wakes."""
        for _, bell in self.helpers[:number]:
            if bell.locked():
                bell.release()

    def hire(self):
        """Starts another helper. Returns whether it could: else those that there are do without."""
        if self.ended:
            return False
        me, bell = len(self.helpers) + 1, threading.Lock()
        bell.acquire()
        helper = threading.Thread(target=self.follow, args=(me, bell, helping()), name=f"kernels {me}", daemon=True)
        try:
            helper.start()
        except RuntimeError:  # the system gives no more threads
            return False
        self.helpers.append((helper, bell))
        return True

    def follow(self, me, bell, help_in):
        """What a helper does."""
        while True:
            bell.acquire()
            if self.ended:
                return
            help_in(start_of(self.desk), me, self.called)

    def end(self):
        """Ends the helpers: when Python ends, none may be in compiled code."""
        with self.running:
            self.ended = True
            self.ring(self.most)
        for helper, _ in self.helpers:
            helper.join()


TEAM = Team(os.cpu_count() or 1)
atexit.register(TEAM.end)
on_fork(after_in_child=TEAM.be_alone)
hold_during_fork(TEAM.running)


def run_steps(steps):
    """Runs kernels one after the other. steps: (n, 3) int64 of a kernel's address, its number of parts and the address
    of its plan, all of which the caller keeps alive."""
    TEAM.run(steps)


def _count(part, places):
    """Some microseconds of work that no compiler can shorten."""
    total = part
    for i in range(5000):
        total = (total * 6364136223846793005 + i) ^ (total >> 17)
    longs(places)[part] = total


@cache
def _counting():
    return compiled(_count, partial(cfunc, "void(int64, int64)"))


def seconds_to_share_out():
    """What a kernel costs besides its work: how much longer a step with a part for each thread takes than one part."""
    number = threads()
    results = np.zeros(number, np.int64)
    one, all_of_them = (np.array([[_counting().address, parts, start_of(results)]] * 100) for parts in (1, number))
    extra = []
    for _ in range(20):
        start = time.perf_counter()
        run_steps(one)
        between = time.perf_counter()
        run_steps(all_of_them)
        extra.append((time.perf_counter() - between) - (between - start))
    return max(0, median(extra) / len(one))
