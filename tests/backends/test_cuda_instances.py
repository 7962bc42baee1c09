"""Every CUDA kernel that may run, compiled by NVIDIA's compiler for four kinds of GPU.

None spills more than a value or two, and as many blocks are resident as the sources promise.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from backends.cupy_kernels import tuning
from backends.cupy_kernels.convolution import CONVOLVE, GRADIENT
from benchmarks import instances, nvrtc
from benchmarks.instances import Figures, Instance, by_source, faults, figures, promised
from benchmarks.occupancy import residence
from benchmarks.report import RESULTS

compiled = pytest.mark.skipif(nvrtc.missing() is not None, reason=str(nvrtc.missing()))
SOURCES = by_source(instances.instances())
TABLE = json.loads((RESULTS / "instances.json").read_text(encoding="utf-8"))


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The table's rows of a source."""
    return [row for row in TABLE["rows"] if instances.ROOT / row["source"] == path]


@compiled
@pytest.mark.parametrize(
    ("path", "target"),
    [(path, target) for path, of in SOURCES.items() for target in of[0].targets],
    ids=lambda value: getattr(value, "stem", value),
)
def test_kernels_keep_what_their_source_promises(path: Path, target: str) -> None:
    found = figures(SOURCES[path], target)
    assert faults(path.read_text(encoding="utf-8"), found) == []
    if TABLE["compiler"] == nvrtc.compiler():
        tabled = {row["instance"]: row["targets"][target] for row in rows_of(path)}
        assert {one.instance.expression: instances.entry(one) for one in found} == tabled, (
            "the table is of other sources: python -m benchmarks instances"
        )
    for one in found:  # where its shape wants the most
        if one.instance.kernel in (CONVOLVE.name, GRADIENT.name):
            most = one.needs.shared + tuning.SHARED_MEMORY
            assert residence(target, one.instance.threads, one.needs.registers, most).blocks >= 1


# Without a compiler


def test_every_source_is_compiled() -> None:
    folders = {path.parent for path in SOURCES}
    assert len(folders) == 2
    assert set(SOURCES) == {path for folder in folders for path in folder.glob("*.cu")}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_headers_promise_for_every_kernel_and_for_no_other(path: Path) -> None:
    promises = promised(path.read_text(encoding="utf-8"))
    assert promises.keys() == {(instance.kernel, instance.threads) for instance in SOURCES[path]}
    assert min(promises.values()) >= 1


def test_the_table_has_every_instance_and_no_other() -> None:
    expected = [(instance.path, *instance[2:5]) for of in SOURCES.values() for instance in of]
    columns = ("instance", "threads", "dynamic_shared")
    assert [(instances.ROOT / row["source"], *(row[c] for c in columns)) for row in TABLE["rows"]] == expected
    targets = [instance.targets for of in SOURCES.values() for instance in of]
    assert [tuple(row["targets"]) for row in TABLE["rows"]] == targets


def test_the_table_to_read_is_the_same() -> None:
    written = (RESULTS / "instances.md").read_text(encoding="utf-8")
    assert written == instances.as_markdown(TABLE["rows"], TABLE["compiler"])


@pytest.mark.parametrize(
    ("target", "threads", "registers", "shared", "expected"),
    [
        ("sm_80", 256, 32, 0, (8, 1.0, "warps")),
        ("sm_80", 32, 32, 0, (32, 0.5, "blocks")),
        ("sm_90", 256, 64, 0, (4, 0.5, "registers")),
        ("sm_90", 256, 65, 0, (3, 0.375, "registers")),  # 65 are handed out as 72
        ("sm_90", 192, 168, 0, (2, 0.1875, "registers")),  # three warps in each quarter, two blocks of six
        ("sm_90", 128, 32, 100 << 10, (2, 0.125, "shared memory")),
        ("sm_80", 128, 32, 100 << 10, (1, 0.0625, "shared memory")),
        ("sm_120", 1024, 32, 0, (1, 2 / 3, "warps")),
        ("sm_120", 128, 32, 99 << 10, (1, 1 / 12, "shared memory")),
        ("sm_120", 128, 32, (99 << 10) + 1, (0, 0.0, "shared memory")),
    ],
)
def test_residence(target: str, threads: int, registers: int, shared: int, expected: tuple) -> None:
    assert residence(target, threads, registers, shared) == expected


HEADER = """// Adds.
//   Resident  add, silu 6 of 256;
//             join 1 of 64, 2 of 128
// More.
#include "types.cuh"
// Resident split 1 of 32
"""


def test_promises_are_read_from_the_header_alone() -> None:
    expected = {("add", 256): 6, ("silu", 256): 6, ("join", 64): 1, ("join", 128): 2}
    assert promised(HEADER) == expected
    assert promised("\n" + HEADER) == {}


def test_the_assembler_is_understood() -> None:
    log = """ptxas info    : 144 bytes gmem
ptxas info    : Compiling entry function '_Z1aPf' for 'sm_90'
ptxas info    : Function properties for _Z1aPf
ptxas         .     40 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 30 registers, used 1 barriers, 40 bytes cumulative stack size, 1024 bytes smem
ptxas info    : Function properties for __internal_slowpath
ptxas         .     0 bytes stack frame, 16 bytes spill stores, 32 bytes spill loads
ptxas info    : Compiling entry function 'b' for 'sm_90'
ptxas info    : Function properties for b
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers
"""
    assert nvrtc.needs(log) == {"_Z1aPf": (30, 1024, 20, 40, 0), "b": (8, 0, 0, 0, 0)}
    waits = (
        "ptxas info    : (C7515) Potential Performance Loss: wgmma.mma_async instructions are serialized due to non "
        "wgmma instructions defining accumulator registers of a wgmma in the function 'b'\n"
    )
    assert nvrtc.needs(waits + log)["b"].serialized == 1


# Mistakes that must be noticed

GREEDY = """// Holds more numbers than there are registers.
//   Resident  greedy 1 of 1024
template <int N> __global__ void __launch_bounds__(1024) greedy(float* x) {
  float v[N];
#pragma unroll
  for (int i = 0; i < N; i++) v[i] = x[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < N; i++) x[i * 1024 + threadIdx.x] = v[i] * v[N - 1 - i] + v[i / 2];
}
"""


@pytest.fixture(autouse=True)
def no_cache(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted sources leave nothing in the repository's folder."""
    if "planted" in request.node.name:
        monkeypatch.setattr(instances, "BUILD", tmp_path / "build")


def planted(folder: Path, code: str, expression: str = "greedy<128>", threads: int = 1024) -> list[Figures]:
    """The figures of a kernel of this test."""
    path = folder / "greedy.cu"
    path.write_text(code, encoding="utf-8")
    return figures([Instance(path, "greedy", expression, threads, 0)], "sm_90")


@compiled
def test_a_planted_spill_is_noticed(tmp_path: Path) -> None:
    assert faults(GREEDY, planted(tmp_path, GREEDY, "greedy<16>")) == []
    (fault,) = faults(GREEDY, planted(tmp_path, GREEDY))
    assert fault.startswith("greedy<128> on sm_90 spills ")


@compiled
def test_a_planted_promise_of_too_much_is_noticed(tmp_path: Path) -> None:
    code = GREEDY.replace("1 of 1024", "2 of 256").replace("(1024)", "(256)")
    found = planted(tmp_path, code, threads=256)
    assert found[0].needs.spilled == 0
    (fault,) = faults(code, found)
    assert fault == "greedy<128> on sm_90: 1 blocks where the header promises 2; too little: registers"
    assert faults(code.replace("2 of 256", "1 of 256"), found) == []


@compiled
def test_a_planted_kernel_without_a_promise_is_noticed(tmp_path: Path) -> None:
    found = planted(tmp_path, GREEDY, "greedy<16>")
    for code in (GREEDY.replace("greedy 1", "other 1"), GREEDY.replace("of 1024", "of 512"), GREEDY[3:]):
        assert faults(code, found) == ["the header does not say how many blocks of greedy with 1024 threads"]


@compiled
def test_a_planted_mistake_is_told_by_the_compiler(tmp_path: Path) -> None:
    with pytest.raises(nvrtc.CompileError, match="nobody"):
        planted(tmp_path, "__global__ void greedy(float* x) { *x = nobody; }", "greedy")


@compiled
def test_planted_figures_are_kept_until_the_source_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = planted(tmp_path, GREEDY, "greedy<16>")
    monkeypatch.setattr(nvrtc, "compile_kernels", lambda *args: pytest.fail("compiled"))
    assert planted(tmp_path, GREEDY, "greedy<16>") == first
    with pytest.raises(pytest.fail.Exception):
        planted(tmp_path, GREEDY + "\n", "greedy<16>")
