"""Ranks with GPUs, on a stand-in for what CuPy has for them: which device each takes, and when NCCL sums."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.tinyddpm.ranks.in_threads import Table, ThreadRanks, run
from tinyddpm.ranks import nccl
from tinyddpm.ranks.mpi import ThroughHost


class OnAMachine(ThreadRanks):
    """Ranks that are all on one machine."""

    def __init__(self, rank: int, table: Table) -> None:
        super().__init__(rank, table)
        self.local_rank, self.local_size = rank, self.size


class Distributed:
    """Takes down what it is asked for."""

    def __init__(self, size: int, rank: int, use_mpi: bool) -> None:
        self.asked: list[Any] = [(size, rank, use_mpi)]

    def all_reduce(self, source: Any, target: Any, op: str) -> None:
        self.asked.append((source, target, op))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine with CuPy, NCCL and two GPUs."""
    seen = SimpleNamespace(devices=2, taken=[])
    cupy, cuda, distributed = (ModuleType(name) for name in ("cupy", "cupy.cuda", "cupyx.distributed"))
    device = lambda number: SimpleNamespace(use=lambda: seen.taken.append(number))  # noqa: E731
    vars(cupy).update(cuda=cuda)
    vars(cuda).update(
        Device=device,
        nccl=SimpleNamespace(available=True),
        runtime=SimpleNamespace(getDeviceCount=lambda: seen.devices),
    )
    vars(distributed).update(NCCLBackend=Distributed)
    cupyx = ModuleType("cupyx")
    vars(cupyx).update(distributed=distributed)
    for module in (cupy, cuda, cupyx, distributed):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    seen.cuda = cuda
    return seen


def ranks(size: int) -> list[OnAMachine]:
    table = Table(size)
    return [OnAMachine(rank, table) for rank in range(size)]


@pytest.mark.parametrize(("devices", "taken"), [(2, [0, 1, 0, 1]), (8, [0, 1, 2, 3]), (1, [0, 0, 0, 0]), (0, [])])
def test_each_rank_takes_the_next_gpu(machine: SimpleNamespace, devices: int, taken: list[int]):
    machine.devices = devices
    for rank in ranks(4):
        nccl.take_device(rank)
    assert machine.taken == taken


def test_without_cupy_or_driver_no_gpu_is_taken(machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch):
    def no_driver() -> int:
        raise RuntimeError("cudaErrorNoDevice")

    monkeypatch.setattr(machine.cuda.runtime, "getDeviceCount", no_driver)
    nccl.take_device(ranks(1)[0])
    monkeypatch.setitem(sys.modules, "cupy", None)
    nccl.take_device(ranks(1)[0])
    assert machine.taken == []


def connected(size: int) -> list[Any]:
    return run(size, lambda own: nccl.connect(OnAMachine(own.rank, own.table)))


def test_with_a_gpu_each_nccl_sums_in_place(machine: SimpleNamespace):
    for rank, found in enumerate(connected(2)):
        assert isinstance(found, nccl.Nccl)
        array = np.ones(3)
        found.sum(array)
        assert found.backend.asked == [(2, rank, True), (array, array, "sum")]


@pytest.mark.filterwarnings("ignore:gradients are summed on the processors")
@pytest.mark.parametrize("lacking", ["a GPU", "NCCL", "its module"])
def test_else_the_processors_sum(machine: SimpleNamespace, lacking: str):
    if lacking == "a GPU":
        machine.devices = 1
    elif lacking == "NCCL":
        machine.cuda.nccl.available = False
    else:
        del machine.cuda.nccl

    def summed(own: ThreadRanks) -> list[float]:
        found = nccl.connect(OnAMachine(own.rank, own.table))
        assert isinstance(found, ThroughHost)
        array = np.array([1.0, 10.0]) * (own.rank + 1)
        found.sum(array)
        return array.tolist()

    assert run(2, summed) == [[3.0, 30.0]] * 2


def test_the_reason_is_told(machine: SimpleNamespace):
    machine.devices = 1
    with pytest.warns(UserWarning, match=r"summed on the processors, not between GPUs: 2 ranks share 1 GPU"):
        connected(2)
