"""What the command line says of a GPU, on the stand-in for CuPy."""

import gc
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import backends
from backends.cupy_kernels.runtime import arena
from tests.emulation.compiler import missing
from tests.emulation.device import standing_in
from tests.tinyddpm.tiny_runs import SIMPLE_OPTIONS, invoke, succeed

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

OPTIONS = [*SIMPLE_OPTIONS, "--steps", 1, "--timesteps", 50]


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(backends, "_instance", cache(backends._instance.__wrapped__))
    monkeypatch.setattr(arena, "CHUNK", 1 << 16)
    with standing_in() as cupy:
        yield cupy


def chosen(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> dict[str, Any]:
    """With what `backends.CupyBackend` is made."""
    given: dict[str, Any] = {}

    def made(**options: Any) -> Any:
        given.update(options)
        raise backends.BackendUnavailable("seen")

    monkeypatch.setitem(backends.BACKENDS, "cupy", made)  # type: ignore[arg-type]
    result = invoke(*arguments, "--backend", "cupy")
    assert result.exit_code == 2
    return given


@pytest.mark.parametrize("command", [("train",), ("sample", "run"), ("evaluate", "run"), ("doctor",)])
def test_every_command_hands_them_on(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, *command) == {}
    assert chosen(monkeypatch, *command, "--precision", "tf32") == {}
    assert chosen(monkeypatch, *command, "--precision", "bf16") == {"precision": "bf16"}
    assert chosen(monkeypatch, *command, "--precision", "fp32", "--no-graph") == {"precision": "fp32", "graphs": False}


@pytest.mark.parametrize("name", ["numba", "numpy"])
def test_a_precision_that_the_backend_has_not(name: str) -> None:
    result = invoke("train", *OPTIONS, "--backend", name, "--precision", "tf32")
    assert result.exit_code == 2
    line = f"error: --precision tf32: the {name} backend computes in fp32, .* leave it out, or add --backend cupy"
    assert re.fullmatch(line, result.stderr.strip())


def test_doctor_tells_of_precision_graphs_and_memory() -> None:
    said = succeed("doctor", *OPTIONS, "--backend", "cupy")
    assert "computing on cupy, precision tf32: operands rounded to TF32, error 1e-3" in said
    assert "steps are replayed as CUDA graphs" in said
    assert re.search(r"memory at the peak of a step: .* MB available", said)
    said = succeed("doctor", *OPTIONS, "--backend", "cupy", "--precision", "bf16", "--no-graph")
    assert "precision bf16: operands rounded to bfloat16" in said
    assert "each kernel is launched by itself (--no-graph)" in said
    assert "computing on numpy, precision fp32" in succeed("doctor", *OPTIONS, "--backend", "numpy")


def test_out_of_memory_names_the_batch_that_fits(device: Any, tmp_path: Path) -> None:
    command = ["train", *OPTIONS, "--backend", "cupy", "--samples", 0]
    pool = device.get_default_memory_pool()
    gc.collect()
    pool.set_limit(pool.used_bytes() + (4 << 20))
    try:
        result = invoke(*command, "--batch-size", 256, "--out", tmp_path / "large")
        assert result.exit_code == 2
        found = re.fullmatch(
            r"error: not enough memory on the GPU \(Out of memory allocating .*\); batches of (\d+) images would fit: "
            r"--batch-size (\d+), with --accumulate (\d+) for as many in a step",
            result.stderr.strip().splitlines()[-1],
        )
        assert found, result.stderr
        assert found[1] == found[2]
        assert (int(found[3]) - 1) * int(found[1]) < 256 <= int(found[3]) * int(found[1])
        del result  # holds the run that failed
        gc.collect()
        assert invoke(*command, "--batch-size", found[1], "--out", tmp_path / "fits").exit_code == 0
    finally:
        pool.set_limit(0)
