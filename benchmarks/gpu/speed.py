"""How fast is it on this GPU? Rates, every operation against them, whole steps beside PyTorch and the CPU backends."""

import math
import time
from collections.abc import Callable
from contextlib import suppress
from statistics import median
from typing import Any

import numpy as np

import backends
from backends import OPS
from backends.cupy_kernels.runtime.arena import Arena
from benchmarks.gpu.checks import FLAT, moved
from benchmarks.gpu.session import Session
from benchmarks.operation_cases import CASES, Case, Numbers, Size
from benchmarks.peers import inputs, make_model
from benchmarks.workloads import Workload
from tinyddpm import Diffusion, Schedule, TrainConfig, Trainer, streams
from tinyddpm.data import Batches
from tinyddpm.diffusion import objective

Run = Callable[[], Any]


def seconds_of(run: Run, wait: Run, turn: float) -> float:
    """Mean seconds of one of as many runs as fill a turn; the device is waited for at its end alone."""
    wait()
    start = time.perf_counter()
    run()
    wait()
    runs = max(1, math.ceil(turn / max(time.perf_counter() - start, 1e-6)))
    start = time.perf_counter()
    for _ in range(runs):
        run()
    wait()
    return (time.perf_counter() - start) / runs


def alternate(peers: dict[str, tuple[Run, Run]], rounds: int, turn: float) -> dict[str, float]:
    """Median seconds of each (run, wait), in alternating turns after three runs of each."""
    for run, wait in peers.values():
        for _ in range(3):  # eager, captured, replayed
            run()
        wait()
    found: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, (run, wait) in peers.items():
            found[name].append(seconds_of(run, wait, turn))
    return {name: median(times) for name, times in found.items()}


# Rates


def rates(session: Session, xp: Any, wait: Run, torch: Any, small: bool) -> dict[str, float]:
    """Bytes a second of a copy, and operations of PyTorch's matrix product in each precision, where it is installed."""
    n = 1 << 10 if small else 1 << 28
    a, b = xp.zeros(n, np.float32), xp.empty(n, np.float32)

    def copy() -> None:
        b[...] = a

    found = {"copy": 2 * a.nbytes / seconds_of(copy, wait, 0.001 if small else 0.2)}
    session.row("rates", what="copy", GBs=found["copy"] / 1e9)
    if torch is not None:
        side, device = (32, "cpu") if small else (8192, "cuda")
        for precision in ("fp32", "tf32", "bf16"):
            set_precision(torch, precision)
            x = torch.ones(side, side, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
            spent = seconds_of(lambda x=x: x @ x, torch_wait(torch), 0.001 if small else 0.2)
            found[precision] = 2 * side**3 / spent
            session.row("rates", what=f"matrix product {precision}", TFLOPs=found[precision] / 1e12)
    return found


def set_precision(torch: Any, precision: str) -> None:
    """What PyTorch's products and convolutions may round to."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "fp32"


def torch_wait(torch: Any) -> Run:
    """What waits for PyTorch's work."""
    return torch.cuda.synchronize if torch.cuda.is_available() else lambda: None


# Operations


def work(op: str, case: dict[str, Any], y: np.ndarray) -> tuple[int, int]:
    """(FLOPs, bytes) of a forward: products by definition, each array moved once."""
    kept = [a for a in case.values() if isinstance(a, np.ndarray)]
    flops = 2 * case["weight"].size * (y.size // y.shape[-1]) if "weight" in case else 0
    if "num_heads" in case:
        images, tokens, channels = y.shape[0], math.prod(y.shape[1:-1]), y.shape[-1]
        flops += 4 * images * tokens**2 * channels
    return flops, sum(a.nbytes for a in kept) + y.nbytes


def replayed(be: Any, run: Run, times: int) -> Run | None:
    """What launches a graph of several runs: Python takes longer to start most kernels than they last. None where the
    run cannot be captured."""
    stream, arena = be.xp.cuda.Stream(non_blocking=True), Arena()
    with stream, be.xp.cuda.using_allocator(arena.allocate):
        run()  # the arena grows
        stream.begin_capture()
        try:
            for _ in range(times):
                run()
        except Exception:  # CuPy raises types of its own that exist only where CUDA does
            with suppress(Exception):
                stream.end_capture()
            return None
        graph = stream.end_capture()

    def launch() -> None:
        graph.launch()
        _ = arena  # whose memory it needs

    return launch


def time_operation(
    session: Session, be: Any, case: Case, size: Size, found: dict[str, float], turn: float, repeats: int
) -> None:
    """A row: a forward, and a forward and backward, with their share of what the rates allow."""
    host = case.make(Numbers(size))
    given, op = moved(host, be.asarray), OPS[case.op]
    forward = getattr(be, case.op)
    made = forward(**given)
    first = made if case.op in FLAT else made[0]
    first = first[0] if isinstance(first, tuple) else first
    flops, moving = work(case.op, host, first)
    least = moving / found["copy"]
    if flops:
        least = max(least, flops / found.get(be.precision, math.inf))
    dy = first
    runs: dict[str, Run] = {"forward": lambda: forward(**given)}
    if op.backward is not None:
        backward = getattr(be, f"{case.op}_backward")
        runs["both"] = lambda: backward(dy, forward(**given)[1])
    graphs = {name: replayed(be, run, repeats) for name, run in runs.items()}
    peers = {name: (graphs[name] or run, be.synchronize) for name, run in runs.items()}
    times = {name: spent / (repeats if graphs[name] else 1) for name, spent in alternate(peers, 3, turn).items()}
    values: dict[str, Any] = {f"{name} us": spent * 1e6 for name, spent in times.items()}
    values |= {f"{name} replayed": graph is not None for name, graph in graphs.items()}
    session.row("operations", case=case.name, precision=be.precision, **values, share=least / times["forward"])


def time_convolution(session: Session, be: Any, torch: Any, case: Case, size: Size, turn: float, repeats: int) -> None:
    """A row: ours beside cuDNN's (channels_last, benchmark mode), forward."""
    host = case.make(Numbers(size))
    given, device = moved(host, be.asarray), "cuda" if torch.cuda.is_available() else "cpu"
    kind = torch.bfloat16 if be.precision == "bf16" else torch.float32
    x = torch.from_numpy(host["x"]).to(device, kind).permute(0, 3, 1, 2)  # channels_last as it lies
    weight = torch.from_numpy(host["weight"].transpose(3, 2, 0, 1).copy()).to(device, kind)
    weight = weight.to(memory_format=torch.channels_last)
    bias = torch.from_numpy(host["bias"]).to(device, kind)
    set_precision(torch, be.precision)
    torch.backends.cudnn.benchmark = True
    theirs = lambda: torch.nn.functional.conv2d(x, weight, bias, host["stride"], 1)  # noqa: E731
    graph = replayed(be, lambda: be.conv2d(**given), repeats)
    peers: dict[str, tuple[Run, Run]] = {
        "ours": (graph or (lambda: be.conv2d(**given)), be.synchronize),
        "cudnn": (torch_replayed(torch, theirs, repeats), torch_wait(torch)),
    }
    times = alternate(peers, 3, turn)
    times["ours"] /= repeats if graph else 1
    times["cudnn"] /= repeats
    micro = {f"{name} us": spent * 1e6 for name, spent in times.items()}
    session.row("convolutions", case=case.name, precision=be.precision, **micro, ratio=times["cudnn"] / times["ours"])


def time_operations(
    session: Session,
    be: Any,
    torch: Any,
    size: Size,
    found: dict[str, float],
    turn: float,
    repeats: int,
    without: tuple[str, ...] = (),
) -> None:
    """Rows of all cases but those whose name holds one of the words in `without`."""
    for case in [case for case in CASES if not any(word in case.name for word in without)]:
        session.attempt(
            f"timing {case.name} in {be.precision}",
            lambda c=case: time_operation(session, be, c, size, found, turn, repeats),
        )
        if torch is not None and case.op == "conv2d":
            session.attempt(
                f"cuDNN's {case.name}", lambda c=case: time_convolution(session, be, torch, c, size, turn, repeats)
            )


def torch_replayed(torch: Any, run: Run, times: int) -> Run:
    """The same of PyTorch; without a GPU a loop."""
    if not torch.cuda.is_available():
        return lambda: [run() for _ in range(times)]
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            run()
    return graph.replay


# Whole networks


class Same(Batches):
    """One batch again and again."""

    def __init__(self, x0: np.ndarray) -> None:
        self.x0 = x0

    def at(self, step: int) -> tuple[np.ndarray, None]:
        """As of `Batches`."""
        return self.x0, None


def our_trainer(be: Any, workload: Workload) -> Trainer:
    """Takes training steps, from the noise to the average of weights."""
    x, _ = inputs(workload)
    training = TrainConfig(batch_size=workload.batch, lr=1e-4, warmup_steps=0, lr_decay="constant")
    return Trainer(make_model(workload, be), Diffusion(Schedule.cosine(1000)), Same(x), training)


def our_run(be: Any, workload: Workload) -> Run:
    """A training step whose loss is read, or one prediction."""
    if workload.kind == "train":
        return our_trainer(be, workload).take_step
    model = make_model(workload, be)
    x, t = inputs(workload)
    given = be.asarray(x)
    return lambda: model(given, t)


def torch_run(torch: Any, workload: Workload, precision: str, setting: str) -> Run:
    """The same by PyTorch. setting: "eager", "channels_last", or "compile", channels_last with CUDA graphs."""
    from tests.twins import networks

    device = "cuda" if torch.cuda.is_available() else "cpu"
    set_precision(torch, precision)
    layout = torch.contiguous_format if setting == "eager" else torch.channels_last
    module = networks.twin_of(make_model(workload, backends.get("numpy"))).to(device, memory_format=layout)
    forward = torch.compile(module, mode="reduce-overhead") if setting == "compile" else module
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-4, fused=device == "cuda")
    average = [p.detach().clone() for p in module.parameters()]
    x0, t = inputs(workload)
    diffusion = Diffusion(Schedule.cosine(1000))
    steps = objective.random_timesteps(diffusion.schedule.T, len(x0), 0, 0) if workload.kind == "train" else t
    noise, _ = backends.get("numpy").random_normal(x0.shape, 0, streams.TRAINING_NOISE, 0)
    x = diffusion.q_sample(x0, steps, noise) if workload.kind == "train" else x0
    given = [networks.nchw(a).contiguous(memory_format=layout).to(device) for a in (x, noise)]
    times = torch.from_numpy(np.asarray(steps)).to(device)
    cast = lambda: torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")  # noqa: E731

    def predict() -> Any:
        with cast(), torch.no_grad():
            return forward(given[0], times, None)

    def step() -> float:
        with cast():
            loss = torch.nn.functional.mse_loss(forward(given[0], times, None).float(), given[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, list(module.parameters()), 1e-3)
        return float(loss.detach())

    return predict if workload.kind == "forward" else step


def time_workload(
    session: Session, workload: Workload, precision: str, torch: Any, rounds: int, turn: float, with_compile: bool
) -> None:
    """Rows of one workload in one precision: ours with and without graphs, and PyTorch at each of its settings."""
    peers: dict[str, tuple[Run, Run]] = {}
    for name, graphs in (("cupy", True), ("cupy, no graph", False)):
        be = backends.get("cupy", precision, graphs=graphs)
        run = session.attempt(f"{name} {workload.name}", lambda be=be: warm(our_run(be, workload)))
        if run:
            peers[name] = run, be.synchronize
    if workload.kind == "train":
        trainer = our_trainer(backends.get("cupy", precision), workload)
        peers["cupy, loss read at the end"] = trainer.launch, lambda: list(trainer.read())
    settings = ("eager", "channels_last", *(("compile",) if with_compile else ())) if torch is not None else ()
    for setting in settings:
        run = session.attempt(
            f"torch {setting} {workload.name}", lambda s=setting: warm(torch_run(torch, workload, precision, s))
        )
        if run:
            peers[f"torch {setting}"] = run, torch_wait(torch)
    if torch is not None:
        set_precision(torch, precision)
    times = alternate(peers, rounds, turn)
    best = min((spent for name, spent in times.items() if name.startswith("torch")), default=None)
    for name, spent in times.items():
        session.row(
            "networks", work=workload.kind, name=workload.name, precision=precision, peer=name, ms=spent * 1e3,
            ratio=best / spent if best else None,
        )  # fmt: skip


def warm(run: Run) -> Run:
    """The run, once it has worked three times."""
    for _ in range(3):
        run()
    return run


def time_on_cpu(session: Session, workload: Workload, names: tuple[str, ...]) -> None:
    """Rows of the CPU backends, one run each after a first."""
    for name in names:
        be = backends.get(name)
        run = our_run(be, workload)
        run()
        spent = seconds_of(run, be.synchronize, 0.0)
        session.row(
            "networks", work=workload.kind, name=workload.name, precision="fp32", peer=name, ms=spent * 1e3,
            ratio=None,
        )  # fmt: skip


def crossover(session: Session, workloads: tuple[Workload, ...], turn: float) -> None:
    """From which size on the GPU is faster than the Numba backend: rows of growing work."""
    for workload in workloads:
        gpu, cpu = backends.get("cupy"), backends.get("numba")
        peers = {be.name: (our_run(be, workload), be.synchronize) for be in (gpu, cpu)}
        times = alternate(peers, 1, turn)
        session.row(
            "crossover", name=workload.name, batch=workload.batch,
            cupy_ms=times["cupy"] * 1e3, numba_ms=times["numba"] * 1e3, times=times["numba"] / times["cupy"],
        )  # fmt: skip
