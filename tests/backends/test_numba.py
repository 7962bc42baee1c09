"""Every override of the Numba backend against the reference operation in float64, forward and backward."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import backends
from backends import OPS, thread_count
from backends.testing import CASES, SEEDS, SHAPES, Arguments, check_against, double, single
from backends.testing.comparison import GRADIENT, VALUE
from backends.testing.gradients import norm
from backends.testing.registry import OVERWRITES, outputs
from backends.testing.wide_cases import WIDE

BACKEND = backends.get("numba")
OVERRIDDEN = BACKEND.overrides()


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape)


def assert_equals_the_reference(name: str, case: Arguments, seed: int) -> None:
    """The operation and its gradients at a random cotangent."""
    check_against(name, BACKEND, case, seed=seed, overwrites=OVERWRITES.get(name, ()))


def distance(a: Any, b: Any) -> float:
    return norm(np.asarray(a, np.float64) - np.asarray(b, np.float64))


# How a convolution may run, each for the sizes at which it is fastest
WAYS = ("as is fastest", "direct", "few tiles", "many tiles")


@contextmanager
def convolutions(way: str) -> Iterator[None]:
    """One of WAYS, where there is a kernel for that, for all sizes that it can take."""
    from backends.numba_kernels import tuning
    from backends.numba_kernels.convolution import direct

    with pytest.MonkeyPatch.context() as patch:
        if way != "as is fastest":
            patch.setattr(direct, "is_cheaper", lambda *_: way == "direct")
            patch.setattr(tuning, "MOST_TILES", 10**9 if way == "few tiles" else 0)
        yield


@pytest.mark.parametrize("name", OVERRIDDEN)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_override_equals_the_reference(name: str, data: st.DataObject):
    with convolutions(data.draw(st.sampled_from(WAYS)) if "conv2d" in name else WAYS[0]):
        assert_equals_the_reference(name, data.draw(SHAPES[name]), data.draw(SEEDS))


def test_overrides_are_tried_at_sizes_with_remainders():
    lacking = [name for name in OVERRIDDEN if name not in WIDE]
    assert not lacking, f"{lacking[0]} has small cases alone: add a strategy to WIDE in backends/testing/wide_cases.py"


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


def test_a_norm_whose_squares_float32_cannot_hold():
    for size, factor in ((2, 1e20), (40_000, 1e18), (2, 1e-30)):
        x = factor * normal(np.random.default_rng(0), size)
        found = BACKEND.global_norm(x.astype(np.float32))
        np.testing.assert_allclose(float(found), np.linalg.norm(x), rtol=1e-6)


@pytest.mark.parametrize("loss", ["mse_loss", "l1_loss", "huber_loss"])
@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_what_is_not_a_number_spreads_through_losses(name: str, loss: str):
    x, be = np.linspace(-2, 2, 20, dtype=np.float32), backends.get(name)
    x[7] = np.nan
    y, ctx = getattr(be, loss)(x, np.zeros_like(x))
    assert np.isnan(y)
    (dx,) = getattr(be, f"{loss}_backward")(1.0, ctx)
    assert np.flatnonzero(np.isnan(dx)).tolist() == [7]


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
