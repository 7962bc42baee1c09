"""A rank, started by mpiexec. Rank 0 reads questions from standard input, all of them work, and rank 0 answers."""

import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np

import backends
from benchmarks.process import standard_output
from benchmarks.workloads import Workload
from tinyddpm import Diffusion, Schedule, UNet
from tinyddpm.data import Batches, Dataset
from tinyddpm.errors import InputError
from tinyddpm.networks.unet import UNetConfig
from tinyddpm.ranks import MpiRanks, Ranks, world
from tinyddpm.training.trainer import TrainConfig, Trainer

# Seconds between two looks of a rank that waits for a question: others are being measured
REST = 20e-3
# The larger network has as many times the channels, and nine times the parameters
WIDER = 3


class TimedRanks(MpiRanks):
    """Ranks that keep the time of their sums. waited: seconds until all had come; exchanged: seconds after that."""

    waited = exchanged = 0.0

    def wait(self) -> None:
        start = time.perf_counter()
        super().wait()
        self.waited += time.perf_counter() - start

    def sum(self, array: backends.Array) -> None:
        start, waited = time.perf_counter(), self.waited
        super().sum(array)
        self.exchanged += time.perf_counter() - start - (self.waited - waited)

    def rest(self) -> None:
        """As `wait`, for long: hardly a look at the others, and not counted."""
        request = self.comm.Ibarrier()
        while not request.Test():
            time.sleep(REST)


def trainer_of(config: UNetConfig, batch: int, ranks: Ranks) -> Trainer:
    """A training on random images; the ranks share batches of `batch`."""
    model = UNet(config, backend=backends.get("numba"), seed=0)
    shape = (max(256, batch), *config.size, config.in_channels)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    train = TrainConfig(steps=10**6, batch_size=batch, lr=1e-4)
    diffusion = Diffusion(Schedule.cosine(1000))
    return Trainer(model, diffusion, Batches(Dataset("random", images), batch, 0), train, ranks=ranks)


class Rank:
    """What a rank answers. Each method is called on all ranks with the same arguments, and gives its own seconds."""

    def __init__(self, ranks: TimedRanks, workload: Workload) -> None:
        self.ranks, self.config, self.batch = ranks, workload.config, workload.batch
        shared = {"strong": self.batch, "weak": self.batch * ranks.size}
        # One by itself has weights of its own: its steps are not the others'
        self.trainers = {"own": trainer_of(self.config, self.batch, Ranks())}
        self.trainers |= {work: trainer_of(self.config, batch, ranks) for work, batch in shared.items()}
        self.gradient = self.trainers["own"].model.grads.nbytes

    def about(self) -> dict[str, Any]:
        """What the ranks are."""
        return {"MPI": self.ranks.library(), "mpi4py": version("mpi4py"), "gradient": self.gradient}

    def alone(self, steps: int) -> list[list[float]]:
        """Steps of rank 0 while the others rest."""
        return self.beside(steps) if self.ranks.rank == 0 else []

    def beside(self, steps: int) -> list[list[float]]:
        """Steps of all ranks at the same time, each a training by itself."""
        return self.timed(self.trainers["own"], steps)

    def weak(self, steps: int) -> list[list[float]]:
        """Steps in which each rank has as many images as one alone."""
        return self.timed(self.trainers["weak"], steps)

    def strong(self, steps: int) -> list[list[float]]:
        """Steps in which all ranks together have as many images as one alone."""
        return self.timed(self.trainers["strong"], steps)

    def timed(self, trainer: Trainer, steps: int) -> list[list[float]]:
        """For each step its seconds, and how many of them were waited and exchanged in its sums."""
        found = []
        for _ in range(steps):
            start, waited, exchanged = time.perf_counter(), self.ranks.waited, self.ranks.exchanged
            trainer.take_step()
            seconds = time.perf_counter() - start
            found.append([seconds, self.ranks.waited - waited, self.ranks.exchanged - exchanged])
        return found

    def wider(self, steps: int) -> dict[str, Any]:
        """Steps of the larger network on rank 0 alone, after one that is not counted; and its gradient's bytes."""
        if self.ranks.rank:
            return {}
        trainer = trainer_of(replace(self.config, base_channels=WIDER * self.config.base_channels), self.batch, Ranks())
        return {"seconds": self.timed(trainer, steps + 1)[1:], "gradient": trainer.model.grads.nbytes}

    def sums(self, size: int, times: int) -> list[float]:
        """Sums of an array of `size` bytes, without the wait before them; the first is not counted."""
        array, found = np.full(size // 4, 0, np.float32), []
        for _ in range(times + 1):
            exchanged = self.ranks.exchanged
            self.ranks.sum(array)
            found.append(self.ranks.exchanged - exchanged)
        return found[1:]

    def pieces(self, count: int, times: int, computing: float) -> list[float]:
        """Sums of the gradient in `count` pieces, all begun at once; 0: whole, by the call that the trainer makes.

        computing: seconds that the rank computes after it began them; what is counted starts then. A first sum is not
        counted.
        """
        array, found = np.full(self.gradient // 4, 0, np.float32), []
        comm, in_place = self.ranks.comm, self.ranks.mpi.IN_PLACE
        for _ in range(times + 1):
            self.ranks.wait()
            start = time.perf_counter()
            if count == 0:
                comm.Allreduce(in_place, array)
            requests = [comm.Iallreduce(in_place, piece) for piece in np.array_split(array, count or 1) if count]
            if computing:
                begun = time.perf_counter()
                while time.perf_counter() < begun + computing:
                    pass
                start = time.perf_counter()
            self.ranks.mpi.Request.Waitall(requests)
            found.append(time.perf_counter() - start)
        return found[1:]

    def same(self) -> None:
        """Raises SharedError unless all ranks have the same weights where they should."""
        for work in ("weak", "strong"):
            self.trainers[work].check_same()


def serve(ranks: TimedRanks, job: dict[str, Any]) -> None:
    """Answers each question with a list of what every rank gave, until rank 0 reads no more."""
    answers = standard_output()
    backends.set_threads(job["threads"])
    rank = Rank(ranks, Workload.from_dict(job["workload"]))
    while True:
        line = sys.stdin.readline() if ranks.rank == 0 else ""
        ranks.rest()
        if not (line := ranks.from_first(line)):
            return
        question = json.loads(line)
        method: Callable[..., Any] = getattr(rank, question.pop("work"))
        found = method(**question)
        ranks.rest()
        told = ranks.gather(found)
        if ranks.rank == 0:
            print(json.dumps({"ranks": told}), file=answers, flush=True)


def main() -> None:
    """Takes part in MPI, and serves."""
    try:
        ranks = world()
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    assert isinstance(ranks, MpiRanks), "started by mpiexec"
    try:
        serve(TimedRanks(ranks.comm), json.loads(sys.argv[1]))
    except BaseException:
        # The others would wait for this one for ever
        traceback.print_exc()
        ranks.abort(1)


if __name__ == "__main__":
    main()
