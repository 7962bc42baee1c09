"""Starting the ranks, by mpiexec."""

import importlib.util
import shutil
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from backends import thread_count
from benchmarks.process import Child
from benchmarks.workloads import Workload
from tinyddpm.errors import InputError


def mpiexec() -> str | None:
    """The one beside this Python, as `pip install` leaves it, else that of the system."""
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def missing() -> str | None:
    """What ranks need and is not here, and how to get it; None if nothing."""
    here = {"mpi4py": importlib.util.find_spec("mpi4py"), "mpiexec": mpiexec()}
    names = [name for name, found in here.items() if found is None]
    return f"no {' and no '.join(names)} here, which ranks need: pip install 'tinyddpm[mpi]'" if names else None


def sizes_of_worlds(processors: int, batch: int) -> list[int]:
    """Numbers of ranks: 2, 4, 8, … as far as there are processors, and images for each; at least 2."""
    return [2**k for k in range(1, max(2, min(processors, batch)).bit_length())]


class World:
    """Ranks, each with one thread; about: what they are. Raises InputError if they do not start."""

    def __init__(self, size: int, workload: Workload) -> None:
        program = mpiexec()
        assert program is not None
        self.size, self.batch = size, workload.batch
        self.child = Child(
            f"{size} ranks",
            "benchmarks.ranks.process",
            {"workload": workload.to_dict()},
            threads=1,
            environment={thread_count.ENVIRONMENT: "1"},
            launcher=(program, "-n", str(size)),
        )
        try:
            self.about: dict[str, Any] = self.ask("about")[0]
        except (RuntimeError, BrokenPipeError):
            raise InputError(f"{size} ranks did not start; what they, or {program}, said stands above") from None

    def ask(self, work: str, **question: Any) -> list[Any]:
        """What each rank answers: see `benchmarks.ranks.process.Rank`."""
        return self.child.tell({"work": work, **question})["ranks"]

    def means(self, work: str, **question: Any) -> list[float]:
        """Seconds of one time after the other, each the mean over the ranks."""
        return [fmean(of_ranks) for of_ranks in zip(*self.ask(work, **question), strict=True)]

    def close(self) -> None:
        """Ends the ranks."""
        self.child.close()
