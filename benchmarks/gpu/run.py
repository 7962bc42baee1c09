"""All sections of `python -m benchmarks gpu`, the most telling first."""

import importlib
import importlib.util
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import backends
from benchmarks import report
from benchmarks.gpu import checks, kernels, lessons, plots, preparation, speed, tiles
from benchmarks.gpu.session import Session
from benchmarks.operation_cases import Size
from benchmarks.workloads import REFERENCE, SAMPLE, SMALL, TINY, TRAIN, Workload

PRECISIONS = ("tf32", "bf16", "fp32")


@dataclass(frozen=True)
class Scale:
    """How much is done. check: size of the operations that are checked, timed: of those that are timed; turn: seconds
    of a peer's turn, rounds: of turns; repeats: of an operation in a graph; without: no operation whose name holds one
    of these."""

    check: Size
    timed: Size
    step: Workload
    train: tuple[Workload, ...]
    sample: tuple[Workload, ...]
    growing: tuple[Workload, ...]
    lesson: tuple[int, int, int]  # steps, batch, samples
    turn: float
    rounds: int
    repeats: int = 20
    without: tuple[str, ...] = ()


BATCH_512 = Workload("32x32 grey, 32 channels, batch 512", "train", REFERENCE, 512)
WHOLE = Scale(
    check=Size(2, 10_000),
    timed=Size(64, 3_940_000),
    step=Workload("32x32 grey, batch 4", "train", REFERENCE, 4),
    train=(TRAIN[0], BATCH_512),
    sample=(SAMPLE[0], SAMPLE[2]),
    growing=tuple(
        Workload(name, "train", config, n)
        for name, config in (
            ("8x8, 16 channels", TINY),
            ("16x16, 16 channels", SMALL),
            ("32x32, 32 channels", REFERENCE),
        )
        for n in (1, 8, 64)
    ),
    lesson=(400, 64, 64),
    turn=0.1,
    rounds=5,
)
SMOKE = Workload("8x8, batch 2", "train", TINY, 2)
REHEARSAL = Scale(
    check=Size(1, 1000),
    timed=Size(1, 1000),
    step=SMOKE,
    train=(SMOKE,),
    sample=(replace(SMOKE, kind="forward"),),
    growing=(SMOKE,),
    lesson=(2, 2, 1),
    turn=0.0,
    rounds=1,
    repeats=2,
    without=("conv2d 32x32, 32", "conv2d 32x32, 64", "conv2d 16x16", "128+128", "64+32->32"),
)


def machine(xp: Any) -> dict[str, Any]:
    """The GPU, and versions."""
    runtime = xp.cuda.runtime
    properties = runtime.getDeviceProperties(0)
    free, total = xp.cuda.Device().mem_info
    return report.machine(backends.threads()) | {
        "gpu": properties["name"].decode(),
        "multiprocessors": properties["multiProcessorCount"],
        "compute capability": xp.cuda.Device().compute_capability,
        "memory": total,
        "free memory": free,
        "cuda": runtime.runtimeGetVersion(),
        "driver": runtime.driverGetVersion(),
        "cupy": xp.__version__,
        "torch": report.installed("torch"),
    }


# Sections that run only when they are named
ASKED = ("tiles", "theirs")


def sections(session: Session, scale: Scale, torch: Any, rehearsed: bool) -> list[tuple[str, Callable[[], Any], float]]:
    """(name, what it does, seconds that it needs), in order."""
    default = backends.get("cupy", "tf32")
    rates: dict[str, float] = {}
    found: list[tuple[str, Callable[[], Any], float]] = [
        (
            "rates",
            lambda: rates.update(speed.rates(session, default.xp, default.synchronize, torch, rehearsed)),
            0,
        )
    ]
    for precision in PRECISIONS:
        be = backends.get("cupy", precision)
        if not rehearsed:
            found.append(
                (f"compile {precision}", partial(preparation.compile_kernels, session, be.xp, (precision,)), 0)
            )
        found += [
            (f"check {precision}", partial(checks.check_operations, session, be, scale.check, scale.without), 0),
            (f"steps {precision}", partial(checks.check_step, session, be, scale.step), 0),
        ]
    large, late = [], []
    for precision in PRECISIONS[: 1 if rehearsed else 3]:
        for workload in networks(scale):
            run = partial(
                speed.time_workload, session, workload, precision, torch, scale.rounds, scale.turn, not rehearsed
            )
            section = network(precision, workload), run, 0 if rehearsed else 20
            (large if workload in scale.train[1:] else found).append(section)
        if torch is not None:  # behind all that is timed, as a tracer may stay
            late.append((f"traces {precision}", partial(trace, session, scale, torch, precision), 0))
            late.append((f"theirs {precision}", partial(their_trace, session, scale, torch, precision), 0))
        found.append((f"tiles {precision}", partial(sweep, session, scale, precision), 0))
    found.append(("cpu", partial(speed.time_on_cpu, session, scale.train[0], ("numba", "numpy")), 0))
    for precision in PRECISIONS[: 1 if rehearsed else 3]:
        be = backends.get("cupy", precision)
        one = partial(
            speed.time_operations, session, be, torch, scale.timed, rates, scale.turn / 5, scale.repeats, scale.without
        )
        found.append((f"operations {precision}", one, 0 if rehearsed else 20))
    found += [
        ("learning", partial(lessons.learn, session, default, *scale.lesson, TINY), 0 if rehearsed else 15),
        ("crossover", partial(speed.crossover, session, scale.growing, scale.turn), 0 if rehearsed else 20),
    ]
    if session.child:
        return found + large + late
    # A fault leaves its process no GPU: PyTorch 2.11 ended so at batch 512
    apart = [(name, partial(session.apart, name), least) for name, _, least in large]
    return found + apart + late


def networks(scale: Scale) -> tuple[Workload, ...]:
    """What is timed beside PyTorch."""
    return *scale.train[:1], *scale.sample, *scale.train[1:]


def trace(session: Session, scale: Scale, torch: Any, precision: str) -> None:
    """Traces of a training step, launched by Python and as a graph, and of predictions."""
    workload = scale.train[0]
    for name, graphs in (("launches", False), ("graph", True)):
        be = backends.get("cupy", precision, graphs=graphs)
        kernels.trace(session, torch, f"{precision}-{name}", speed.our_run(be, workload), be.synchronize)
    for sampling in scale.sample:
        be = backends.get("cupy", precision)
        run = speed.our_run(be, sampling)
        kernels.trace(session, torch, f"{precision}-sampling-{sampling.batch}", run, be.synchronize)


def their_trace(session: Session, scale: Scale, torch: Any, precision: str) -> None:
    """Traces of PyTorch's training step and predictions, compiled."""
    for workload in (scale.train[0], *scale.sample):
        run = speed.torch_run(torch, workload, precision, "compile")
        name = f"{precision}-torch-{workload.kind}-{workload.batch}"
        kernels.trace(session, torch, name, run, speed.torch_wait(torch))


def sweep(session: Session, scale: Scale, precision: str) -> None:
    """All candidates for the convolutions of a training step, and of the smallest prediction."""
    be = backends.get("cupy", precision, graphs=False)
    for workload in (scale.train[0], scale.sample[-1]):
        step = speed.our_run(be, workload)
        tiles.sweep(session, be, f"{workload.kind}-{workload.batch}", step, scale.repeats, scale.turn / 50)


def fill_cache(precision: str, number: int) -> None:
    """Compiles one of the networks that are timed by PyTorch, which keeps what it compiles on disk."""
    workload = networks(WHOLE)[number]
    run = speed.torch_run(importlib.import_module("torch"), workload, precision, "compile")
    for _ in range(2):
        run()


def run(
    minutes: float,
    results: Path | None,
    only: str,
    rehearse: bool,
    gone: list[str] | None = None,
    child: bool = False,
) -> int:
    """Runs all sections whose name holds one of the words in `only`; returns 0 unless something failed or is wrong.

    Writes gpu.json, gpu.log and plots to the folder `results`: by default that of all results, for a rehearsal a
    folder in build/, as its figures say nothing. gone: modules that were missing. child: whether this process was
    started for a section apart.
    """
    folder = results or (Path("build") / "rehearsal" if rehearse else report.RESULTS)
    with standing_in() if rehearse else nullcontext():
        try:
            be = backends.get("cupy", "tf32")
        except backends.BackendUnavailable as error:
            print(f"error: {error}")
            return 2
        about = machine(be.xp) | {"rehearsed": rehearse, "missing modules": gone or []}
        session = Session(folder, 60 * minutes, about, child=child or rehearse)
        session.say(f"{about['gpu']}, {about['free memory'] / 2**30:.0f} GiB free, cupy {about['cupy']}")
        torch = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
        words = [word.strip() for word in only.split(";" if ";" in only else ",") if word.strip()]
        wanted = [
            section
            for section in sections(session, REHEARSAL if rehearse else WHOLE, torch, rehearse)
            if any(word in section[0] for word in words) or not (words or section[0].startswith(ASKED))
        ]
        compilers = []
        if torch is not None and not rehearse and not child:
            names = [name for name, *_ in wanted]
            jobs = [(p, n) for p in PRECISIONS for n, w in enumerate(networks(WHOLE)) if network(p, w) in names]
            compilers = preparation.compile_torch(jobs)
        for name, what, least in wanted:
            if name.startswith("networks"):
                preparation.wait_for(session, compilers)
            session.section(name, what, least)
        session.attempt("plots", lambda: plots.draw(session.found, folder))
    wrong = [row for key in ("checks", "steps") for row in session.found.get(key, []) if not row["right"]]
    failures = session.found["failures"]
    for row in wrong:
        session.say(f"WRONG: {row}")
    session.say(f"{len(wrong)} wrong results, {len(failures)} failures; {session.folder}/gpu.json and gpu.log have all")
    return int(bool(wrong or failures))


def network(precision: str, workload: Workload) -> str:
    """The name of a section."""
    return f"networks {precision} {workload.kind} {workload.name}"


def standing_in() -> Any:
    """The stand-in for CuPy, of the tests."""
    from tests.emulation.device import standing_in

    backends._instance.cache_clear()  # what it found without it
    return standing_in()
