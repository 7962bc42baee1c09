"""Every override of the NumPy backend against the reference operation, cut into blocks and shared out to threads."""

import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import backends
from backends import OPS, NumpyBackend
from backends.numpy_kernels import workers
from backends.numpy_kernels.workers import WORKERS, Workers
from backends.testing import CASES, SEEDS, SHAPES, Arguments, check_against, directions, single
from backends.testing.registry import OVERWRITES


class InDouble(NumpyBackend):
    """The overrides in float64, where a wrong formula cannot pass for rounding errors."""

    dtype: ClassVar[Any] = np.float64


BACKEND = backends.get("numpy")
OVERRIDDEN = BACKEND.overrides()
DIFFERENTIABLE = [name for name in OVERRIDDEN if OPS[name].backward]
# For each precision a tolerance for values and gradients, relative by norm
PRECISIONS = {"float32": (BACKEND, 2e-5), "float64": (InDouble(), 1e-10)}


@contextmanager
def cut(block_bytes: int, threads: int) -> Iterator[None]:
    """Blocks of that size, however small, in that many threads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "BLOCK_BYTES", block_bytes)
        patch.setattr(workers, "SMALL_BYTES", 0)
        patch.setattr(Workers, "count", lambda self: threads)
        yield


CUTS = st.tuples(st.sampled_from([1 << 6, 1 << 10, 1 << 14, 1 << 22]), st.sampled_from([1, 2, 3]))


def shapes(name: str, precision: str = "float64") -> st.SearchStrategy[Arguments]:
    """Wide ones; in float64 small ones as well, with every kernel, stride and padding, and norms of two numbers."""
    return SHAPES[name] if precision == "float32" else SHAPES[name] | CASES[name]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", OVERRIDDEN)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_override_equals_the_reference(name: str, precision: str, data: st.DataObject):
    op, case, (be, tolerance) = OPS[name], data.draw(shapes(name, precision)), PRECISIONS[precision]
    # Strides may be of any kind
    order = data.draw(st.sampled_from("CF"))
    case = {k: v.copy(order) if isinstance(v, np.ndarray) else v for k, v in single(case).items()}
    forward, backward = getattr(be, name), getattr(be, f"{name}_backward") if op.backward else None

    def in_order(dy: np.ndarray, ctx: Any) -> Any:
        assert backward is not None
        return backward(np.asarray(dy, order=order), ctx)

    with cut(*data.draw(CUTS)):
        check_against(
            name,
            (forward, in_order) if backward else forward,
            case,
            seed=data.draw(SEEDS),
            precision=precision,
            value=tolerance,
            gradient=5 * tolerance,
            overwrites=OVERWRITES.get(name, ()),
        )


@settings(max_examples=30, deadline=None)
@given(case=shapes("norm_conv2d"), cuts=CUTS, seed=SEEDS)
def test_gradients_from_elsewhere_are_added(case: Arguments, cuts: tuple[int, int], seed: int):
    normal = directions(seed).standard_normal
    with cut(*cuts):
        y, ctx = InDouble().norm_conv2d(**case)
        u, more = normal(y.shape), normal(case["x"].shape)
        plain = InDouble().norm_conv2d_backward(u, ctx)
        added = InDouble().norm_conv2d_backward(u, ctx, dx=more)
    np.testing.assert_allclose(added[0], plain[0] + more, rtol=1e-12, atol=1e-12)


def test_numbers_far_from_zero_are_normalised():
    """A variance by E[x^2] - E[x]^2 would be nothing but rounding errors."""
    rng = np.random.default_rng(0)
    x, gamma, beta = (1000 + rng.standard_normal((2, 8, 8, 8))).astype(np.float32), np.ones(8), np.zeros(8)
    found, _ = BACKEND.group_norm(x, gamma.astype(np.float32), beta.astype(np.float32), 2)
    wanted, _ = OPS["group_norm"].forward(np, x.astype(np.float64), gamma, beta, 2)
    assert np.linalg.norm(found - wanted) <= 1e-3 * np.linalg.norm(wanted)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_other_precisions_run_the_reference(name: str, data: st.DataObject):
    op, case = OPS[name], data.draw(CASES[name])
    for dtype in (np.float64, np.complex128):
        arguments = {**case, op.wrt[0]: case[op.wrt[0]].astype(dtype)}
        y, ctx = getattr(BACKEND, name)(**arguments)
        wanted, _ = op.forward(np, **arguments)
        np.testing.assert_array_equal(y, wanted)
    u = directions(data.draw(SEEDS)).standard_normal(np.shape(wanted))
    _, ctx = getattr(BACKEND, name)(**case)
    for ours, wanted in zip(
        getattr(BACKEND, f"{name}_backward")(u, ctx),
        op.backward(np, u, op.forward(np, **case)[1]),  # type: ignore[misc]
        strict=True,
    ):
        np.testing.assert_array_equal(ours, wanted)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_results_repeat_and_share_no_memory_with_later_ones(name: str, data: st.DataObject):
    case, other = single(data.draw(SHAPES[name])), single(data.draw(SHAPES[name]))
    with cut(*data.draw(CUTS)):
        first, ctx = getattr(BACKEND, name)(**case)
        kept = first.copy()
        y, other_ctx = getattr(BACKEND, name)(**other)
        getattr(BACKEND, f"{name}_backward")(np.ones_like(y), other_ctx)
        np.testing.assert_array_equal(first, kept)
        gradients = getattr(BACKEND, f"{name}_backward")(np.ones_like(first), ctx)
        again, ctx = getattr(BACKEND, name)(**case)
        np.testing.assert_array_equal(again, kept)
        for one, two in zip(gradients, getattr(BACKEND, f"{name}_backward")(np.ones_like(again), ctx), strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", ["conv2d", "norm_conv2d"])
def test_a_large_image_is_cut_by_rows(name: str):
    rng = np.random.default_rng(0)
    x, weight, bias = rng.standard_normal((2, 40, 9, 8)), rng.standard_normal((3, 3, 8, 4)), rng.standard_normal(4)
    case: Arguments = {"x": x, "weight": weight, "bias": bias}
    case |= {"padding": 1} if name == "conv2d" else {"skip": None, "gamma": bias[[0] * 8], "beta": bias[[1] * 8]}
    case |= {} if name == "conv2d" else {"groups": 2}
    expected, reference_ctx = OPS[name].forward(np, **case)
    with cut(10_000, 2):
        y, ctx = getattr(InDouble(), name)(**case)
        gradients = getattr(InDouble(), f"{name}_backward")(expected, ctx)
    np.testing.assert_allclose(y, expected, rtol=1e-11, atol=1e-11)
    wanted = OPS[name].backward(np, expected, reference_ctx)  # type: ignore[misc]
    for ours, theirs in zip(gradients, wanted, strict=True):
        if theirs is not None:
            np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-9)


# Threads


@pytest.fixture
def two_threads() -> Iterator[None]:
    with cut(1 << 10, 2):
        yield


def square(x: int) -> int:
    return x * x


def test_blocks_cover_everything_once_and_are_as_many_for_each_thread():
    for threads in (1, 2, 3):
        with cut(1000, threads):
            for count, size in ((1, 10), (1, 10**6), (7, 10**4), (64, 10**5), (5, 10**6)):
                blocks = WORKERS.blocks(count, size)
                assert [i for block in blocks for i in range(count)[block]] == list(range(count))
                assert len(blocks) == count or -(-size // len(blocks)) <= 1000
    with cut(1000, 2):
        assert len(WORKERS.blocks(64, 64 * 100)) % 2 == 0


@pytest.mark.usefixtures("two_threads")
def test_results_come_in_the_order_of_the_jobs():
    assert WORKERS.run(square, list(range(100))) == [i * i for i in range(100)]


@pytest.mark.usefixtures("two_threads")
def test_blas_has_one_thread_within_and_what_it_had_afterwards():
    libraries = WORKERS.blas.lib_controllers
    before = [library.num_threads for library in libraries]

    def seen(job: int) -> list[int]:
        if job == 3:
            raise ZeroDivisionError
        return [library.num_threads for library in libraries]

    assert WORKERS.run(seen, [0, 1, 2]) == [[1] * len(libraries)] * 3
    with pytest.raises(ZeroDivisionError):
        WORKERS.run(seen, [2, 3])
    assert [library.num_threads for library in libraries] == before


@pytest.mark.usefixtures("two_threads")
def test_threads_heed_the_callers_errstate():
    def overflow(job: int) -> Any:
        return np.float32([3e38]) * np.float32(10)

    with np.errstate(over="ignore"):
        assert np.all(np.isinf(WORKERS.run(overflow, [0, 1, 2])))
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        WORKERS.run(overflow, [0, 1, 2])


def convolved(x: np.ndarray) -> np.ndarray:
    y, ctx = BACKEND.conv2d(x, np.ones((3, 3, x.shape[3], 16), np.float32), None, 1, 1)
    return BACKEND.conv2d_backward(y, ctx)[0]


@pytest.mark.usefixtures("two_threads")
def test_several_threads_of_the_user_take_turns():
    xs = [np.random.default_rng(i).standard_normal((4, 8, 8, 16)).astype(np.float32) for i in range(8)]
    expected, found = [convolved(x) for x in xs], dict[int, np.ndarray]()
    users = [threading.Thread(target=lambda i=i: found.update({i: convolved(xs[i])})) for i in range(8)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    for i in range(8):
        np.testing.assert_array_equal(found[i], expected[i])


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.usefixtures("two_threads")
def test_a_forked_process_has_threads_of_its_own():
    x = np.ones((4, 8, 8, 16), np.float32)
    convolved(x)
    process = multiprocessing.get_context("fork").Process(target=convolved, args=(x,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
