"""Ranks that MPI has started and connects."""

import importlib
import time
from typing import Any

import numpy as np

import backends
from backends import Array
from tinyddpm.ranks.ranks import Ranks, Value

# Seconds in which a rank looks without a pause whether the others have come, then the pause between two looks
EAGER, PAUSE = 2e-3, 2e-4


class MpiRanks(Ranks):
    """One of the processes of an mpi4py communicator, by default of all that mpiexec started.

    local_size: how many of them are on this machine, of which this is number local_rank. Before an exchange the ranks
    meet, where each waits at rest and hears signals, so that within MPI none waits for another's work.
    """

    def __init__(self, comm: Any = None) -> None:
        self.mpi = importlib.import_module("mpi4py.MPI")
        # A copy, so that nothing meets the exchanges of another library
        self.comm = (self.mpi.COMM_WORLD if comm is None else comm).Dup()
        self.rank, self.size = self.comm.Get_rank(), self.comm.Get_size()
        self.local = self.comm.Split_type(self.mpi.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = self.local.Get_rank(), self.local.Get_size()
        # What sums arrays on a device, made when there is one
        self.on_device: Any = None

    def sum(self, array: Array) -> None:
        if isinstance(array, np.ndarray):
            self.wait()
            self.comm.Allreduce(self.mpi.IN_PLACE, array)
            return
        if self.on_device is None:
            self.on_device = importlib.import_module("tinyddpm.ranks.nccl").connect(self)
        self.on_device.sum(array)

    def most(self, numbers: np.ndarray) -> np.ndarray:
        self.wait()
        result = np.empty_like(numbers)
        self.comm.Allreduce(numbers, result, op=self.mpi.MAX)
        return result

    def gather(self, value: Value) -> list[Value]:
        self.wait()
        return list(self.comm.allgather(value))

    def from_first(self, value: Any) -> Any:
        self.wait()
        return self.comm.bcast(value)

    def fill_from_first(self, array: np.ndarray) -> None:
        self.wait()
        self.comm.Bcast(array)

    def wait(self) -> None:
        request, begun = self.comm.Ibarrier(), time.monotonic()
        while not request.Test():
            if time.monotonic() > begun + EAGER:
                time.sleep(PAUSE)

    def library(self) -> str:
        """Name and version of the MPI that connects the ranks."""
        return " ".join(self.mpi.Get_library_version().replace("\0", "").split("\n")[0].split())

    def abort(self, code: int) -> None:
        """Ends all ranks at once."""
        self.comm.Abort(code)


class ThroughHost:
    """Sums of arrays on devices that nothing but the processors connects."""

    def __init__(self, ranks: MpiRanks) -> None:
        self.ranks = ranks

    def sum(self, array: Array) -> None:
        """As `Ranks.sum`."""
        host = np.array(backends.of(array).to_numpy(array))
        self.ranks.sum(host)
        array[...] = backends.namespace(array).asarray(host)
