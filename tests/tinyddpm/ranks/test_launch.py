"""Which rank this process is: what is asked of MPI, and what is told where it is missing."""

import sys

import pytest

from tinyddpm.errors import InputError
from tinyddpm.ranks import launch


@pytest.fixture(autouse=True)
def not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that no launcher started, without mpi4py."""
    for name in launch.SIZES + launch.RANKS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(launch.Begun, "ranks", None)
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", None)


def test_nothing_is_asked_of_mpi_where_no_launcher_is() -> None:
    assert not launch.is_launched()
    assert launch.world().size == 1


@pytest.mark.parametrize("name", launch.SIZES)
def test_without_mpi4py_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "3")
    with pytest.raises(InputError, match=r"one of 3 that mpiexec started.*pip install 'tinyddpm\[mpi\]'"):
        launch.world()


def test_one_process_of_a_launcher_needs_no_mpi4py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_SIZE", "1")
    assert launch.world().size == 1
