"""What ranks must have in common, and errors that end all of them in order."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import backends
from backends import Array
from tinyddpm.errors import InputError
from tinyddpm.ranks.ranks import Ranks


class SharedError(InputError):
    """An error that every rank raises at once."""


@contextmanager
def together(ranks: Ranks) -> Iterator[None]:
    """Within, where ranks tell each other nothing, an error of one that a person can mend ends them all: each raises
    SharedError, which says of which rank it is."""
    if ranks.size == 1:
        yield
        return
    error: Exception | None = None
    try:
        yield
    except SharedError:
        raise
    except (InputError, backends.BackendUnavailable, backends.ThreadsError, OSError, MemoryError) as caught:
        error = caught
    told = ranks.gather(None if error is None else f"{error}" or type(error).__name__)
    failed = [rank for rank, text in enumerate(told) if text is not None]
    if failed:
        first = failed[0]
        alike = all(told[rank] == told[first] for rank in failed)
        where = "" if first == 0 and alike else f"rank {first}: "
        raise SharedError(f"{where}{told[first]}") from error


def check_alike(ranks: Ranks, what: dict[str, Any]) -> None:
    """Raises SharedError, which names it, for what is not the same on all ranks. The values are compared as texts."""
    mine = {name: str(value) for name, value in what.items()}
    first = ranks.from_first(mine)
    names = [name for name in {**first, **mine} if first.get(name) != mine.get(name)]
    found = ranks.gather(None if not names else (names[0], mine.get(names[0], "missing")))
    for rank, difference in enumerate(found):
        if difference is not None:
            name, value = difference
            raise SharedError(
                f"rank {rank} has {name} {value}, rank 0 has {first.get(name, 'none')}; make them the same"
            )


def check_same_numbers(ranks: Ranks, name: str, array: Array) -> None:
    """Raises SharedError unless the array holds the same bits on all ranks: after that, none speaks for the others."""
    if ranks.size == 1:
        return
    digests = ranks.gather(zlib.crc32(np.ascontiguousarray(backends.of(array).to_numpy(array)).data))
    other = next((rank for rank, digest in enumerate(digests) if digest != digests[0]), None)
    if other is not None:
        raise SharedError(
            f"rank {other} no longer has the {name} of rank 0: its machine, or its MPI, computes otherwise; go on "
            "with machines of one kind"
        )
