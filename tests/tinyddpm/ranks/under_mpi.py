"""mpiexec and what it runs for `test_mpi`: `python -m tests.tinyddpm.ranks.under_mpi OUT` trains every case."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.tinyddpm.ranks.test_shared_batches import CASES, TOLERANCE, trainer
from tinyddpm.ranks import world

MPIEXEC = Path(sys.executable).with_name("mpiexec")
needs_mpi = pytest.mark.skipif(
    not MPIEXEC.exists() or importlib.util.find_spec("mpi4py") is None,
    reason="needs mpi4py and its mpiexec: pip install 'tinyddpm[mpi]'",
)
# What a launcher above the tests may have set would be taken for theirs
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("PMI", "OMPI_", "MPI_"))}


def start(size: int, *arguments: object, **more: object) -> subprocess.Popen[str]:
    """mpiexec with `size` ranks of `python arguments …`, in a session of its own."""
    command = [str(MPIEXEC), "-n", str(size), sys.executable, *map(str, arguments)]
    environment = {**ENVIRONMENT, **{name: str(value) for name, value in more.items()}}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True)


def run(size: int, *arguments: object, **more: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of all ranks together."""
    with start(size, *arguments, **more) as process:
        try:
            out, err = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return process.returncode, out, err


def main() -> None:
    """Leaves losses and weights of every case in OUT, by rank 0."""
    ranks, found = world(), {}
    for dtype in TOLERANCE:
        for name in CASES:
            own = trainer(name, dtype, ranks)
            metrics = list(own.run())
            own.check_same()
            found[f"{dtype} {name}: losses"] = np.array([(m.loss, m.grad_norm) for m in metrics])
            found[f"{dtype} {name}: weights"] = np.stack([own.model.params, own.ema.params])
    if ranks.rank == 0:
        np.savez(sys.argv[1], **found)


if __name__ == "__main__":
    main()
