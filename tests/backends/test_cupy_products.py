"""CUDA products and attention beyond what all kernels are tested for: precisions, instances, bank conflicts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pytest

from backends import OPS, CupyBackend
from backends.cupy_kernels import attention, matmul
from backends.cupy_kernels.runtime.launch import Kernel
from tests.emulation.compiler import missing
from tests.emulation.cupy.kernels import running
from tests.emulation.device import TOLERANCE, check, cupy_backend, device_with, displaced, operation
from tests.emulation.launch import statistics

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

Case = dict[str, Any]


@pytest.fixture(scope="module", params=list(TOLERANCE))
def backend(request: pytest.FixtureRequest) -> Iterator[CupyBackend]:
    with cupy_backend(precision=request.param) as backend:
        yield backend


@contextmanager
def instances_that_run() -> Iterator[dict[str, set[Any]]]:
    """Which instance of each kernel was launched, by the kernel's name."""
    seen: dict[str, set[Any]] = {}
    run = Kernel.run

    def noted(self: Kernel, *args: Any, **named: Any) -> None:
        seen.setdefault(self.name, set()).add(named.get("template", ()))
        run(self, *args, **named)

    with mock.patch.object(Kernel, "run", noted):
        yield seen


def of_precision(kernel: Kernel, backend: CupyBackend) -> set[Any]:
    return {t for t in kernel.expressions if t[0] == matmul.PRODUCTS[backend.precision]}


def linear_case(rows: int, channels: int, outputs: int) -> Case:
    rng = np.random.default_rng(0)
    shapes = {"x": (rows, channels), "weight": (channels, outputs), "bias": (outputs,)}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


# Rows, channels, outputs: one tile, remainders on every side, depths of one slice and of many, and no multiples of four
LINEAR = [(64, 64, 64), (70, 72, 104), (5, 32, 200), (300, 8, 16), (33, 17, 41), (1, 1, 1), (257, 3, 5)]


def test_every_instance_of_a_product(backend: CupyBackend) -> None:
    with instances_that_run() as seen:
        for count in (1, 132):
            for seed, sizes in enumerate(LINEAR):
                with device_with(count), running(seed=seed % 3):
                    check(backend, "linear", linear_case(*sizes))
    assert seen["multiply"] == of_precision(matmul.MULTIPLY, backend)
    assert "add_shares" in seen


def attention_case(queries: int, keys: int, heads: int, width: int) -> Case:
    rng = np.random.default_rng(0)
    shapes = {"q": queries, "k": keys, "v": keys}
    case = {name: rng.standard_normal((2, rows, heads * width)) for name, rows in shapes.items()}
    return {**case, "num_heads": heads}


# Queries, keys, heads, channels of a head: blocks of 64 and 32 with remainders, one and several slices of 64 channels
ATTENTION = [(64, 64, 2, 32), (65, 33, 1, 64), (20, 70, 1, 72), (3, 1, 1, 136), (40, 40, 3, 5)]


def test_every_instance_of_attention(backend: CupyBackend) -> None:
    with instances_that_run() as seen:
        for seed, sizes in enumerate(ATTENTION):
            with running(seed=seed % 3):
                check(backend, "attention", attention_case(*sizes))
    for kernel in (attention.FORWARD, attention.SLOPES, attention.QUERIES, attention.KEYS):
        assert seen[kernel.name] == of_precision(kernel, backend)


@pytest.mark.parametrize("backend", ["fp32"], indirect=True)
def test_instances_make_no_mistake_that_luck_hides(backend: CupyBackend) -> None:
    """Races, stray accesses, unfinished copies, in one precision: the others move the same bytes."""
    with running(checked=True, seed=0):
        for sizes in LINEAR:
            check(backend, "linear", linear_case(*sizes))
        for sizes in ATTENTION:
            check(backend, "attention", attention_case(*sizes))


@pytest.mark.parametrize("backend", ["bf16"], indirect=True)
def test_numbers_that_are_rounded_on_their_way_are_no_race(backend: CupyBackend) -> None:
    with running(checked=True, seed=0):
        check(backend, "linear", linear_case(70, 72, 104))
        check(backend, "attention", attention_case(65, 33, 1, 64))


def test_scores_that_no_exponential_holds(backend: CupyBackend) -> None:
    """Scores in the hundreds, of numbers that every precision holds: the largest is subtracted, block after block."""
    drawn = attention_case(9, 100, 1, 16)
    case = {name: np.round(4 * drawn[name]) / 4 for name in "qkv"}
    case["q"] *= 64
    wanted, exact = OPS["attention"].forward(np, **case)
    assert np.max(np.abs(exact.lse)) > 100
    y, ctx = operation(backend, "attention")[0](**{name: x.astype(np.float32) for name, x in case.items()})
    assert np.linalg.norm(ctx.lse - exact.lse) < 1e-6 * np.linalg.norm(exact.lse)
    assert np.linalg.norm(y - wanted) < TOLERANCE[backend.precision] * np.linalg.norm(wanted)


def test_scores_far_below_zero(backend: CupyBackend) -> None:
    """Keys behind the end have a score of zero, which is far above all others here: they must not have a weight."""
    drawn = attention_case(9, 33, 1, 16)
    case = {name: np.round(4 * np.abs(drawn[name])) / 4 + 1 for name in "qkv"}
    case["k"] *= -16
    _, exact = OPS["attention"].forward(np, **case)
    assert np.max(exact.lse) < -100
    check(backend, "attention", {**case, "num_heads": 1})


def test_norm_attention_in_every_precision(backend: CupyBackend) -> None:
    rng = np.random.default_rng(0)
    shapes = {"x": (2, 5, 7, 32), "gamma": (32,), "beta": (32,), "weight": (32, 96), "bias": (96,)}
    case: Case = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    case["weight"] *= 0.5 / 32**0.5
    check(backend, "norm_attention", {**case, "groups": 4, "num_heads": 2})


def test_no_two_lanes_meet_in_a_bank(backend: CupyBackend) -> None:
    statistics()
    check(backend, "linear", linear_case(64, 64, 64))
    check(backend, "attention", attention_case(64, 64, 1, 64))
    counts = statistics()
    assert counts["ldmatrix"] > 0
    assert counts["ldmatrix_bank_conflicts"] == 0


def test_either_backward_takes_the_ctx_of_either(backend: CupyBackend) -> None:
    case = {k: np.float32(v) if k != "num_heads" else v for k, v in attention_case(20, 30, 2, 16).items()}
    forward, backward = operation(backend, "attention")
    y, ctx = forward(**case)
    y_reference, ctx_reference = OPS["attention"].forward(np, **case)
    reference = OPS["attention"].backward
    assert reference is not None
    assert backward is not None
    for a, b in zip(backward(y, ctx_reference), reference(np, y_reference, ctx), strict=True):
        assert np.linalg.norm(a - b) < 2 * TOLERANCE[backend.precision] * np.linalg.norm(b)


def test_a_graph_replays_attention_on_new_inputs(backend: CupyBackend) -> None:
    """Forward and backward of everything here, captured with memory from an arena, as a training step is."""
    cp, rng = backend.xp, np.random.default_rng(0)
    shapes = {"x": (2, 4, 5, 16), "gamma": (16,), "beta": (16,), "weight": (16, 48), "bias": (48,), "dy": (2, 20, 16)}
    arrays = {name: backend.asarray(rng.standard_normal(shape), "float32") for name, shape in shapes.items()}
    stream, arena, used = cp.cuda.Stream(non_blocking=True), cp.empty(1 << 20, np.uint8), 0

    def place(size: int) -> Any:
        nonlocal used
        pointer, used = arena.data + used, used + -(-size // 512) * 512
        return pointer

    def step() -> tuple[Any, ...]:
        y, ctx = backend.norm_attention(*list(arrays.values())[:5], groups=4, num_heads=2)
        return y, *backend.norm_attention_backward(arrays["dy"], ctx)

    step()  # compiles
    with stream, cp.cuda.using_allocator(place):
        stream.begin_capture()
        captured = step()
        graph = stream.end_capture()
    arrays["x"][...] = backend.asarray(rng.standard_normal(shapes["x"]), "float32")
    cp.cuda.Device().synchronize()
    graph.launch(stream)
    stream.synchronize()
    for replayed, eager in zip(captured, step(), strict=True):
        np.testing.assert_array_equal(replayed.get(), eager.get())


IN_TURN = {
    "linear": (linear_case(8, 16, 12), ("x", "weight", "bias", "dy")),
    "attention": (attention_case(9, 12, 2, 16), ("q", "k", "v", "dy")),
}


@pytest.mark.parametrize("backend", ["fp32"], indirect=True)
@pytest.mark.parametrize(("name", "which"), [(name, which) for name, (_, every) in IN_TURN.items() for which in every])
def test_each_array_in_turn_may_begin_anywhere(backend: CupyBackend, name: str, which: str) -> None:
    case = IN_TURN[name][0]
    result = OPS[name].forward(np, **case)[0]

    def upload(x: Any) -> Any:
        found = [key for key, value in case.items() if np.array_equal(x, np.float32(value))]
        is_dy = not found and np.shape(x) == result.shape
        return displaced(backend, x, int(which in found or (which == "dy" and is_dy)))

    with running(checked=True, seed=0):
        check(backend, name, case, upload)


@pytest.mark.parametrize("backend", ["fp32"], indirect=True)
def test_arrays_may_begin_anywhere(backend: CupyBackend) -> None:
    """Parameters are views of one flat array: copies of 16 bytes are for those that begin at a multiple of 16."""
    rng = np.random.default_rng(0)

    def view(*shape: int) -> Any:
        flat = backend.asarray(rng.standard_normal(int(np.prod(shape)) + 1), "float32")
        return flat[1:].reshape(shape)

    q, k, v = (view(1, 20, 16) for _ in range(3))
    cases = {"linear": (q[0], view(16, 32), view(32)), "attention": (q, k, v), "group_norm": (q, view(16), view(16), 4)}
    with running(checked=True, seed=0):
        for name, args in cases.items():
            y, ctx = getattr(backend, name)(*args)
            wanted, exact = OPS[name].forward(np, *(np.float64(a.get()) if hasattr(a, "get") else a for a in args))
            np.testing.assert_allclose(y.get(), wanted, rtol=1e-4, atol=1e-5)
            backward = OPS[name].backward
            assert backward is not None
            dy = view(*y.shape)
            found = getattr(backend, f"{name}_backward")(dy, ctx)
            for ours, right in zip(found, backward(np, np.float64(dy.get()), exact), strict=True):
                np.testing.assert_allclose(ours.get(), right, rtol=1e-4, atol=1e-5)
