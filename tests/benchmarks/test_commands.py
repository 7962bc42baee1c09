"""What can be given wrongly to `python -m benchmarks`: one line, before anything is measured."""

import importlib.util
import shlex
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main


def line(command: str) -> str:
    """The one line on stderr of a command that fails."""
    result = CliRunner().invoke(main, shlex.split(command), prog_name="python -m benchmarks", catch_exceptions=False)
    assert result.exit_code == 2
    assert result.stdout == ""
    (only,) = result.stderr.splitlines()
    assert only.startswith("error: ")
    return only


@pytest.mark.parametrize(
    ("command", "words"),
    [
        *((f"{name} --threads 0", "0 is not in the range 1<=x<=") for name in ("train", "ops", "accuracy", "scaling")),
        *((f"{name} --threads 9999", "9999 is not in the range") for name in ("sample", "ladder", "profile")),
        *((f"{name} --rounds 0", "0 is not in the range x>=1") for name in ("runtimes", "memory", "startup", "ops")),
        ("accuracy --seeds 0", "0 is not in the range x>=1"),
        ("ranks --rounds 0", "0 is not in the range x>=1"),
        ("instances --processes 0", "0 is not in the range x>=1"),
        ("gpu --minutes 0", "0.0 is not in the range x>0"),
        ("train --peers torchh", "no peer 'torchh' here; there are numba"),
        ("train --isa avx3", "'avx3'"),
        *((f"{name} --only zzz", "no workload's name holds 'zzz'; there are ") for name in ("train", "sample")),
        *((f"{name} --only zzz", "no workload's name holds 'zzz'; there are ") for name in ("memory", "startup")),
        ("profile --only zzz", "no workload's name holds 'zzz'; there are "),
        ("ladder --only zzz", "no shape's name holds 'zzz'; there are "),
        ("ops --only zzz", "no operation's case holds 'zzz'; there are "),
        ("scaling --only zzz", "no series' name holds 'zzz'; there are "),
        ("ops --with no.such.module", "--with no.such.module: there is no such module"),
        *((f"{name} --results /dev/null", "/dev/null: it is a file") for name in ("train", "accuracy", "ranks")),
        ("instances --results /dev/null", "/dev/null: it is a file"),
        ("fly", "'fly'"),
    ],
)
def test_one_line(command: str, words: str) -> None:
    assert words in line(command)


@pytest.mark.parametrize("missing", [("pytest",), ("hypothesis",), ("pytest", "hypothesis")])
def test_operations_need_the_tests_packages(monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]) -> None:
    find = importlib.util.find_spec

    def without(name: str, *more: Any) -> Any:
        return None if name in missing else find(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    assert f"{' and '.join(missing)} is not installed: pip install -e '.[test]'" in line("ops --smoke")
