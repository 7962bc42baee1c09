"""Registers, spills, shared memory and residence of every CUDA kernel that may run, on every target, without a GPU.

An instance is a kernel with its template's parameters; a target, a compute capability. Each source promises in its
header how many blocks of its kernels a multiprocessor holds at least; `faults` says where a promise is broken, or where
a kernel spills. `tests/backends/test_cuda_instances.py` wants no faults, and a committed table that is up to date.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import backends  # noqa: F401 - makes all kernels
from backends.cupy_kernels.runtime import compilation
from backends.cupy_kernels.runtime.launch import Kernel
from benchmarks import nvrtc
from benchmarks.ladder.cuda import rungs
from benchmarks.nvrtc import Needs
from benchmarks.occupancy import TARGETS, Residence, residence

ROOT = Path(__file__).resolve().parents[1]
# What was compiled before, by a digest of all that it depends on: the repository's ignored folder
BUILD = ROOT / "build" / "instances"
# Bytes for which a thread may find no register: a value or two, in passing
SPILL = 16


class Instance(NamedTuple):
    """A kernel as it runs: its source, name and C++ expression; threads and dynamic shared bytes of a block; its
    target, if it has but one."""

    path: Path
    kernel: str
    expression: str
    threads: int
    shared: int
    target: str = ""

    @property
    def targets(self) -> tuple[str, ...]:
        """What it is compiled for."""
        return (self.target,) if self.target else tuple(TARGETS)


class Figures(NamedTuple):
    """What was found of an instance on a target."""

    instance: Instance
    target: str
    needs: Needs
    residence: Residence


def instances() -> list[Instance]:
    """All that may run: the backend's, and the rungs of the ladder."""
    found = []
    for kernel in Kernel.every:
        path = compilation.FOLDER / kernel.source
        for template, words in kernel.expressions.items():
            threads, shared = kernel.threads(*template), kernel.shared(*template)
            found.append(Instance(path, kernel.name, words, threads, shared, kernel.target))
    for rung in rungs.SOURCES:
        threads = rung.block[0] * (rung.block[1] if len(rung.block) > 1 else 1)
        found.append(Instance(rungs.HERE / rung.source, "conv", "conv", threads, rung.shared))
    return found


def by_source(found: Iterable[Instance]) -> dict[Path, list[Instance]]:
    """The instances of each source, in the order of the paths."""
    sources: dict[Path, list[Instance]] = {}
    for instance in found:
        sources.setdefault(instance.path, []).append(instance)
    return dict(sorted(sources.items()))


# Compiling

COMMENT = re.compile(r"\s*//[^\n]*")


def figures(of: list[Instance], target: str) -> list[Figures]:
    """What the instances of one source need on a target. Raises nvrtc.CompileError."""
    path = of[0].path
    code = path.read_text(encoding="utf-8")
    options = (*compilation.options(), f"-I{path.parent}")
    expressions = [instance.expression for instance in of]
    depends = (nvrtc.compiler(), target, COMMENT.sub("", code), *options, *nvrtc.OF_CUPY, *expressions)
    needs = kept(depends, lambda: nvrtc.compile_kernels(code, expressions, target, options))
    return [
        Figures(one, target, need, residence(target, one.threads, need.registers, one.shared + need.shared))
        for one, need in ((instance, needs[instance.expression]) for instance in of)
    ]


def kept(depends: Iterable[str], make: Callable[[], dict[str, Needs]]) -> dict[str, Needs]:
    """What `make` gives, or gave before for the same."""
    path = BUILD / f"{hashlib.sha256(chr(0).join(depends).encode()).hexdigest()[:16]}.json"
    if path.exists():
        return {name: Needs(*numbers) for name, numbers in json.loads(path.read_text()).items()}
    found = make()
    BUILD.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(found))
    part.rename(path)
    return found


def everything(processes: int, only: str = "") -> list[Figures]:
    """The figures of all sources whose name holds `only`, compiled by a number of processes."""
    sources = [of for path, of in by_source(instances()).items() if only in path.name]
    # The longest first, so that no process is left alone with one at the end
    jobs = sorted(((of, target) for of in sources for target in of[0].targets), key=lambda job: -len(job[0]))
    with ProcessPoolExecutor(processes) as pool:
        return [one for found in pool.map(figures, *zip(*jobs, strict=True)) for one in found]


# What headers promise

HEADER = re.compile(r"(?://[^\n]*\n)+")
CLAUSE = r"\w+(?:, \w+)* \d+ of \d+(?:, \d+ of \d+)*"
PROMISE = re.compile(rf"\bResident:? +({CLAUSE}(?:; {CLAUSE})*)")


def promised(code: str) -> dict[tuple[str, int], int]:
    """Blocks that a multiprocessor holds at least, by kernel and threads of a block, as the header of a source says."""
    header = HEADER.match(code)
    words = re.sub(r"\s*\n//\s*", " ", header[0]) if header else ""
    promise = PROMISE.search(words)
    found = {}
    for clause in promise[1].split("; ") if promise else ():
        names = re.split(r" (?=\d)", clause)[0].split(", ")
        for blocks, threads in re.findall(r"(\d+) of (\d+)", clause):
            found.update({(name, int(threads)): int(blocks) for name in names})
    return found


def faults(code: str, found: Iterable[Figures]) -> list[str]:
    """Where kernels spill, where fewer blocks are resident than a source promises, and where it promises nothing."""
    promises, said = promised(code), []
    for instance, target, needs, there in found:
        name = f"{instance.expression} on {target}"
        if needs.serialized:
            said.append(f"{name}: the compiler lets products of wgmma wait for one another")
        if needs.spilled > SPILL:
            said.append(f"{name} spills {needs.spilled} bytes, of {SPILL} allowed")
        least = promises.get((instance.kernel, instance.threads))
        if least is None:
            said.append(f"the header does not say how many blocks of {instance.kernel} with {instance.threads} threads")
        elif there.blocks < least:
            said.append(f"{name}: {there.blocks} blocks where the header promises {least}; too little: {there.limit}")
    return list(dict.fromkeys(said))


# The table


def entry(one: Figures) -> dict[str, Any]:
    """What the table has of an instance on a target."""
    return {**one.needs._asdict(), **one.residence._asdict(), "share": round(one.residence.share, 4)}


def table(found: Iterable[Figures]) -> list[dict[str, Any]]:
    """A row for each instance, in it what each target gives."""
    rows: dict[Instance, dict[str, Any]] = {}
    for one in found:
        path, _, expression, threads, shared, _ = one.instance
        source = path.relative_to(ROOT).as_posix()
        row = {"source": source, "instance": expression, "threads": threads, "dynamic_shared": shared, "targets": {}}
        rows.setdefault(one.instance, row)["targets"][one.target] = entry(one)
    return [rows[instance] for of in by_source(rows).values() for instance in of]


def as_json(rows: list[dict[str, Any]], compiler: str) -> str:
    """The table with the compiler's version and options, a line for each row."""
    about = {"compiler": compiler, "options": [compilation.STANDARD, *nvrtc.OF_CUPY]}
    head = json.dumps(about, indent=1).removesuffix("\n}")
    return head + ',\n "rows": [\n  ' + ",\n  ".join(map(json.dumps, rows)) + "\n ]\n}\n"


def as_markdown(rows: list[dict[str, Any]], compiler: str) -> str:
    """The table to read, source by source."""
    lines = [
        "# What the CUDA kernels need",
        "",
        f"Every instance that may run, as {nvrtc.PACKAGE} {compiler} compiles it; written by",
        "`python -m benchmarks instances`, measured without a GPU. For each target: registers of a thread, blocks on a",
        "multiprocessor with their share of its warps, and what admits no more. Bytes of shared memory are static and",
        "dynamic together; a convolution takes what its shape wants, here that of 128 channels at 32×32.",
    ]
    source = ""
    for row in rows:
        if row["source"] != source:
            source = row["source"]
            columns = ["instance", "threads", "shared", *row["targets"]]
            lines += ["", f"## {source}", "", f"| {' | '.join(columns)} |", "| --- |" + " --- |" * (len(columns) - 1)]
        static = max(on["shared"] for on in row["targets"].values())
        cells = [f"`{row['instance']}`", str(row["threads"]), f"{row['dynamic_shared'] + static:,}"]
        lines.append(f"| {' | '.join(cells + [cell(on) for on in row['targets'].values()])} |")
    return "\n".join(lines) + "\n"


def cell(on: dict[str, Any]) -> str:
    """An instance on a target in a few words."""
    spills = f", {on['spill_stores']} B spilled" if on["spill_stores"] else ""
    return f"{on['registers']} registers{spills}; {on['blocks']} = {on['share']:.0%}: {on['limit']}"


def summary(found: list[Figures]) -> list[str]:
    """A line for each kernel and size of block: the fewest blocks, the most registers and the most spilled."""
    groups: dict[tuple[str, str, int], list[Figures]] = {}
    for one in found:
        groups.setdefault((one.instance.path.name, one.instance.kernel, one.instance.threads), []).append(one)
    lines = []
    for (source, kernel, threads), of in sorted(groups.items()):
        worst = min(of, key=lambda one: one.residence.blocks)
        blocks, _, limit = worst.residence
        registers, spilled = max(one.needs.registers for one in of), max(one.needs.spilled for one in of)
        lines.append(
            f"{source:24} {kernel:18} {blocks:2} of {threads:4} threads ({worst.target}: {limit}), "
            f"at most {registers} registers, {spilled} bytes spilled"
        )
    return lines


def run(processes: int, only: str, folder: Path) -> int:
    """Compiles, prints the worst of each kernel and what is wrong; writes the table if all were compiled."""
    start = time.perf_counter()
    found = everything(processes, only=only)
    print("\n".join(summary(found)))
    print(f"{len(found)} kernels in {time.perf_counter() - start:.0f} s")
    wrong = []
    for path in by_source(one.instance for one in found):
        code = path.read_text(encoding="utf-8")
        of_path = [one for one in found if one.instance.path == path]
        wrong += [f"{path.name}: {fault}" for fault in faults(code, of_path)]
    print("\n".join(wrong))
    if not only:
        folder.mkdir(parents=True, exist_ok=True)
        for name, written in (("instances.json", as_json), ("instances.md", as_markdown)):
            (folder / name).write_text(written(table(found), nvrtc.compiler()), encoding="utf-8")
    return 1 if wrong else 0
