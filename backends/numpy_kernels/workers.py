"""Arrays cut into blocks that fit a cache, shared out to threads, each of which has BLAS to itself.

What a block needs is made, used and forgotten by one core. Left to BLAS, all cores would work on each product and wait
for one another's caches, and NumPy's own passes would run on one of them.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cached_property
from threading import Lock
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

Job = TypeVar("Job")
Result = TypeVar("Result")

# Bytes one thread produces per job: more would leave the cache, less would make threads queue for Python's lock
BLOCK_BYTES = 4 << 20
# Not worth waking another thread
SMALL_BYTES = 1 << 18


def slices(count: int, number: int) -> list[slice]:
    """0 … count in `number` slices, or fewer, about equally long, the first the longest."""
    step = -(-count // max(1, min(count, number)))
    return [slice(i, min(i + step, count)) for i in range(0, count, step)]


class Workers:
    """The threads, kept: starting them for each operation would cost more than they gain."""

    def __init__(self) -> None:
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forgets all threads: a forked process has none of its parent's, and may find the lock taken."""
        # BLAS is limited for the whole process, so that operations of several threads of the user must take turns
        self.lock = Lock()
        self.pools: dict[int, ThreadPoolExecutor] = {}

    @cached_property
    def blas(self) -> Any:
        """What tells and sets the number of BLAS's threads."""
        return ThreadpoolController().select(user_api="blas")

    def count(self) -> int:
        """How many threads work: as many as BLAS was told to use; one where its library is unknown."""
        return max((library.num_threads for library in self.blas.lib_controllers), default=1)

    def blocks(self, count: int, size: int) -> list[slice]:
        """0 … count in slices of about BLOCK_BYTES at most, or of one, equally many for each thread.

        size: bytes that are made for all together.
        """
        threads = self.count()
        return slices(count, 1 if size <= SMALL_BYTES else threads * -(-size // (threads * BLOCK_BYTES)))

    def run(self, work: Callable[[Job], Result], jobs: list[Job]) -> list[Result]:
        """work(job) for each job, in threads; the results in the order of the jobs."""
        threads = self.count()
        if threads == 1:
            return [work(job) for job in jobs]
        # Even a single job limits BLAS to one thread: its idle threads would spin and slow the next job
        with self.lock, self.blas.limit(limits=1):
            if len(jobs) == 1:
                return [work(jobs[0])]
            if threads not in self.pools:
                self.pools[threads] = ThreadPoolExecutor(threads)
            # In copies of the caller's context, where NumPy keeps what `np.errstate` says
            futures = [self.pools[threads].submit(copy_context().run, work, job) for job in jobs]
            return [future.result() for future in futures]


WORKERS = Workers()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=WORKERS.start_afresh)
