"""Sums between GPUs by NVIDIA's NCCL, through CuPy: each rank has a GPU of its own."""

import warnings
from typing import Any

from backends import Array
from tinyddpm.ranks.mpi import MpiRanks, ThroughHost


class Nccl:
    """Sums on the stream that is current, so that nobody waits for them but what comes after them there."""

    def __init__(self, ranks: MpiRanks) -> None:
        from cupyx.distributed import NCCLBackend

        # MPI carries the name under which the ranks find each other
        self.backend = NCCLBackend(ranks.size, ranks.rank, use_mpi=True)

    def sum(self, array: Array) -> None:
        """As `Ranks.sum`, of a contiguous array."""
        self.backend.all_reduce(array, array, "sum")


def devices() -> int:
    """How many GPUs this process sees."""
    import cupy

    return int(cupy.cuda.runtime.getDeviceCount())


def take_device(ranks: MpiRanks) -> None:
    """Makes a GPU of this machine the one that this rank computes on: each rank its own, as far as there are. Without
    any it does nothing."""
    try:
        import cupy

        if count := devices():
            cupy.cuda.Device(ranks.local_rank % count).use()
    except (ImportError, RuntimeError):
        return  # the backend says why


def connect(ranks: MpiRanks) -> Any:
    """What sums arrays on devices: NCCL where every rank has a GPU of its own, else the processors, with a warning."""
    reasons = []
    if ranks.local_size > (count := devices()):
        reasons.append(f"{ranks.local_size} ranks share {count} GPU{'s' * (count != 1)}")
    try:
        from cupy.cuda import nccl

        if not nccl.available:
            reasons.append("CuPy finds no NCCL (pip install nvidia-nccl-cu13)")
    except ImportError as error:
        reasons.append(f"CuPy has no NCCL ({error})")
    found = next((reason for each in ranks.gather(reasons) for reason in each), None)
    if found is None:
        return Nccl(ranks)
    warnings.warn(f"gradients are summed on the processors, not between GPUs: {found}", stacklevel=2)
    return ThroughHost(ranks)
