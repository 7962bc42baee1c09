"""Every override of the Numba backend against the reference operation in float64, forward and backward."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import backends
from backends import OPS, thread_count
from tests.backends.cases import CASES, SEEDS, Arguments, directions, outputs

BACKEND = backends.get("numba")
OVERRIDDEN = BACKEND.overrides()
# A tolerance for values and one for gradients, relative by norm
VALUE, GRADIENT = 2e-5, 1e-4
# Channels: vectors of 16, panels of 32, both with remainders, and too few for either
CHANNELS = st.sampled_from([1, 2, 3, 8, 16, 20, 32, 48, 64])
SIDES = st.integers(1, 11)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape)


@st.composite
def conv2d(draw: st.DrawFn) -> Arguments:
    rng = np.random.default_rng(draw(SEEDS))
    c, k, kernel = draw(CHANNELS), draw(CHANNELS), draw(st.sampled_from([1, 3, 3, 3, 3]))
    stride = draw(st.sampled_from([1, 2]))
    return {
        # A side of one is too short for padding at its far end alone
        "x": normal(rng, draw(st.integers(1, 3)), 1 + draw(SIDES), 1 + draw(SIDES), c),
        "weight": normal(rng, kernel, kernel, c, k),
        "bias": normal(rng, k) if draw(st.booleans()) else None,
        "stride": stride,
        "padding": draw(st.sampled_from([1, (1, 1, 1, 1), (0, 1, 0, 1) if stride == 2 and kernel == 3 else 1])),
    }


@st.composite
def linear(draw: st.DrawFn) -> Arguments:
    rng = np.random.default_rng(draw(SEEDS))
    c, k = draw(CHANNELS), draw(CHANNELS)
    leading = [draw(st.integers(1, 9)) for _ in range(draw(st.integers(1, 3)))]
    bias = normal(rng, k) if draw(st.booleans()) else None
    return {"x": normal(rng, *leading, c), "weight": normal(rng, c, k), "bias": bias}


@st.composite
def group_norm(draw: st.DrawFn) -> Arguments:
    rng = np.random.default_rng(draw(SEEDS))
    groups, width = draw(st.sampled_from([1, 2, 4, 8])), draw(st.sampled_from([2, 4, 5, 8]))
    c = groups * width
    return {
        "x": normal(rng, draw(st.integers(1, 3)), draw(st.integers(2, 9)), draw(SIDES), c) + 3.0,
        "gamma": normal(rng, c),
        "beta": normal(rng, c),
        "groups": groups,
    }


@st.composite
def norm_conv2d(draw: st.DrawFn) -> Arguments:
    rng = np.random.default_rng(draw(SEEDS))
    n, h, w = draw(st.integers(1, 3)), draw(st.integers(2, 9)), draw(SIDES)
    first, joined = draw(st.sampled_from([8, 16, 32, 64])), draw(st.sampled_from([0, 8, 16, 32]))
    c, k, groups = first + joined, draw(CHANNELS), draw(st.sampled_from([1, 2, 4, 8]))
    # Two numbers alone may lie as close as they like, which their normalisation amplifies beyond what float32 can tell
    assume(c // groups * h * w >= 16)
    return {
        "x": normal(rng, n, h, w, first),
        "skip": normal(rng, n, h, w, joined) if joined else None,
        "gamma": normal(rng, c),
        "beta": normal(rng, c),
        "weight": normal(rng, 3, 3, c, k),
        "bias": normal(rng, k),
        "groups": groups,
        "shift": normal(rng, n, k) if draw(st.booleans()) else None,
        "residual": normal(rng, n, h, w, k) if draw(st.booleans()) else None,
        "mask": 2.0 * (normal(rng, n, h, w, c) > 0) if draw(st.booleans()) else None,
    }


@st.composite
def pointwise(draw: st.DrawFn) -> Arguments:
    rng = np.random.default_rng(draw(SEEDS))
    shape = draw(st.integers(1, 3)), draw(SIDES), draw(SIDES)
    c, joined, k = draw(CHANNELS), draw(st.sampled_from([0, 8, 16, 48])), draw(CHANNELS)
    return {
        "x": normal(rng, *shape, c),
        "skip": normal(rng, *shape, joined) if joined else None,
        "weight": normal(rng, c + joined, k),
        "bias": normal(rng, k),
    }


@st.composite
def even_images(draw: st.DrawFn) -> Arguments:
    rng = np.random.default_rng(draw(SEEDS))
    return {"x": normal(rng, draw(st.integers(1, 3)), 2 * draw(SIDES), 2 * draw(SIDES), draw(CHANNELS))}


@st.composite
def add_shift(draw: st.DrawFn) -> Arguments:
    rng = np.random.default_rng(draw(SEEDS))
    n, c = draw(st.integers(1, 3)), draw(CHANNELS)
    return {"x": normal(rng, n, draw(SIDES), draw(SIDES), c), "shift": normal(rng, n, c)}


@st.composite
def upsample_conv2d(draw: st.DrawFn) -> Arguments:
    rng = np.random.default_rng(draw(SEEDS))
    c, k = draw(CHANNELS), draw(CHANNELS)
    return {
        "x": normal(rng, draw(st.integers(1, 3)), draw(SIDES), draw(SIDES), c),
        "weight": normal(rng, 3, 3, c, k),
        "bias": normal(rng, k),
    }


@st.composite
def random_numbers(draw: st.DrawFn) -> Arguments:
    """Enough numbers for the kernel, beside the few that the common cases ask for."""
    case = draw(CASES["random_normal"])
    return {**case, "shape": draw(st.sampled_from([case["shape"], (4097,), (3, 50, 41), (8192,)]))}


@st.composite
def dropout(draw: st.DrawFn) -> Arguments:
    case = draw(CASES["dropout"])
    shape = draw(st.sampled_from([case["x"].shape, (4097,), (3, 50, 41)]))
    return {**case, "x": normal(np.random.default_rng(draw(SEEDS)), *shape)}


@st.composite
def dropout_mask(draw: st.DrawFn) -> Arguments:
    return {**draw(random_numbers()), "rate": draw(st.sampled_from([0.0, 0.1, 0.5, 0.9]))}


@st.composite
def attention(draw: st.DrawFn) -> Arguments:
    rng = np.random.default_rng(draw(SEEDS))
    n, heads, width = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 5, 16, 32]))
    queries, keys, c = draw(st.integers(1, 70)), draw(st.integers(1, 70)), heads * width
    return {
        "q": normal(rng, n, queries, c),
        "k": normal(rng, n, keys, c),
        "v": normal(rng, n, keys, c),
        "num_heads": heads,
    }


@st.composite
def norm_attention(draw: st.DrawFn) -> Arguments:
    rng = np.random.default_rng(draw(SEEDS))
    c, heads = draw(st.sampled_from([16, 32, 48, 64])), draw(st.sampled_from([1, 2, 4]))
    return {
        "x": normal(rng, draw(st.integers(1, 3)), draw(SIDES), draw(SIDES), c),
        "gamma": normal(rng, c),
        "beta": normal(rng, c),
        "weight": normal(rng, c, 3 * c) / c**0.5,
        "bias": normal(rng, 3 * c),
        "groups": draw(st.sampled_from([1, 2, 4, 8])),
        "num_heads": heads,
    }


# Shapes at which the kernels' blocks, edges and remainders come into play; other operations take the common cases
SHAPES = CASES | {
    "conv2d": conv2d(),
    "linear": linear(),
    "group_norm": group_norm(),
    "group_norm_silu": group_norm(),
    "norm_conv2d": norm_conv2d(),
    "pointwise": pointwise(),
    "upsample_conv2d": upsample_conv2d(),
    "upsample_nearest": even_images(),
    "average_pool": even_images(),
    "add_shift": add_shift(),
    "attention": attention(),
    "norm_attention": norm_attention(),
    "dropout": dropout(),
    "dropout_mask": dropout_mask(),
    "random_normal": random_numbers(),
    "random_uniform": random_numbers(),
}


def single(case: Arguments) -> Arguments:
    """The case in float32."""
    return {
        name: value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype == np.float64 else value
        for name, value in case.items()
    }


def double(case: Arguments) -> Arguments:
    """The case in float64, at the values that float32 holds."""
    return {
        name: value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype == np.float32 else value
        for name, value in single(case).items()
    }


@contextmanager
def results_begin_as_nan() -> Iterator[None]:
    """What a kernel leaves unwritten is NaN, not by chance the right value of a call before."""
    from backends.numba_kernels.runtime.pool import POOL

    empty = POOL.empty

    def nan(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
        array = empty(shape, dtype)
        array.fill(np.nan)
        return array

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(POOL, "empty", nan)
        yield


def distance(a: Any, b: Any) -> float:
    return float(np.linalg.norm(np.ravel(np.asarray(a, np.float64) - np.asarray(b, np.float64))))


def assert_equals_the_reference(name: str, case: Arguments, seed: int) -> None:
    """The operation and its gradients at a random cotangent."""
    op = OPS[name]
    ours, reference = single(case), double(case)
    with results_begin_as_nan():
        result = getattr(BACKEND, name)(**ours)
    expected = op.forward(np, **reference)
    for y, wanted in zip(outputs(name, result), outputs(name, expected), strict=True):
        dtype = np.asarray(wanted).dtype if "dtype" in case else np.float32
        assert (np.shape(y), np.asarray(y).dtype) == (np.shape(wanted), dtype)
        assert distance(y, wanted) <= VALUE * np.linalg.norm(np.ravel(wanted))
    if op.backward is None:
        return
    u = directions(seed).standard_normal(np.shape(expected[0])).astype(np.float32)
    with results_begin_as_nan():
        gradients = getattr(BACKEND, f"{name}_backward")(u, result[1])
    wanted = op.backward(np, u.astype(np.float64), expected[1])
    # A gradient that vanishes is rounding errors in proportion to the others
    scale = max(np.linalg.norm(np.ravel(g)) for g in wanted if g is not None)
    for argument, gradient, expected_gradient in zip(op.wrt, gradients, wanted, strict=True):
        assert (gradient is None) == (expected_gradient is None), argument
        if gradient is not None:
            assert (gradient.shape, gradient.dtype) == (expected_gradient.shape, np.float32), argument
            limit = max(np.linalg.norm(np.ravel(expected_gradient)), 0.1 * scale)
            assert distance(gradient, expected_gradient) <= GRADIENT * limit, argument


# How a convolution may run, each for the sizes at which it is fastest
WAYS = ("as is fastest", "direct", "few tiles", "many tiles")


@contextmanager
def convolutions(way: str) -> Iterator[None]:
    """One of WAYS, where there is a kernel for that, for all sizes that it can take."""
    from backends.numba_kernels.convolution import direct, few_tiles

    with pytest.MonkeyPatch.context() as patch:
        if way != "as is fastest":
            patch.setattr(direct, "is_cheaper", lambda *_: way == "direct")
            patch.setattr(few_tiles, "MOST_TILES", 10**9 if way == "few tiles" else 0)
        yield


@pytest.mark.parametrize("name", OVERRIDDEN)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_override_equals_the_reference(name: str, data: st.DataObject):
    with convolutions(data.draw(st.sampled_from(WAYS)) if "conv2d" in name else WAYS[0]):
        assert_equals_the_reference(name, data.draw(SHAPES[name]), data.draw(SEEDS))


@pytest.mark.parametrize("height", range(1, 10))
@pytest.mark.parametrize("way", WAYS[1:])
def test_convolution_with_every_part_of_a_tile_at_its_edges(way: str, height: int):
    for width in range(1, 10):
        rng = np.random.default_rng(width)
        case = {"x": normal(rng, 2, height, width, 16), "weight": normal(rng, 3, 3, 16, 48), "bias": normal(rng, 48)}
        with convolutions(way):
            assert_equals_the_reference("conv2d", {**case, "padding": 1}, seed=0)


@pytest.mark.parametrize("way", WAYS[2:])
@pytest.mark.parametrize("outputs", [32, 64, 96])
@pytest.mark.parametrize("channels", [48, 160])
@pytest.mark.parametrize("images", [1, 2, 3])
def test_convolution_in_chunks_of_channels_and_blocks_of_tiles(way: str, images: int, channels: int, outputs: int):
    """Chunks of 64 channels with remainders, blocks of 16 and 32 tiles likewise, panels shared out to threads."""
    rng = np.random.default_rng(images)
    weight = normal(rng, 3, 3, channels, outputs)
    case = {"x": normal(rng, images, 15, 17, channels), "weight": weight, "bias": normal(rng, outputs), "padding": 1}
    with convolutions(way):
        assert_equals_the_reference("conv2d", case, seed=0)


@pytest.mark.parametrize("name", ["linear", "pointwise", "conv2d", "norm_conv2d", "upsample_conv2d", "norm_attention"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_work_is_shared_out_to_any_number_of_threads(name: str, data: st.DataObject):
    """Also to more than there are tiles, panels or pixels, and than this machine has."""
    way = data.draw(st.sampled_from(WAYS)) if "conv2d" in name else WAYS[0]
    setting = thread_count.Setting(data.draw(st.sampled_from([1, 3, 4, 6, 24])), "a test")
    with convolutions(way), pytest.MonkeyPatch.context() as patch:
        patch.setattr(thread_count, "_chosen", setting)
        assert_equals_the_reference(name, data.draw(SHAPES[name]), data.draw(SEEDS))


@pytest.mark.parametrize("way", WAYS[1:])
@pytest.mark.parametrize("name", ["conv2d", "norm_conv2d", "upsample_conv2d"])
def test_weights_that_change_in_place_count_at_once(name: str, way: str):
    rng, op = np.random.default_rng(0), OPS[name]
    case = {"x": normal(rng, 2, 6, 6, 16), "weight": normal(rng, 3, 3, 16, 32), "bias": normal(rng, 32)}
    if name == "norm_conv2d":
        case |= {"skip": None, "gamma": normal(rng, 16), "beta": normal(rng, 16), "groups": 4}
    case = single({**case, "padding": 1} if name == "conv2d" else case)
    for _ in range(2):
        with convolutions(way):
            y, ctx = getattr(BACKEND, name)(**case)
        wanted, wanted_ctx = op.forward(np, **double(case))
        assert distance(y, wanted) <= VALUE * np.linalg.norm(wanted)
        dx = getattr(BACKEND, f"{name}_backward")(y, ctx)[0]
        wanted_dx = op.backward(np, y.astype(np.float64), wanted_ctx)[0]
        assert distance(dx, wanted_dx) <= GRADIENT * np.linalg.norm(wanted_dx)
        case["weight"] += normal(rng, 3, 3, 16, 32).astype(np.float32)


BIASED = {
    "linear": {"x": (3, 16), "weight": (16, 32)},
    "pointwise": {"x": (2, 3, 3, 16), "skip": None, "weight": (16, 32)},
    "conv2d": {"x": (2, 4, 4, 16), "weight": (3, 3, 16, 32)},
    "upsample_conv2d": {"x": (2, 4, 4, 16), "weight": (3, 3, 16, 32)},
    "norm_conv2d": {"x": (2, 4, 4, 16), "skip": None, "gamma": (16,), "beta": (16,), "weight": (3, 3, 16, 32)},
    "norm_attention": {"x": (2, 4, 4, 32), "gamma": (32,), "beta": (32,), "weight": (32, 96)},
}


@pytest.mark.parametrize("name", BIASED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_biases_with_gaps_and_of_other_precision(name: str, dtype: Any):
    rng = np.random.default_rng(0)
    case = {n: s if s is None else normal(rng, *s).astype(np.float32) for n, s in BIASED[name].items()}
    case |= {"groups": 4} if "gamma" in case else {"padding": 1} if name == "conv2d" else {}
    bias = normal(rng, 2 * case["weight"].shape[-1]).astype(dtype)[::2]
    y = getattr(BACKEND, name)(**case, bias=bias)[0]
    wanted = OPS[name].forward(np, **double({**case, "bias": bias}))[0]
    assert distance(y, wanted) <= VALUE * np.linalg.norm(wanted)


def test_more_channels_than_there_are_zeros_for_a_missing_bias():
    rng = np.random.default_rng(0)
    for shape in ((16, 5008), (5008, 16)):
        weight = normal(rng, *shape)
        assert_equals_the_reference("linear", {"x": normal(rng, 3, shape[0]), "weight": weight, "bias": None}, seed=0)


def test_storing_where_it_lies_already():
    a = np.arange(256, dtype=np.float32).reshape(16, 16)
    before = a.copy()
    BACKEND.store(a, a)
    np.testing.assert_array_equal(a, before)
    BACKEND.store(a.T, a)
    np.testing.assert_array_equal(a, before.T)


@pytest.mark.parametrize("name", OVERRIDDEN)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_other_precisions_run_the_reference(name: str, data: st.DataObject):
    case = data.draw(CASES[name])
    for ours, wanted in zip(
        outputs(name, getattr(BACKEND, name)(**case)), outputs(name, OPS[name].forward(np, **case)), strict=True
    ):
        np.testing.assert_array_equal(ours, wanted)


@pytest.mark.parametrize(
    "name", ["conv2d", "norm_conv2d", "pointwise", "upsample_conv2d", "attention", "norm_attention"]
)
def test_results_repeat_bit_for_bit(name: str):
    @settings(max_examples=5, deadline=None, derandomize=True, database=None)
    @given(case=SHAPES[name])
    def check(case: Arguments) -> None:
        results = []
        for _ in range(2):
            y, ctx = getattr(BACKEND, name)(**single(case))
            gradients = getattr(BACKEND, f"{name}_backward")(np.ones_like(y), ctx)
            results.append([y.copy(), *(g.copy() for g in gradients if g is not None)])
        for first, second in zip(*results, strict=True):
            np.testing.assert_array_equal(first, second)

    check()


def test_buffers_are_used_again_but_never_while_a_view_lives():
    from backends.numba_kernels.runtime.pool import Pool

    pool = Pool()
    first = pool.empty((64, 1024))
    address, view = first.ctypes.data, first[3:5].reshape(-1)[7:]
    view[:] = 1.0
    del first
    other = pool.empty((64, 1024))
    assert other.ctypes.data != address
    other[:] = 2.0
    assert np.all(view == 1.0)
    del view
    assert pool.empty((64, 1024)).ctypes.data == address
    held = pool.held
    for _ in range(10):
        pool.empty((64, 1024))
    assert pool.held == held
