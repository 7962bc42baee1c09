"""Ranks that are threads of one process: what they tell each other can be tested without MPI, and by mutants."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from tinyddpm.ranks import Ranks


class Table:
    """Where the ranks lay what they have for all to see."""

    def __init__(self, size: int) -> None:
        self.places: list[Any] = [None] * size
        # A thread that waits in vain fails, where it would wait for ever
        self.barrier = threading.Barrier(size, timeout=20)


class ThreadRanks(Ranks):
    """One of the threads of `run`."""

    def __init__(self, rank: int, table: Table) -> None:
        self.rank, self.size, self.table = rank, len(table.places), table

    def gather(self, value: Any) -> list[Any]:
        self.table.places[self.rank] = value
        self.wait()
        seen = list(self.table.places)
        self.wait()
        return seen

    def sum(self, array: Any) -> None:
        # The sum of all in the order of the ranks: the same bits for each
        array[...] = sum(self.gather(np.array(array)))

    def most(self, numbers: np.ndarray) -> np.ndarray:
        return np.max(self.gather(numbers.copy()), axis=0)

    def from_first(self, value: Any) -> Any:
        return self.gather(value)[0]

    def fill_from_first(self, array: np.ndarray) -> None:
        array[...] = self.gather(array.copy())[0]

    def wait(self) -> None:
        self.table.barrier.wait()


def run(size: int, function: Callable[[Ranks], Any]) -> list[Any]:
    """What the function gives on each of `size` ranks, an exception in place of what it raises."""
    table, results = Table(size), [None] * size

    def work(rank: int) -> None:
        try:
            results[rank] = function(ThreadRanks(rank, table))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
