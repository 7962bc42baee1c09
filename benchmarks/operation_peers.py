"""The peers of `python -m benchmarks ops`, each in a process of its own: our backends, and PyTorch by its twins.

PyTorch gets NHWC tensors, which are its channels_last memory format seen otherwise, and weights in its own order.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import backends
from backends import OPS
from benchmarks import operation_cases
from benchmarks.operation_cases import Arguments, Numbers, Size
from benchmarks.peers import OURS

# These return their results alone, the others (y, ctx)
FLAT = ("adam", "ema", "adam_ema", "global_norm", "clip_by_global_norm")


class OurCase:
    """An operation of a backend on its arguments."""

    def __init__(self, backend: str, op: str, case: Arguments) -> None:
        be = backends.get(backend)
        self.op, self.case = OPS[op], case
        self.forward_op = getattr(be, op)
        if self.op.backward:
            self.backward_op = getattr(be, f"{op}_backward")
            self.dy = cotangent(self.forward_op(**case)[0])

    def forward(self) -> list[Any]:
        """The results."""
        result = self.forward_op(**self.case)
        if self.op.name in FLAT:
            return list(result) if isinstance(result, tuple) else [result]
        return [result[0]]

    def both(self) -> list[Any]:
        """The result and the gradients."""
        y, ctx = self.forward_op(**self.case)
        return [y, *(g for g in self.backward_op(self.dy, ctx) if g is not None)]


class TorchCase:
    """PyTorch's twin of an operation. Raises LookupError for one without."""

    def __init__(self, op: str, case: Arguments) -> None:
        import torch

        twin = twin_of(op)
        if twin is None:
            raise LookupError(f"{op} has no twin: add PyTorch's form of it to TWINS in tests/twins/operations.py")

        self.torch, self.op = torch, OPS[op]
        in_place: dict[str, Callable[..., Any]] = {
            "adam": self.adam,
            "ema": self.ema,
            "adam_ema": self.adam_ema,
            "clip_by_global_norm": self.clip,
        }
        self.tensors = {name: self.tensor(name, a) if isinstance(a, np.ndarray) else a for name, a in case.items()}
        self.twin = in_place.get(op, twin)
        if self.op.backward:
            self.dy = torch.from_numpy(cotangent(self.forward()[0].numpy()))
            self.wrt = [self.tensors[name] for name in self.op.wrt if case[name] is not None]

    def tensor(self, name: str, a: np.ndarray) -> Any:
        """A weight as a view of PyTorch's (outputs, inputs, ...), so that the twin need not copy it; else as it is."""
        tensor = self.torch.from_numpy(a)
        if name != "weight":
            return tensor
        return tensor.movedim((-1, -2), (0, 1)).contiguous().movedim((0, 1), (-1, -2))

    def forward(self) -> list[Any]:
        """As `OurCase.forward`."""
        with self.torch.no_grad():
            result = self.twin(**self.tensors)
        return list(result) if isinstance(result, tuple) else [result]

    def both(self) -> list[Any]:
        """As `OurCase.both`."""
        for tensor in self.wrt:
            tensor.requires_grad_()
        y = self.twin(**self.tensors)
        gradients = self.torch.autograd.grad(y, self.wrt, self.dy)
        return [y.detach(), *gradients]

    # In place, as in training; the twins of the tests copy

    def adam(self, params: Any, grads: Any, m: Any, v: Any, step: int, lr: float, **rest: Any) -> Any:
        if not hasattr(self, "optimizer"):
            params.requires_grad_().grad = grads
            self.optimizer = self.torch.optim.Adam([params], lr=lr)
            step_before = self.torch.tensor(float(step - 1))
            self.optimizer.state[params] = {"step": step_before, "exp_avg": m, "exp_avg_sq": v}
        self.optimizer.step()
        return params.detach(), m, v

    def ema(self, average: Any, params: Any, decay: float) -> Any:
        return average.lerp_(params, 1 - decay)

    def adam_ema(self, grads: Any, average: Any, scale: float, decay: float, **rest: Any) -> Any:
        moved = self.adam(grads=grads.mul_(scale), **rest)
        return *moved, self.ema(average, moved[0], decay)

    def clip(self, grads: Any, max_norm: float) -> Any:
        parameter = self.torch.zeros_like(grads)
        parameter.grad = grads
        norm = self.torch.nn.utils.clip_grad_norm_([parameter], max_norm)
        return grads, norm


def twin_of(op: str) -> Callable[..., Any] | None:
    """PyTorch's form of an operation, where there is one."""
    from tests.twins.operations import TWINS

    registry = sys.modules.get("backends.testing.registry")
    twin = None if registry is None else registry.REGISTERED_TWINS.get(op)
    return TWINS.get(op, twin if callable(twin) else None)


def cotangent(y: Any) -> np.ndarray:
    """The same normal numbers for all peers, of y's shape."""
    return np.asarray(np.random.default_rng(1).standard_normal(np.shape(y), np.float32))


class Peer:
    """Answers the questions of `benchmarks.ops`: one case is prepared at a time."""

    def __init__(self, name: str, size: Size, threads: int, modules: Sequence[str] = ()) -> None:
        self.name, self.size, self.threads = name, size, threads
        self.cases = {case.name: case for case in operation_cases.cases_with(modules)}
        if name in OURS:
            backends.set_threads(threads)
        else:
            import torch

            torch.set_num_threads(threads)

    def prepare(self, name: str) -> None:
        """Makes the case of that name ready."""
        case = self.cases[name]
        arguments = case.make(Numbers(self.size))
        # Only once may a gradient be clipped in place; before each run it is as long again
        self.clipped = arguments["grads"] if case.op == "clip_by_global_norm" else None
        self.original = None if self.clipped is None else self.clipped.copy()
        is_ours = self.name in OURS
        self.case = OurCase(self.name, case.op, arguments) if is_ours else TorchCase(case.op, arguments)

    def renew(self) -> None:
        """What must be as at first, untimed."""
        if self.clipped is not None:
            self.clipped[...] = self.original

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """What the question asks for: "rates", "save" of a case's results, or "seconds" of runs of it."""
        if question["what"] == "rates":
            return {"gemm": gemm_rate(), "copy": copy_rate(self.threads)}
        if question["what"] == "save":
            self.prepare(question["case"])
            results = self.case.both() if self.case.op.backward else self.case.forward()
            np.savez(question["path"], *(np.asarray(a) for a in results))
            return {}
        run = self.case.both if question["both"] else self.case.forward
        if question["warm_up"]:
            self.runs(run, question["warm_up"])
        return {"seconds": self.runs(run, question["turn"])}

    def runs(self, run: Callable[[], Any], turn: float) -> list[float]:
        """Seconds of each of the runs that fill a turn, of which there is at least one."""
        seconds: list[float] = []
        end = time.perf_counter() + turn
        while not seconds or time.perf_counter() < end:
            self.renew()
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        return seconds


def gemm_rate(side: int = 2048) -> float:
    """FLOP/s of NumPy's float32 matrix product, the best of five."""
    a = np.ones((side, side), np.float32)
    return 2 * side**3 / best_of_five(lambda: a @ a)


def copy_rate(threads: int, size: int = 1 << 28) -> float:
    """Bytes read and written in a second by a copy of `size` bytes, the best of five."""
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        return 2 * size / best_of_five(lambda: list(pool.map(lambda part: np.copyto(*part), parts)))


def best_of_five(call: Callable[[], Any]) -> float:
    """Seconds of the fastest of five calls."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def serve(job: dict[str, Any]) -> None:
    """The child's loop."""
    peer = Peer(job["peer"], Size(*job["size"]), job["threads"], job.get("modules", ()))
    for line in sys.stdin:
        print(json.dumps(peer.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
