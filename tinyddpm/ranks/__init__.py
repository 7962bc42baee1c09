"""Several processes that share the work of one, each a rank: `mpiexec -n 4 tinyddpm train …`.

MPI starts them and carries what they tell each other (mpi4py), NCCL the sums of those with a GPU each. Everything that
is drawn depends on an image's number in the batch alone, so that ranks share a batch without a word, and a step needs
one exchange: the sum of their gradients. `Ranks` is one process by itself, `MpiRanks` one of several; `world` is the
one that this process is.
"""

from tinyddpm.ranks.agreement import SharedError, check_alike, check_same_numbers, together
from tinyddpm.ranks.launch import is_launched, share_processors, world, world_so_far
from tinyddpm.ranks.mpi import MpiRanks
from tinyddpm.ranks.ranks import Ranks

__all__ = [
    "MpiRanks",
    "Ranks",
    "SharedError",
    "check_alike",
    "check_same_numbers",
    "is_launched",
    "share_processors",
    "together",
    "world",
    "world_so_far",
]
