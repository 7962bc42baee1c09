"""Which rank this process is, as far as what started it says so."""

import importlib
import os

from backends import thread_count
from tinyddpm.errors import InputError
from tinyddpm.ranks.mpi import MpiRanks
from tinyddpm.ranks.ranks import Ranks

# What the launchers of MPICH and its kin, Open MPI, and PMIx tell each process
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
RANKS = ("PMIX_RANK",)


class Begun:
    """The ranks of this process, once `world` was asked for them."""

    ranks: Ranks | None = None


def is_launched() -> bool:
    """Whether an MPI launcher started this process."""
    return any(name in os.environ for name in SIZES + RANKS)


def started() -> int:
    """How many processes the launcher says it started; 1 where it says nothing."""
    return next((int(os.environ[name]) for name in SIZES if os.environ.get(name, "").isdecimal()), 1)


def world() -> Ranks:
    """The ranks that this process is one of: those of mpiexec, which are asked but once, or itself alone.

    Raises InputError where a launcher started several, and mpi4py is missing or of another MPI.
    """
    if Begun.ranks is None:
        Begun.ranks = begin() if is_launched() else Ranks()
    return Begun.ranks


def world_so_far() -> Ranks:
    """The ranks that `world` was asked for; before that this process alone."""
    return Begun.ranks or Ranks()


def begin() -> Ranks:
    """Takes part in MPI."""
    wanted = started()
    try:
        mpi = importlib.import_module("mpi4py.MPI")
    except (ImportError, RuntimeError) as error:
        if wanted == 1:
            return Ranks()
        raise InputError(
            f"this process is one of {wanted} that mpiexec started, and mpi4py cannot be loaded ({error}); install it "
            "with: pip install 'tinyddpm[mpi]'"
        ) from None
    if mpi.COMM_WORLD.Get_size() > 1:
        return MpiRanks()
    if wanted > 1:
        raise InputError(
            f"mpiexec started {wanted} processes, but mpi4py's library ({MpiRanks().library()}) sees one: they are of "
            "different MPIs; use the mpiexec of that library"
        )
    return Ranks()


def share_processors(ranks: Ranks) -> None:
    """Gives this rank its part of the processors that it shares with others of this machine, unless a number of threads
    was chosen; one thread where there are fewer processors than ranks."""
    if not isinstance(ranks, MpiRanks) or os.environ.get(thread_count.ENVIRONMENT):
        thread_count.begin()
        return
    mine = thread_count.affinity()
    sharing = sum(bool(mine & other) for other in ranks.local.allgather(mine))
    thread_count.set_threads(max(1, thread_count.processors() // sharing), f"{sharing} ranks share the processors")
