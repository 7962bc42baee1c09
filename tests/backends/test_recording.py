"""A recorded function gives what the function gives, whatever it is called with."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

import backends
from backends import NumbaBackend, thread_count
from backends.numba_kernels.runtime.addresses import ACTIVE
from backends.numba_kernels.runtime.pool import POOL
from backends.numba_kernels.runtime.recording import ARENA, MOST, Recorder

BACKEND = backends.get("numba")
C = 16


class Layer:
    """A small network of kernels over flat parameters: normalisation, convolution, its gradients."""

    def __init__(self, seed: int = 0) -> None:
        self.params = np.random.default_rng(seed).standard_normal(9 * C * C + 3 * C).astype(np.float32)
        self.grads = np.zeros_like(self.params)
        self.recorder = BACKEND.recorder(self.params, self.grads)
        self.calls = 0
        self.seen: list[float] = []

    def views(self, flat: np.ndarray) -> list[np.ndarray]:
        cut = 9 * C * C
        return [flat[:cut].reshape(3, 3, C, C), *flat[cut:].reshape(3, C)]

    def predict(self, x: np.ndarray, shift: np.ndarray | None) -> np.ndarray:
        self.calls += 1
        weight, bias, gamma, beta = self.views(self.params)
        return BACKEND.norm_conv2d(x, None, gamma, beta, weight, bias, 4, shift=shift)[0]

    def train(self, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        self.calls += 1
        weight, bias, gamma, beta = self.views(self.params)
        _, ctx = BACKEND.norm_conv2d(x, None, gamma, beta, weight, bias, 4)
        dx, _, dgamma, dbeta, dweight, dbias, *_ = BACKEND.norm_conv2d_backward(dy, ctx)
        for gradient, place in zip((dweight, dbias, dgamma, dbeta), self.views(self.grads), strict=True):
            BACKEND.store(gradient, place)
        return dx


def images(rng: np.random.Generator, n: int = 2, side: int = 8) -> np.ndarray:
    return rng.standard_normal((n, side, side, C)).astype(np.float32)


def as_called(function: Callable[..., Any], *inputs: Any) -> Any:
    """The function's own result, from copies of the inputs."""
    return function(*(None if a is None else a.copy() for a in inputs)).copy()


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_equals_the_function_to_the_bit(data: st.DataObject) -> None:
    """Shapes, inputs and parameters change from call to call; each result stays what it was."""
    layer, rng, kept = Layer(), np.random.default_rng(data.draw(st.integers(0, 99))), []
    for _ in range(data.draw(st.integers(2, 8))):
        n, side, shifted = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([4, 7, 8])), data.draw(st.booleans())
        inputs = images(rng, n, side), rng.standard_normal((n, C)).astype(np.float32) if shifted else None
        if data.draw(st.booleans()):
            layer.params[...] = rng.standard_normal(layer.params.shape)
        result = layer.recorder.run("predict", layer.predict, *inputs)
        kept.append((result, as_called(layer.predict, *inputs)))
    for result, wanted in kept:
        np.testing.assert_array_equal(result, wanted)


def test_gradients_too() -> None:
    layer, rng = Layer(), np.random.default_rng(0)
    for _ in range(3):
        inputs = images(rng), images(rng)
        layer.grads[...] = np.nan
        dx, grads = layer.recorder.run("train", layer.train, *inputs), layer.grads.copy()
        layer.grads[...] = np.nan
        np.testing.assert_array_equal(dx, as_called(layer.train, *inputs))
        np.testing.assert_array_equal(grads, layer.grads)
        assert np.isfinite(grads).all()


def test_python_runs_the_first_time_only() -> None:
    layer, rng = Layer(), np.random.default_rng(0)
    for _ in range(3):
        layer.recorder.run("predict", layer.predict, images(rng), None)
    assert layer.calls == 1
    layer.recorder.run("predict", layer.predict, images(rng, 3), None)
    layer.recorder.run("another", layer.predict, images(rng), None)
    assert layer.calls == 3


def test_functions_are_told_apart_by_name() -> None:
    layer, (x, dy) = Layer(), (images(np.random.default_rng(seed)) for seed in range(2))
    for _ in range(2):
        for name, function in {"predict": lambda x, dy: layer.predict(x, None), "train": layer.train}.items():
            np.testing.assert_array_equal(layer.recorder.run(name, function, x, dy), as_called(function, x, dy))


def test_numbers_of_threads_are_told_apart() -> None:
    """Sums over pixels are cut by the number of threads, which their rounding shows."""
    layer, rng = Layer(), np.random.default_rng(0)
    inputs = images(rng, 4, 32), images(rng, 4, 32)
    found = []
    for count in (2, 1, 2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(thread_count, "_chosen", thread_count.Setting(count, "a test"))
            layer.recorder.run("train", layer.train, *inputs)
            found.append(layer.grads.copy())
            as_called(layer.train, *inputs)
            np.testing.assert_array_equal(found[-1], layer.grads)
    assert not np.array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_dtypes_of_inputs_are_told_apart() -> None:
    layer = Layer()
    for t in (np.array([1, 500]), np.array([1.5, 500.25]), np.array([1, 500])):
        found = layer.recorder.run("time", lambda t: BACKEND.sinusoidal_embedding(t, 16)[0], t)
        np.testing.assert_array_equal(found, BACKEND.sinusoidal_embedding(t, 16)[0])


def test_recordings_do_not_disturb_each_other() -> None:
    """They share the memory between their inputs and outputs."""
    layers, rng = [Layer(seed) for seed in range(3)], np.random.default_rng(0)
    for side in (4, 8, 4, 8):
        inputs = [images(rng, 2, side) for _ in layers]
        results = [a.recorder.run("predict", a.predict, x, None) for a, x in zip(layers, inputs, strict=True)]
        for layer, x, result in zip(layers, inputs, results, strict=True):
            np.testing.assert_array_equal(result, as_called(layer.predict, x, None))


def numpy_result(layer: Layer, x: np.ndarray) -> np.ndarray:
    """A kernel is given what NumPy made."""
    return BACKEND.silu(layer.predict(x, None) * 2)[0]


def numpy_at_the_end(layer: Layer, x: np.ndarray) -> np.ndarray:
    return layer.predict(x, None) + 1


def noise(layer: Layer, x: np.ndarray) -> np.ndarray:
    """Other numbers each time, of a generator that kernels run."""
    drawn, _ = BACKEND.random_normal(x.shape, 0, 0, layer.calls)
    return layer.predict(BACKEND.add(x, drawn)[0], None)


def reference_operation(layer: Layer, x: np.ndarray) -> np.ndarray:
    """One that no kernel takes, here for its channels."""
    y, _ = BACKEND.linear(layer.predict(x, None), np.ones((C, 5), np.float32), None)
    return BACKEND.silu(y)[0]


def dropped(layer: Layer, x: np.ndarray) -> np.ndarray:
    weight, bias, gamma, beta = layer.views(layer.params)
    mask, _ = BACKEND.dropout_mask(x.shape, 0.5, 0, 0, layer.calls)
    layer.calls += 1
    return BACKEND.norm_conv2d(x, None, gamma, beta, weight, bias, 4, mask=mask)[0]


def foreign_parameters(layer: Layer, x: np.ndarray) -> np.ndarray:
    return Layer(1).predict(layer.predict(x, None), None)


def stored_by_numpy(layer: Layer, x: np.ndarray) -> np.ndarray:
    """Beside the result, which is a kernel's."""
    BACKEND.store(x[0, 0].astype(np.float64), layer.grads[: x[0, 0].size].reshape(x[0, 0].shape))
    layer.params[...] = layer.grads
    return layer.predict(x, None)


def in_place(layer: Layer, x: np.ndarray) -> np.ndarray:
    """NumPy changes what a kernel has made."""
    y = layer.predict(x, None)
    y *= 2
    return y


def filled(layer: Layer, x: np.ndarray) -> np.ndarray:
    y = layer.predict(x, None)
    y[:, 0] = x[:, 0]
    y.fill(float(layer.calls))
    return y


def through_a_plain_array(layer: Layer, x: np.ndarray) -> np.ndarray:
    y = layer.predict(x, None)
    np.asarray(y)[0] += 1
    return y


@njit
def halve(y):
    y[:] /= 2


def in_place_by_numba(layer: Layer, x: np.ndarray) -> np.ndarray:
    y = layer.predict(x, None)
    halve(y.reshape(-1))
    return y


def gradient_by_numpy(layer: Layer, x: np.ndarray) -> np.ndarray:
    """A kernel's result goes into the gradients past the kernels."""
    y = layer.predict(x, None)
    layer.grads[:C] = y.sum(axis=(0, 1, 2))
    return y


def looked_at(layer: Layer, x: np.ndarray) -> np.ndarray:
    """What the numbers are decides."""
    y = layer.predict(x, None)
    return y if x[0, 0, 0, 0] > 0 else BACKEND.silu(y)[0]


def noted(layer: Layer, x: np.ndarray) -> np.ndarray:
    y = layer.predict(x, None)
    layer.seen.append(float(y.max()))
    return y


TOUCHED = in_place, filled, through_a_plain_array, in_place_by_numba, gradient_by_numpy, looked_at, noted
ELSEWHERE = stored_by_numpy, numpy_result, numpy_at_the_end, noise, reference_operation, dropped, foreign_parameters


@pytest.mark.parametrize("function", TOUCHED + ELSEWHERE, ids=lambda f: f.__name__)
def test_what_is_not_all_kernels_is_called(function: Callable[..., Any]) -> None:
    """Nothing that Python or NumPy do is lost: not to a kernel's result, to the gradients, or elsewhere."""
    layer, other, rng = Layer(), Layer(), np.random.default_rng(0)
    for _ in range(3):
        x = images(rng)
        result = layer.recorder.run("it", lambda x: function(layer, x), x)
        other.calls = layer.calls - 1
        np.testing.assert_array_equal(result, function(other, x))
        np.testing.assert_array_equal(layer.grads, other.grads)
    assert layer.seen == other.seen
    assert ACTIVE.recording is None


def network(be: backends.Backend) -> Layer:
    """A layer that runs its operations there."""
    layer = Layer()
    layer.recorder = be.recorder(layer.params, layer.grads)
    return layer


def twice(layer: Layer, be: backends.Backend, x: np.ndarray) -> np.ndarray:
    layer.calls += 1
    return be.add(be.silu(x)[0], x)[0]


class InPlace(NumbaBackend):
    def silu(self, x: Any) -> Any:
        y, ctx = super().silu(x)
        y *= 2.0
        return y, ctx


class OfKernels(NumbaBackend):
    factor = 1.0

    def silu(self, x: Any) -> Any:
        y, ctx = super().silu(x)
        return self.kernels.times(y, self.factor), ctx


class Unused(NumbaBackend):
    """What it replaces is not run."""

    def average_pool(self, x: Any) -> Any:
        return super().average_pool(x)


class Marked(OfKernels):
    silu = backends.recordable(lambda self, x: OfKernels.silu.__wrapped__(self, x))


# calls: in three runs; where there is no recording, the one that is tried counts as well
@pytest.mark.parametrize(("kind", "calls"), [(InPlace, 4), (OfKernels, 4), (Marked, 1), (Unused, 1), (NumbaBackend, 1)])
def test_replaced_operations_are_called_unless_they_are_marked(kind: type[NumbaBackend], calls: int) -> None:
    be = kind()
    layer, rng = network(be), np.random.default_rng(0)
    for factor in (1.0, 3.0, 5.0):
        if kind is OfKernels:
            kind.factor = factor
        x = images(rng)
        np.testing.assert_array_equal(layer.recorder.run("it", lambda x: twice(layer, be, x), x), twice(layer, be, x))
    assert layer.calls == 3 + calls  # three are the comparison's


def doubled(x: Any) -> Any:
    return 2 * x, x


def test_operations_that_are_replaced_later_count_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    be = NumbaBackend()
    layer, x = network(be), images(np.random.default_rng(0))

    def check() -> np.ndarray:
        """That a second and a third run give what the call gives."""
        for _ in range(2):
            result = layer.recorder.run("it", lambda x: twice(layer, be, x), x)
            np.testing.assert_array_equal(result, twice(layer, be, x))
        return result

    before = check()
    be.silu = doubled
    assert not np.array_equal(check(), before)
    del be.silu
    np.testing.assert_array_equal(check(), before)
    with monkeypatch.context() as patch:
        patch.setattr(NumbaBackend, "silu", lambda self, x: doubled(x))
        assert not np.array_equal(check(), before)
    np.testing.assert_array_equal(check(), before)
    calls = layer.calls
    layer.recorder.run("it", lambda x: twice(layer, be, x), x)
    assert layer.calls == calls


def test_an_error_passes_and_leaves_nothing_behind() -> None:
    layer, x = Layer(), images(np.random.default_rng(0))

    def fails(x: np.ndarray) -> np.ndarray:
        layer.predict(x, None)
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            layer.recorder.run("it", fails, x)
        assert (ACTIVE.recording, POOL.override.pool) == (None, None)
    wanted = as_called(layer.predict, x, None)
    np.testing.assert_array_equal(layer.recorder.run("it", layer.predict, x, None), wanted)


def test_one_within_another_is_part_of_it() -> None:
    layer, rng = Layer(), np.random.default_rng(0)

    def twice(x: np.ndarray) -> np.ndarray:
        return layer.recorder.run("predict", layer.predict, layer.recorder.run("predict", layer.predict, x, None), None)

    for _ in range(2):
        x = images(rng)
        wanted = as_called(layer.predict, as_called(layer.predict, x, None), None)
        np.testing.assert_array_equal(layer.recorder.run("twice", twice, x), wanted)
    assert [key[0] for key in layer.recorder.programs] == ["twice"]


def test_only_so_many_are_kept_and_the_latest() -> None:
    layer, rng = Layer(), np.random.default_rng(0)
    for n in range(MOST + 3):
        layer.recorder.run(n, layer.predict, images(rng), None)
        layer.recorder.run(0, layer.predict, images(rng), None)
    assert {key[0] for key in layer.recorder.programs} == {0, *range(4, MOST + 3)}
    assert layer.calls == MOST + 3


def test_what_cannot_be_recorded_is_not_tried_again() -> None:
    layer, rng = Layer(), np.random.default_rng(0)
    for turn in range(2):
        for n in range(MOST + 3):
            layer.recorder.run(n, lambda x: numpy_at_the_end(layer, x), images(rng))
        assert layer.calls == (2 + turn) * (MOST + 3)
    assert not layer.recorder.programs


def test_labels_are_checked_at_every_run() -> None:
    layer, table = Layer(), np.ones((4, C), np.float32)
    layer.params[: table.size] = table.reshape(-1)
    table = layer.params[: table.size].reshape(table.shape)
    for indices, good in (([0, 3], [True, True]), ([1, 4], [True, False]), ([-1, 2], [False, True])):
        y = layer.recorder.run("take", lambda i: BACKEND.embedding(table, i)[0], np.array(indices))
        np.testing.assert_array_equal(np.isfinite(y).all(axis=1), good)


def test_memory_outlives_a_clearing_of_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here of several chunks, of which some hold neither input nor output."""
    monkeypatch.setattr(ARENA, "chunks", [])
    monkeypatch.setattr("backends.numba_kernels.runtime.pool.CHUNK", 1)
    layer, x = Layer(), images(np.random.default_rng(0), 8)
    layer.recorder.run("predict", layer.predict, x, None)
    (program,) = layer.recorder.programs.values()
    used = {int(word) for _, _, plan in program.calls for word in plan if ARENA.holds(int(word))}
    chunks = len(ARENA.chunks)
    ARENA.clear()
    assert len(ARENA.chunks) < chunks
    places = [(chunk.memory.ctypes.data, chunk.memory.size) for chunk in program.chunks]
    assert all(any(0 <= word - start < size for start, size in places) for word in used)
    np.testing.assert_array_equal(layer.recorder.run("predict", layer.predict, x, None), layer.predict(x, None))


def test_memory_is_given_back() -> None:
    ARENA.take_back()
    used, layer = ARENA.used, Layer()
    x = images(np.random.default_rng(0), 8)
    layer.recorder.run("predict", layer.predict, x, None)
    ARENA.take_back()
    # The input and the output: what is between serves all recordings
    assert ARENA.used - used == 2 * x.nbytes
    del layer
    ARENA.take_back()
    assert ARENA.used == used


def test_from_several_python_threads() -> None:
    layer, found = Layer(), {}

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        found[seed] = []
        for _ in range(20):
            x = images(rng, 1 + seed % 2)
            found[seed].append((x, layer.recorder.run("predict", layer.predict, x, None)))

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for pairs in found.values():
        assert len(pairs) == 20
        for x, result in pairs:
            np.testing.assert_array_equal(result, as_called(layer.predict, x, None))


def test_the_plain_recorder_calls() -> None:
    layer, rng = Layer(), np.random.default_rng(0)
    plain = backends.get("numpy").recorder(layer.params, layer.grads)
    assert not isinstance(plain, Recorder)
    for _ in range(2):
        x = images(rng)
        np.testing.assert_array_equal(plain.run("predict", layer.predict, x, None), layer.predict(x, None))
    assert layer.calls == 4
