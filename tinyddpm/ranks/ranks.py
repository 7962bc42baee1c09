"""What a process asks of those that share its work; here, of none."""

from typing import Any, TypeVar

import numpy as np

from backends import Array

Value = TypeVar("Value")


class Ranks:
    """A process by itself: the only one, of rank 0, that writes files and prints.

    rank: its number, 0 … size - 1. size: how many processes there are. Every method but `share` must be called by all
    of them, in the same order.
    """

    rank, size = 0, 1

    def share(self, count: int) -> slice:
        """Which of `count` things in a row are this rank's: as many as any other's, or one more."""
        each, more = divmod(count, self.size)
        first = self.rank * each + min(self.rank, more)
        return slice(first, first + each + (self.rank < more))

    def sum(self, array: Array) -> None:
        """Puts the sum over all ranks in place of the array, of one shape and dtype on all; the same bits on all."""

    def most(self, numbers: np.ndarray) -> np.ndarray:
        """The largest over all ranks of each number."""
        return numbers

    def gather(self, value: Value) -> list[Value]:
        """The values of all ranks in their order, on all of them; what pickle takes."""
        return [value]

    def from_first(self, value: Any) -> Any:
        """The value of rank 0; what pickle takes."""
        return value

    def fill_from_first(self, array: np.ndarray) -> None:
        """Puts what rank 0's array holds into that of every other, of the same shape and dtype."""

    def wait(self) -> None:
        """Waits until all ranks do, at rest."""
