"""What the CuPy backend captures and replays is what it calls, to the bit; what cannot be captured is called."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import backends
from backends import CupyBackend
from backends.cupy_kernels.runtime import arena, graphs
from backends.cupy_kernels.runtime.arena import UNIT, Arena
from benchmarks.workloads import TINY
from tests.emulation.compiler import missing
from tests.emulation.device import cupy_backend
from tests.emulation.launch import statistics
from tinyddpm import Diffusion, Schedule, UNet

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@contextmanager
def with_small_chunks() -> Iterator[CupyBackend]:
    """The backend, of which graphs have an arena in pieces of 64 KB."""
    with pytest.MonkeyPatch.context() as patch, cupy_backend(precision="fp32") as backend:
        patch.setattr(arena, "CHUNK", 1 << 16)
        yield backend


@pytest.fixture
def backend() -> Iterator[CupyBackend]:
    with with_small_chunks() as backend:
        yield backend


class Layer:
    """A function of kernels over flat parameters, which writes gradients."""

    def __init__(self, backend: CupyBackend) -> None:
        self.backend, self.calls = backend, 0
        self.params = backend.asarray(np.arange(8.0), "float32")
        self.grads = backend.xp.zeros_like(self.params)
        self.recorder: Any = backend.recorder(self.params, self.grads)

    def train(self, x: Any, shift: Any) -> Any:
        """(N, H, W, 8) and (N, 8) or None."""
        self.calls += 1
        be = self.backend
        h, kept = be.silu(x)
        if shift is not None:
            h, _ = be.add_shift(h, shift)
        _, rows = be.add_shift_backward(be.silu_backward(h, kept)[0], None)
        be.store(be.add(rows[0], self.params)[0], self.grads)
        return h

    def run(self, x: np.ndarray, shift: np.ndarray | None) -> list[np.ndarray]:
        """By the recorder: the result and the gradients."""
        self.grads[...] = np.nan
        given = (None if a is None else self.backend.asarray(a) for a in (x, shift))
        y = self.recorder.run("train", self.train, *given)
        return [y.get(), self.grads.get()]


def images(rng: np.random.Generator, n: int = 2, shifted: bool = True) -> tuple[Any, Any]:
    x, shift = rng.standard_normal((n, 4, 3, 8)), rng.standard_normal((n, 8))
    return x.astype(np.float32), shift.astype(np.float32) if shifted else None


def test_equals_the_function_to_the_bit(backend: CupyBackend) -> None:
    """Shapes, inputs and parameters change from call to call; each result stays what it was."""
    layer, plain, rng = Layer(backend), Layer(backend), np.random.default_rng(0)
    plain.recorder = backends.Recorder()
    for i in range(12):
        inputs = images(rng, 1 + i % 2, i % 3 == 0)
        params = rng.standard_normal(8).astype(np.float32)
        for each in (layer, plain):
            each.params[...] = backend.asarray(params)
        for ours, wanted in zip(layer.run(*inputs), plain.run(*inputs), strict=True):
            np.testing.assert_array_equal(ours, wanted)
            assert np.isfinite(ours).all()
    assert not layer.recorder.reasons
    assert layer.calls == 8  # of four shapes


def test_results_are_the_caller_s(backend: CupyBackend) -> None:
    layer, rng = Layer(backend), np.random.default_rng(0)
    x, shift = (backend.asarray(a) for a in images(rng))
    results = [layer.recorder.run("train", layer.train, x * i, shift) for i in range(1, 5)]
    for i, y in enumerate(results, 1):
        np.testing.assert_array_equal(y.get(), Layer(backend).train(x * i, shift).get())


def test_python_runs_twice_and_kernels_each_time(backend: CupyBackend) -> None:
    layer, inputs = Layer(backend), images(np.random.default_rng(0))
    counts = []
    for _ in range(4):
        statistics()
        layer.run(*inputs)
        counts.append(statistics()["blocks"])
    assert layer.calls == 2
    assert len(set(counts)) == 1
    assert counts[0] > 0


@pytest.mark.parametrize("own_stream", [False, True])
def test_inputs_in_host_memory_are_sent(backend: CupyBackend, own_stream: bool) -> None:
    """From pinned memory, in the order of the stream; the caller may overwrite them at once."""
    xp, rng = backend.xp, np.random.default_rng(0)
    layer, plain, seen = Layer(backend), Layer(backend), []

    def train(x: Any, shift: Any, factor: Any) -> Any:
        x, factor = backend.asarray(x), backend.asarray(factor)
        return backend.silu(layer.train(x, shift))[0] * factor

    with xp.cuda.Stream(non_blocking=True) if own_stream else nullcontext():
        for i in range(8):
            x, shift = images(rng, 2, i % 2 == 0)
            factor, given = np.array(float(i), np.float32), x.copy()
            y = layer.recorder.run("f", train, given, None if shift is None else backend.asarray(shift), factor)
            given[...] = np.nan
            seen.append((y, x, shift, factor))
        for y, x, shift, factor in seen:
            wanted = plain.train(backend.asarray(x), None if shift is None else backend.asarray(shift))
            np.testing.assert_array_equal(y.get(), (backend.silu(wanted)[0] * backend.asarray(factor)).get())
    assert layer.calls == 4
    assert not layer.recorder.reasons


def test_memory_of_temporaries_is_used_again(backend: CupyBackend) -> None:
    """Two graphs share all but inputs and results; and a graph its own, as arrays are freed."""
    xp, params = backend.xp, backend.xp.zeros(1, np.float32)
    recorder = backend.recorder(params, params)

    def chain(x: Any) -> Any:
        for _ in range(20):
            x = backend.silu(x)[0]
        return x

    for name in ("a", "b"):
        for _ in range(3):
            recorder.run(name, chain, xp.ones(1 << 12, np.float32))
    # Inputs and results of both, and three temporaries; each 16 KB
    assert len(graphs.ARENA.chunks) <= 2


def test_programs_are_told_apart_by_function_shape_and_dtype(backend: CupyBackend) -> None:
    """Also where one would take the inputs of another: they broadcast, or can be cast."""
    params = backend.xp.zeros(1, np.float32)
    recorder, rng = backend.recorder(params, params), np.random.default_rng(0)
    functions = {"silu": lambda x: backend.silu(x)[0], "twice": lambda x: backend.add(x, x)[0]}
    for shape, dtype in ((3, 4), "float32"), ((1, 4), "float32"), ((3, 4), "float64"):
        for _ in range(3):
            x = backend.asarray(rng.standard_normal(shape), dtype)
            for name, function in functions.items():
                y = recorder.run(name, function, x)
                assert y.dtype == dtype
                np.testing.assert_array_equal(y.get(), function(x).get())
    assert not recorder.reasons
    assert len(recorder.programs) == 6


def cannot(backend: CupyBackend) -> dict[str, tuple[Callable[[Any], Any], str]]:
    other = backend.asarray(np.ones(8), "float32")
    return {
        "wait for a number": (lambda x: x * float(x[0]), "a copy to the host"),
        "read from the host": (lambda x: x + backend.asarray(np.ones(8), "float32"), "a copy from the host"),
        "call a library": (lambda x: x.reshape(1, 8) @ x.reshape(8, 1), "matmul"),
        "use an array from elsewhere": (lambda x: backend.add(x, other)[0], "neither among its inputs"),
        "return an array from elsewhere": (lambda x: other, "neither among its inputs"),
    }


@pytest.mark.parametrize("what", ["wait for a number", "read from the host", "call a library",
                                  "use an array from elsewhere", "return an array from elsewhere"])  # fmt: skip
def test_what_cannot_be_captured_is_called(backend: CupyBackend, what: str) -> None:
    function, reason = cannot(backend)[what]
    params = backend.asarray(np.zeros(8), "float32")
    recorder, calls = backend.recorder(params, params), []
    for i in range(1, 5):
        x = backend.asarray(np.full(8, i), "float32")
        y = recorder.run("f", lambda x: calls.append(1) or function(x), x)
        np.testing.assert_array_equal(y.get(), function(x).get())
    assert len(calls) == 5  # one of them in the capture that failed
    assert reason in next(iter(recorder.reasons.values()))


def test_a_mistake_of_the_function_raises_as_it_is(backend: CupyBackend) -> None:
    params, fail = backend.asarray(np.zeros(8), "float32"), []
    recorder = backend.recorder(params, params)

    def function(x: Any) -> Any:
        if fail:
            raise ValueError("no")
        return backend.silu(x)[0]

    recorder.run("f", function, params)
    fail.append(1)
    with pytest.raises(ValueError, match=r"^no$"):
        recorder.run("f", function, params)
    fail.clear()
    np.testing.assert_array_equal(recorder.run("f", function, params).get(), 0)


def test_graphs_within_graphs_are_one(backend: CupyBackend) -> None:
    layer, (x, shift) = Layer(backend), images(np.random.default_rng(0))
    x, shift = backend.asarray(x), backend.asarray(shift)

    def outer(x: Any, shift: Any) -> Any:
        return backend.silu(layer.recorder.run("inner", layer.train, x, shift))[0]

    found = [layer.recorder.run("outer", outer, x, shift).get() for _ in range(4)]
    for y in found:
        np.testing.assert_array_equal(y, outer(x, shift).get())


def test_operations_that_are_replaced_later_count_from_then_on(backend: CupyBackend) -> None:
    layer, plain, inputs = Layer(backend), Layer(backend), images(np.random.default_rng(0))
    plain.recorder = backends.Recorder()

    def check() -> np.ndarray:
        """That replays give what the call gives."""
        for _ in range(3):
            result, gradients = layer.run(*inputs)
            for ours, wanted in zip((result, gradients), plain.run(*inputs), strict=True):
                np.testing.assert_array_equal(ours, wanted)
        return result

    before = check()
    replaced: Any = backend  # whose method is an attribute from here on
    replaced.silu = backends.recordable(lambda x: (backend.silu_backward(x, x)[0], x))
    assert not np.array_equal(check(), before)
    assert not layer.recorder.reasons
    replaced.silu = backends.recordable(lambda x: (x * float(x[0, 0, 0, 0]), x))
    assert not np.array_equal(check(), before)
    assert layer.recorder.reasons
    del replaced.silu
    np.testing.assert_array_equal(check(), before)
    assert not layer.recorder.reasons


def test_only_so_many_are_kept(backend: CupyBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST", 2)
    layer, rng = Layer(backend), np.random.default_rng(0)
    for n in (1, 2, 3, 1, 1, 1):
        layer.run(*images(rng, n))
    assert len(layer.recorder.programs) == 2


def test_an_arena_joins_what_is_given_back(backend: CupyBackend) -> None:
    xp, place = backend.xp, Arena()
    with xp.cuda.using_allocator(place.allocate):
        held = [xp.empty(UNIT, np.uint8) for _ in range(6)]
        assert len({a.data.ptr for a in held}) == 6
        for i in (0, 2, 1, 5, 4, 3):  # neighbours before, behind, on both sides
            held[i] = None
        xp.empty(1, np.uint8)
    (chunk,) = place.chunks
    chunk.take(1 << 30)
    assert chunk.free == [(0, chunk.size)]


def test_memory_of_what_cannot_be_captured_goes_back_but_that_of_graphs_stays(backend: CupyBackend) -> None:
    params = backend.xp.zeros(8, np.float32)
    recorder = backend.recorder(params, params)

    def good(x: Any) -> Any:
        return backend.silu(backend.silu(x)[0])[0]

    for name, function in (("good", good), ("bad", lambda x: x * float(x[0]))):
        for _ in range(3):
            recorder.run(name, function, backend.xp.ones(1 << 16, np.float32))
    assert len(graphs.ARENA.chunks) == 3  # the input of the good one, what is in between, and the result
    x = backend.xp.full(1 << 16, 2, np.float32)
    np.testing.assert_array_equal(recorder.run("good", lambda x: 1 / 0, x).get(), good(x).get())


def test_views_keep_their_place(backend: CupyBackend) -> None:
    xp, place = backend.xp, Arena()
    with xp.cuda.using_allocator(place.allocate):
        a = xp.empty(100, np.float32)
        view, at = a[3:5], a.data.ptr
        del a
        assert xp.empty(100, np.float32).data.ptr != at
        del view
        assert xp.empty(100, np.float32).data.ptr == at


CONFIG = replace(TINY, num_heads=2, groups=4, num_classes=3, dropout=0.1)


def steps_of(backend: CupyBackend, count: int) -> tuple[list[Any], Any]:
    """Losses, gradients and a prediction of some steps, and the recorder."""
    model, found = UNet(CONFIG, backend, seed=1), []
    diffusion, rng = Diffusion(Schedule.linear(100)), np.random.default_rng(0)
    model.params[...] = backend.asarray(0.1 * rng.standard_normal(model.params.shape), "float32")
    for step in range(count):
        x0 = rng.uniform(-1, 1, (2, 8, 8, 1)).astype(np.float32)
        loss = diffusion.training_step(model, x0, step=step, labels=rng.integers(0, 3, 2))
        found += [np.asarray(loss), model.grads.get(), backend.to_numpy(model(x0, rng.integers(0, 100, 2)))]
        model.params[...] = model.params - 0.01 * model.grads
    return found, model.recorder


def test_a_network_s_steps_are_the_same_to_the_bit(backend: CupyBackend) -> None:
    found, recorder = steps_of(backend, 3)
    assert not recorder.reasons
    assert all(recorder.programs.values())
    assert len(recorder.programs) == 2
    plain = CupyBackend(precision="fp32", graphs=False)
    wanted, none = steps_of(plain, 3)
    assert type(none) is backends.Recorder
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert np.isfinite(ours).all()
