"""The CUDA convolutions beyond what all kernels are tested for: every tile, every precision, geometry by itself."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import OPS, CupyBackend
from backends.cupy_kernels import geometry, tuning
from backends.cupy_kernels.convolution import CONVOLVE, GRADIENT, LARGEST_KERNEL, PRODUCTS
from backends.cupy_kernels.geometry import Geometry
from backends.testing import SHAPES, double, single
from tests.emulation.compiler import missing
from tests.emulation.cupy.kernels import running
from tests.emulation.device import TOLERANCE, check, cupy_backend, device_with, displaced
from tests.emulation.launch import statistics

emulated = pytest.mark.skipif(missing() is not None, reason=str(missing()))

Case = dict[str, Any]


@pytest.fixture(scope="module", params=list(TOLERANCE))
def backend(request: pytest.FixtureRequest) -> Iterator[CupyBackend]:
    with cupy_backend(precision=request.param) as backend:
        yield backend


@pytest.fixture(scope="module")
def exact() -> Iterator[CupyBackend]:
    with cupy_backend(precision="fp32") as backend:
        yield backend


def conv_case(
    n: int, h: int, w: int, c: int, k: int, kernel: int = 3, stride: int = 1, padding: Any = 1, seed: int = 0
) -> Case:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((n, h, w, c)),
        "weight": rng.standard_normal((kernel, kernel, c, k)),
        "bias": rng.standard_normal(k),
        "stride": stride,
        "padding": padding,
    }


def norm_case(n: int, h: int, w: int, c: int, joined: int, k: int, masked: bool) -> Case:
    rng = np.random.default_rng(0)
    every = c + joined
    return {
        "x": rng.standard_normal((n, h, w, c)),
        "skip": rng.standard_normal((n, h, w, joined)) if joined else None,
        "gamma": rng.standard_normal(every),
        "beta": rng.standard_normal(every),
        "weight": rng.standard_normal((3, 3, every, k)),
        "bias": rng.standard_normal(k),
        "groups": 4,
        "shift": rng.standard_normal((n, k)),
        "residual": rng.standard_normal((n, h, w, k)),
        "mask": 2.0 * (rng.standard_normal((n, h, w, every)) > 0) if masked else None,
    }


# Every tile, in every precision. Multiprocessors: how large a tile gives blocks enough
TILED = {
    "128 x 128": (1, conv_case(1, 16, 12, 32, 128)),
    "128 x 64": (1, conv_case(2, 16, 16, 40, 64)),
    "128 x 32": (1, conv_case(2, 16, 18, 32, 32)),
    "64 x 32": (132, conv_case(3, 9, 7, 36, 40)),
    "several images": (132, conv_case(7, 4, 4, 8, 8)),
    "narrow": (132, conv_case(1, 9, 9, 68, 3)),
    "few channels": (132, conv_case(1, 9, 9, 3, 33)),
    "stride of two": (132, conv_case(2, 9, 8, 20, 36, stride=2)),
    "stride of two, far sides": (132, conv_case(2, 8, 10, 4, 8, stride=2, padding=(0, 1, 0, 1))),
    "products": (1, conv_case(2, 9, 9, 72, 64, kernel=1, padding=0)),
    "other windows": (132, conv_case(1, 8, 9, 8, 12, kernel=5, stride=2, padding=(3, 0, 1, 2))),
}


@emulated
@pytest.mark.parametrize("which", TILED)
def test_every_tile(backend: CupyBackend, which: str) -> None:
    multiprocessors, case = TILED[which]
    with device_with(multiprocessors):
        check(backend, "conv2d", case)


@emulated
@pytest.mark.parametrize("which", ["128 x 64", "several images", "few channels", "stride of two"])
def test_no_tile_makes_a_mistake_that_luck_hides(which: str) -> None:
    multiprocessors, case = TILED[which]
    with cupy_backend(precision="tf32") as backend, running(checked=True), device_with(multiprocessors):
        check(backend, "conv2d", case)


@emulated
def test_residual_block(backend: CupyBackend) -> None:
    for case in (norm_case(2, 6, 5, 32, 16, 36, True), norm_case(3, 4, 4, 8, 0, 8, False)):
        with running(checked=backend.precision == "tf32"):
            check(backend, "norm_conv2d", case)


@emulated
def test_up_sampling(backend: CupyBackend) -> None:
    case = conv_case(2, 5, 4, 36, 40)
    check(backend, "upsample_conv2d", {name: case[name] for name in ("x", "weight", "bias")})


@emulated
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_gradients_from_elsewhere_are_added(exact: CupyBackend, data: st.DataObject) -> None:
    case = single(data.draw(SHAPES["pointwise"]))
    rng = np.random.default_rng(0)
    moved = {name: None if a is None else exact.asarray(a) for name, a in case.items()}
    _, ctx = exact.pointwise(**moved)
    wanted_y, wanted_ctx = OPS["pointwise"].forward(np, **double(case))
    dy = rng.standard_normal(wanted_y.shape).astype(np.float32)
    more = [None if a is None else rng.standard_normal(a.shape).astype(np.float32) for a in (case["x"], case["skip"])]
    wanted = OPS["pointwise"].backward(np, dy.astype(np.float64), wanted_ctx)
    found = exact.pointwise_backward(exact.asarray(dy), ctx, *(m if m is None else exact.asarray(m) for m in more))
    for ours, right, extra in zip(found, wanted, [*more, None, None], strict=True):
        if right is not None:
            right = right if extra is None else right + extra
            assert np.linalg.norm(ours.get() - right) <= 1e-5 * np.linalg.norm(right)


@emulated
@pytest.mark.parametrize("offset", [1, 2, 3])
def test_views_that_begin_anywhere(exact: CupyBackend, offset: int) -> None:
    """As the parameters of a network do, which are views of one flat array."""
    case = single(conv_case(1, 5, 6, 8, 12))

    def displaced(a: np.ndarray) -> Any:
        flat = exact.xp.empty(a.size + offset, "float32")
        flat[offset:] = exact.asarray(a.ravel())
        return flat[offset:].reshape(a.shape)

    moved = {name: displaced(a) if isinstance(a, np.ndarray) else a for name, a in case.items()}
    wanted, wanted_ctx = OPS["conv2d"].forward(np, **double(case))
    with running(checked=True):
        y, ctx = exact.conv2d(**moved)
        gradients = exact.conv2d_backward(displaced(y.get()), ctx)
    right = OPS["conv2d"].backward(np, y.get().astype(np.float64), wanted_ctx)
    for ours, expected in zip((y, *gradients), (wanted, *right), strict=True):
        assert np.linalg.norm(ours.get() - expected) <= 1e-5 * np.linalg.norm(expected)


@emulated
@pytest.mark.parametrize("which", ["x", "skip", "gamma", "weight", "bias", "shift", "residual", "mask"])
def test_each_array_in_turn_may_begin_anywhere(exact: CupyBackend, which: str) -> None:
    """And with it all others of its shape: with the residual, the gradient of the result."""
    case = norm_case(2, 3, 4, 8, 4, 16, True)

    def upload(x: Any) -> Any:
        return displaced(exact, x, int(np.shape(x) == case[which].shape))

    with running(checked=True, seed=0):
        check(exact, "norm_conv2d", case, upload)


@emulated
def test_no_lanes_meet_in_a_bank_of_shared_memory(exact: CupyBackend) -> None:
    """Counted where matrices are loaded, for tiles whose rows are a multiple of eight pixels."""
    case = single(conv_case(2, 16, 16, 32, 32))
    statistics()
    with device_with(capability="80"):
        y, ctx = exact.conv2d(exact.asarray(case["x"]), exact.asarray(case["weight"]), padding=1)
        exact.conv2d_backward(y, ctx)
    exact.synchronize()
    counted = statistics()
    assert counted["ldmatrix"] > 0
    assert counted["ldmatrix_bank_conflicts"] == 0


# Geometry

PADDINGS = st.integers(0, 3) | st.tuples(*[st.integers(0, 3)] * 4)


@st.composite
def convolutions(draw: st.DrawFn) -> Geometry:
    kernel = draw(st.integers(1, LARGEST_KERNEL)), draw(st.integers(1, LARGEST_KERNEL))
    h, w = draw(st.integers(kernel[0], 40)), draw(st.integers(kernel[1], 40))
    n, c, k = draw(st.integers(1, 9)), draw(st.integers(1, 300)), draw(st.integers(1, 300))
    padding = draw(PADDINGS)
    sides = (padding,) * 4 if isinstance(padding, int) else padding
    return geometry.plain((n, h, w, c), draw(st.integers(0, 9)), (*kernel, c, k), draw(st.integers(1, 2)), sides)


def meetings(g: Geometry, by_gradient: bool) -> list[tuple[tuple[int, int], tuple[int, int], int]]:
    """(input pixel, output pixel, tap) of every product within the image; by a gradient the two change places."""
    found = []
    for p in g.phases:
        for r in range(p.row, g.out[0], g.steps[1]):
            for c in range(p.column, g.out[1], g.steps[1]):
                for i in range(p.down):
                    for j in range(p.right):
                        row = (r // g.steps[1]) * g.steps[0] + i - p.top
                        column = (c // g.steps[1]) * g.steps[0] + j - p.left
                        if 0 <= row < g.image[1] and 0 <= column < g.image[2]:
                            ends = ((row, column), (r, c))
                            tap = p.tap + i * p.tap_down + j * p.tap_right
                            found.append((*(reversed(ends) if by_gradient else ends), tap))
    return sorted(found)


@settings(max_examples=30, deadline=None)
@given(
    h=st.integers(1, 9),
    w=st.integers(1, 9),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 2),
    sides=st.tuples(*[st.integers(0, 3)] * 4),
)
def test_input_gradient_meets_the_same_taps(
    h: int, w: int, kernel: tuple[int, int], stride: int, sides: tuple[int, int, int, int]
) -> None:
    if kernel[0] > h + sides[0] + sides[1] or kernel[1] > w + sides[2] + sides[3]:
        return
    forward = geometry.plain((1, h, w, 4), 0, (*kernel, 4, 8), stride, sides)
    backward = geometry.gradient(forward)
    assert meetings(forward, False) == meetings(backward, True)
    assert backward.taps == kernel[0] * kernel[1]  # none is multiplied with zeros between pixels


def test_input_gradient_after_up_sampling_meets_the_same_taps() -> None:
    for h, w in ((1, 1), (3, 4)):
        forward = geometry.upsampled((1, h, w, 4), (3, 3, 4, 8))
        assert meetings(forward, False) == meetings(geometry.gradient(forward), True)


def test_input_gradient_of_a_stride_without_phases_is_refused() -> None:
    with pytest.raises(ValueError, match="stride 3"):
        geometry.gradient(geometry.plain((1, 9, 9, 4), 0, (3, 3, 4, 8), 3, (1, 1, 1, 1)))


@settings(max_examples=200, deadline=None)
@given(forward=convolutions(), aligned=st.booleans(), multiprocessors=st.sampled_from([1, 16, 132]), data=st.data())
def test_tiles_are_declared_fit_and_cover(
    forward: Geometry, aligned: bool, multiprocessors: int, data: st.DataObject
) -> None:
    """Whatever tile is chosen, its kernel is among those that tests compile, and shared memory has room."""
    product = data.draw(st.sampled_from(list(PRODUCTS.values())))
    backward = data.draw(st.booleans())
    g = geometry.flat(geometry.gradient(forward) if backward else forward)
    tile = tuning.conv_tile(g, aligned, product, multiprocessors)
    assert (product, *tile, aligned, backward, False) in CONVOLVE.expressions
    fit = tuning.fit_conv(g, tile, backward)
    assert fit.shared <= tuning.SHARED_MEMORY
    assert covers(g, fit.tiling, tile.pixels)
    gradient_tile = tuning.gradient_tile(forward, aligned)
    assert (product, *gradient_tile, aligned, False) in GRADIENT.expressions
    fit = tuning.fit_gradient(forward, gradient_tile)
    assert fit.shared <= tuning.SHARED_MEMORY
    assert covers(forward, fit.tiling, gradient_tile.pixels)


@pytest.mark.parametrize("taps", [1, 2, 3, 4, 9, 16])
def test_slices_under_way_have_places_of_their_own_and_no_more(taps: int) -> None:
    """Steps go tap by tap through the slices; from a step on to the last that is fetched, all slices are in use."""
    tile = tuning.TILES[-1]
    g = geometry.plain((1, 16, 16, 16 * tile.slice), 0, (1, taps, 16 * tile.slice, 32), 1, (0, 0, taps, taps))
    in_use = [{(step + ahead) // taps for ahead in range(tile.stages)} for step in range(8 * taps)]
    assert tuning.fit_conv(g, tile, False).slots == max(map(len, in_use))


def covers(g: Geometry, tiling: geometry.Tiling, most: int) -> bool:
    """Whether tiles of at most `most` pixels cover all pixels of a phase."""
    (rows, columns), small = g.grid, tiling.images * tiling.rows * tiling.columns <= most
    whole = tiling.images == 1 or (tiling.down == tiling.across == 1)
    return small and whole and tiling.down * tiling.rows >= rows and tiling.across * tiling.columns >= columns


def test_a_measured_tile_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    g = geometry.plain((64, 32, 32, 32), 0, (3, 3, 32, 32), 1, (1, 1, 1, 1))
    default = tuning.conv_tile(g, True, "Tf32", 132)
    monkeypatch.setitem(tuning.MEASURED, (32, 32, 64 * 32 * 32, 9), tuning.TILES[-1])
    assert default != tuning.conv_tile(g, True, "Tf32", 132) == tuning.TILES[-1]
