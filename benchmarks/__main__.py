"""`python -m benchmarks COMMAND`: our backends against PyTorch, in alternating runs of separate processes."""

import importlib.util
from collections.abc import Iterable
from functools import partial, wraps
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click

import backends
from backends import thread_count
from benchmarks import memory as peaks
from benchmarks import profile as profiling
from benchmarks import report, workloads
from benchmarks import startup as starts
from benchmarks.measure import compare
from benchmarks.peers import TORCH
from benchmarks.settings import HELD, Settings
from benchmarks.workloads import Workload
from tinyddpm.cli.program import Program
from tinyddpm.files import check_target


class HasName(Protocol):
    """Anything with a name."""

    @property
    def name(self) -> str: ...


Named = TypeVar("Named", bound=HasName)


ONE_UP = click.IntRange(1)
THREADS = click.IntRange(1, thread_count.processors())
USUAL_THREADS = min(2, thread_count.processors())


def matching(works: Iterable[Named], only: str) -> list[Named]:
    """The workloads whose name holds `only`. Raises UsageError if there are none."""
    works = list(works)
    found = [work for work in works if only in work.name]
    if not found:
        raise click.UsageError(f"no workload's name holds {only!r}; there are {'; '.join(w.name for w in works)}")
    return found


def found(module: str) -> bool:
    """Whether Python would find a module; those that it is inside of are loaded."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def peers(with_numpy: bool, smoke: bool) -> list[str]:
    """Ours first; PyTorch at all its settings where it is installed."""
    torch = list(TORCH) if importlib.util.find_spec("torch") else []
    return ["numba", *(["numpy"] if with_numpy else []), *(torch[:2] if smoke else torch)]


def rows_of(results: dict[str, float], workload: Workload, busy: bool) -> list[dict[str, Any]]:
    """A row for each peer; ratio: the best of PyTorch's float32 settings over this one."""
    best = min((value for name, value in results.items() if name in TORCH and "bf16" not in name), default=None)
    return [
        {
            "work": workload.name,
            "peer": name,
            "busy": busy,
            "ms": value * 1e3,
            "ratio": best / value if best else None,
        }
        for name, value in results.items()
    ]


# Wide enough for what each command does to stand on one line
@click.group(cls=Program, context_settings={"terminal_width": 132})
def main() -> None:
    """Measure speed, memory and rounding side by side; results go to benchmarks/results."""


def check_results(context: click.Context, parameter: click.Parameter, folder: Path) -> Path:
    """The folder, as the callback of --results: minutes of measuring are not to end at a file in its place."""
    if folder != report.RESULTS:
        check_target(folder, folder=True)
    return folder


results_option = click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=report.RESULTS,
    callback=check_results,
    help="Folder to write to.",
)


def common(command: Any) -> Any:
    """The options that all commands share."""
    for option in (
        click.option("--smoke", is_flag=True, help="A tiny network, once; nothing is written."),
        click.option(
            "--rounds", type=ONE_UP, default=7, show_default=True, help="Alternating rounds; medians are shown."
        ),
        click.option("--threads", type=THREADS, default=USUAL_THREADS, show_default=True),
        click.option("--only", default="", help="Workloads whose name holds this."),
    ):
        command = option(command)
    return command


def compared(command: Any) -> Any:
    """The options of commands whose peers take turns, and `common`; the command gets a `Settings` and the folder."""

    @wraps(command)
    def with_settings(results: Path, peers: str, **values: Any) -> None:
        names = tuple(name.strip() for name in peers.split(",") if name.strip())
        try:
            command(Settings(**values, peers=names), results)
        except ValueError as error:
            raise click.UsageError(str(error)) from None

    decorated: Any = with_settings
    for option in (
        results_option,
        click.option("--peers", default="", metavar="NAME,…", help="These alone are measured."),
        click.option("--isa", type=click.Choice(["", *HELD]), default="", help="All are held to these instructions."),
        click.option("--busy", is_flag=True, help="Another process takes a core meanwhile."),
    ):
        decorated = option(decorated)
    return common(decorated)


def run(name: str, works: tuple[Workload, ...], settings: Settings, results: Path, numpy: bool) -> None:
    """Compares the peers on each workload; reports each when it is finished."""
    known = peers(numpy, settings.smoke)
    if settings.isa:
        click.echo(
            "left out: numpy, whose BLAS is not held to these instructions; torch bf16, which has none among them"
        )
        known = [name for name in known if name not in ("numpy", "torch bf16")]
    chosen = settings.chosen(known)
    rows: list[dict[str, Any]] = []
    for workload in matching(works, settings.only):
        found = rows_of(compare(workload, chosen, settings), workload, settings.busy)
        report.progress(settings.result(name), rows, found, settings, results)


@main.command()
@compared
def train(settings: Settings, results: Path) -> None:
    """A training step: forward, backward, Adam."""
    run("train", workloads.SMOKE["train"] if settings.smoke else workloads.TRAIN, settings, results, True)


@main.command()
@compared
def sample(settings: Settings, results: Path) -> None:
    """One prediction of the network, as in each step of sampling."""
    run("sample", workloads.SMOKE["sample"] if settings.smoke else workloads.SAMPLE, settings, results, False)


@main.command()
@compared
def runtimes(settings: Settings, results: Path) -> None:
    """One prediction by MNN, ONNX Runtime, OpenVINO and PyTorch beside ours; times: theirs over ours."""
    from benchmarks import runtimes

    present, lines = runtimes.chosen_runtimes(settings)
    for line in lines:
        click.echo(line)
    names = settings.chosen(["numba", *present, runtimes.TORCH_PEER])
    works = workloads.SMOKE["sample"] if settings.smoke else workloads.SAMPLE
    draw = partial(report.plot, of="times", label="times as long as ours")
    rows: list[dict[str, Any]] = []
    for workload in matching(works, settings.only):
        found = runtimes.rows(workload, names, settings)
        report.progress(settings.result("runtimes"), rows, found, settings, results, draw)


@main.command()
@click.option("--smoke", is_flag=True, help="One small network and two seeds; nothing is written.")
@click.option(
    "--seeds", type=ONE_UP, default=5, show_default=True, help="Parameters and batches drawn for each network."
)
@click.option("--threads", type=THREADS, default=USUAL_THREADS, show_default=True)
@click.option("--only", default="", help="Networks whose name holds this.")
@results_option
def accuracy(smoke: bool, seeds: int, threads: int, only: str, results: Path) -> None:
    """Rounding errors of whole U-Nets, forward and backward, ours and PyTorch's, against float64."""
    if importlib.util.find_spec("torch") is None:
        raise click.UsageError("the exact results are PyTorch's: pip install -e '.[parity]'")
    import torch

    import backends
    from benchmarks import accuracy

    backends.set_threads(threads)
    torch.set_num_threads(threads)
    try:
        rows = accuracy.rows(smoke, 2 if smoke else seeds, only)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    print(report.table(rows))
    if not smoke:
        report.save("accuracy", rows, report.machine(threads) | {"seeds": seeds}, results)


@main.command()
@common
def memory(smoke: bool, rounds: int, threads: int, only: str) -> None:
    """Peak memory of a training process, measured and predicted, with recomputation too."""
    chosen = matching((workloads.SMOKE if smoke else {"train": workloads.TRAIN})["train"], only)
    torch = [name for name in peers(False, smoke) if name in TORCH]
    rows = [row for workload in chosen for row in peaks.rows(workload, torch, threads)]
    draw = partial(report.plot, of="MB", label="peak memory of the process, MB")
    report.write("memory", rows, threads, not (smoke or only), draw)


@main.command()
@common
def startup(smoke: bool, rounds: int, threads: int, only: str) -> None:
    """Process start to the end of the first training step; of the first run ever, with all kernels compiled."""
    chosen = matching(workloads.SMOKE["train"] if smoke else workloads.TRAIN[:1], only)
    # What compiles takes a minute to start
    torch = [name for name in peers(False, smoke) if name in TORCH and "compile" not in name]
    rows = [row for w in chosen for row in starts.rows(w, torch, threads, 1 if smoke else rounds)]
    report.write("startup", rows, threads, not (smoke or only))


@main.command()
@common
@click.option("--with", "modules", multiple=True, help="A module to load first, which registers operations of its own.")
def ops(smoke: bool, rounds: int, threads: int, only: str, modules: tuple[str, ...]) -> None:
    """Every operation at shapes of the reference U-Net, forward and backward, with its share of the roofline."""
    missing = [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]
    if missing:
        raise click.UsageError(
            f"the operations' cases are those of the tests, and {' and '.join(missing)} is not installed: "
            "pip install -e '.[test]'"
        )
    for module in modules:
        if not found(module):
            raise click.UsageError(f"--with {module}: there is no such module where Python looks for them")
    from benchmarks import ops as operations

    operations.run(smoke, rounds, threads, only, modules)


@main.command()
@common
def scaling(smoke: bool, rounds: int, threads: int, only: str) -> None:
    """The Numba backend's training step over batch, image size, channels and threads; --only: a series of these."""
    from benchmarks import scaling

    scaling.run(smoke, rounds, threads, only)


@main.command()
@click.option("--smoke", is_flag=True, help="A tiny network and two ranks, once; nothing is written.")
@click.option("--rounds", type=ONE_UP, default=7, show_default=True, help="Alternating rounds; medians are shown.")
@results_option
def ranks(smoke: bool, rounds: int, results: Path) -> None:
    """Training over MPI ranks, a thread each: scaling, the sum of gradients, and what follows for up to 512 ranks."""
    from benchmarks.ranks import run, start

    if reason := start.missing():
        raise click.UsageError(reason)
    run.run(smoke, rounds, results)


@main.command()
@common
def profile(smoke: bool, rounds: int, threads: int, only: str) -> None:
    """Where the time goes: each kernel of a training step and of a prediction by itself."""
    chosen = workloads.SMOKE if smoke else {"train": workloads.TRAIN, "sample": workloads.SAMPLE}
    found = matching([w for works in chosen.values() for w in works], only)
    rows = [row for workload in found for row in profiling.rows(workload, threads, 2 if smoke else rounds)]
    report.write("profile", rows, threads, not (smoke or only), profiling.plot)


@main.command()
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    default=8.0,
    show_default=True,
    help="All the time there is; sections at the end may be left out.",
)
@click.option("--results", type=click.Path(path_type=Path), help="Folder to write to.")
@click.option("--only", default="", help="Sections whose name holds one of these, separated by commas.")
@click.option("--rehearse", is_flag=True, help="Tiny, on the stand-in for CuPy, without a GPU; nothing is measured.")
def gpu(minutes: float, results: Path | None, only: str, rehearse: bool) -> None:
    """The GPU backend: first checked, then measured beside PyTorch and the CPU; also as python -m benchmarks.gpu."""
    from benchmarks.gpu.run import run as run_on_gpu

    raise SystemExit(run_on_gpu(minutes, results, only, rehearse))


@main.command()
@click.option("--smoke", is_flag=True, help="One source; nothing is written.")
@click.option("--processes", type=ONE_UP, default=2, show_default=True, help="That compile at once.")
@click.option("--only", default="", help="Sources whose name holds this; nothing is written.")
@results_option
def instances(smoke: bool, processes: int, only: str, results: Path) -> None:
    """Registers, spills and residence of every CUDA kernel on four kinds of GPU, by NVIDIA's compiler alone."""
    from benchmarks import instances, nvrtc

    if reason := nvrtc.missing():
        raise click.UsageError(reason)
    raise SystemExit(instances.run(processes, "embedding" if smoke else only, results))


@main.command()
@common
def ladder(smoke: bool, rounds: int, threads: int, only: str) -> None:
    """The 3x3 convolution from plain loops to the library's kernel, idea by idea: benchmarks/ladder; on a GPU too."""
    from benchmarks.ladder.cpu import measure as on_cpu

    keep = not (smoke or only)
    report.write("ladder", on_cpu.measure(smoke, rounds, threads, only), threads, keep)
    reason = backends.available()["cupy"]
    if reason is not None:
        click.echo(f"the CUDA ladder is left out: {reason}")
        return
    from benchmarks.ladder.cuda import measure as on_gpu

    report.write("ladder-cuda", on_gpu.measure(smoke, rounds, only), threads, keep)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
