"""Convolutions by warpgroups: every tile in every precision, geometry that patches do not suit, other GPUs."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import CupyBackend
from backends.cupy_kernels import geometry, tuning, tuning_hopper
from backends.cupy_kernels.convolution import CONVOLVE_PATCHES, GRADIENT_UNITS, PRODUCTS
from backends.cupy_kernels.runtime.launch import Kernel, expression
from backends.cupy_kernels.tuning_hopper import PatchTile, UnitTile
from tests.backends.test_cupy_convolution import conv_case, norm_case
from tests.emulation.compiler import missing
from tests.emulation.cupy.kernels import running
from tests.emulation.device import TOLERANCE, check, cupy_backend, device_with
from tests.emulation.launch import statistics

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.fixture(scope="module", params=list(TOLERANCE))
def backend(request: pytest.FixtureRequest) -> Iterator[CupyBackend]:
    with cupy_backend(precision=request.param) as backend, device_with(capability="90"):
        yield backend


@pytest.fixture(scope="module")
def exact() -> Iterator[CupyBackend]:
    with cupy_backend(precision="fp32") as backend, device_with(capability="90"):
        yield backend


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the kernels that a test runs."""
    names: set[str] = set()
    run = Kernel.run

    def noted(self: Kernel, *args: Any, **named: Any) -> None:
        names.add(self.name)
        run(self, *args, **named)

    monkeypatch.setattr(Kernel, "run", noted)
    return names


def declared(kernel: Kernel, tile: tuple[int, ...], flags: tuple[tuple[bool, ...], ...]) -> Callable[..., Any]:
    """What chooses this tile, whatever the geometry; the kernel's instances of it are declared."""
    for math in PRODUCTS.values():
        for flag in flags:
            template = (math, *tile, *flag)
            kernel.expressions.setdefault(template, expression(kernel.name, template))
    return lambda *_: tile


# The last two are in no table: patches and shares of a slice at once, and weights two steps ahead
OTHER_PATCHES = (PatchTile(32, 2, 2, 1, 1), PatchTile(16, 1, 1, 2, 2))


@pytest.mark.parametrize("tile", [*tuning_hopper.PATCH_TILES, *OTHER_PATCHES], ids=str)
def test_every_tile_of_patches(exact: CupyBackend, tile: PatchTile, monkeypatch: pytest.MonkeyPatch, ran: set) -> None:
    """Two patches below one another, a row of which lies beyond the image; two slices, the second not whole."""
    chosen = declared(CONVOLVE_PATCHES, tile, ((False, False), (True, False), (False, True)))
    monkeypatch.setattr(tuning_hopper, "patch_tile", chosen)
    monkeypatch.setattr(tuning_hopper, "HOPPER_SHARED", 1 << 20)
    if tuning_hopper.fit_patches(tuning.usual_geometry(3, 1), tile, "Split").shared > 227 << 10:
        exact = CupyBackend("tf32")
    check(exact, "norm_conv2d", norm_case(1, 15, 8, 20, 16 * tile.split, 36, True))
    check(exact, "conv2d", conv_case(3, 8, 7, 36, 20))
    assert "convolve_patches" in ran


@pytest.mark.parametrize(
    ("taps", "tile"), [(n, tile) for n, tiles in tuning_hopper.UNIT_TILES.items() for tile in tiles], ids=str
)
def test_every_tile_of_units(
    exact: CupyBackend, taps: int, tile: UnitTile, monkeypatch: pytest.MonkeyPatch, ran: set
) -> None:
    monkeypatch.setattr(tuning_hopper, "unit_tile", declared(GRADIENT_UNITS, tile, ((False,), (True,))))
    if taps == 4:
        case = conv_case(3, 5, 6, 20, 36)
        check(exact, "upsample_conv2d", {name: case[name] for name in ("x", "weight", "bias")})
    else:
        check(exact, "conv2d", conv_case(3, 9, 6, 20, 36, kernel={9: 3, 1: 1}[taps], padding=0))
    assert "weight_gradient_units" in ran


CASES = {
    "one patch": conv_case(1, 8, 8, 32, 16),
    "patches of several images": conv_case(5, 8, 8, 16, 40),
    "an odd number of outputs": conv_case(1, 8, 8, 32, 33),
    "images that end within a patch": conv_case(2, 14, 14, 20, 24),
    "stride of two": conv_case(2, 16, 18, 20, 36, stride=2),
    "stride of two, far sides": conv_case(1, 16, 16, 16, 64, stride=2, padding=(0, 1, 0, 1)),
    "products": conv_case(2, 9, 9, 72, 64, kernel=1, padding=0),
    "a kernel of five": conv_case(1, 16, 16, 16, 12, kernel=5, padding=(2, 2, 1, 3)),
    "many channels": conv_case(1, 8, 8, 160, 24),
}


@pytest.mark.parametrize("which", CASES)
def test_shapes(backend: CupyBackend, which: str, ran: set) -> None:
    check(backend, "conv2d", CASES[which])
    assert "convolve_patches" in ran


@pytest.mark.parametrize("which", ["patches of several images", "stride of two", "products", "many channels"])
def test_no_shape_makes_a_mistake_that_luck_hides(which: str) -> None:
    with cupy_backend(precision="tf32") as backend, running(checked=True), device_with(capability="90"):
        check(backend, "conv2d", CASES[which])


def test_residual_blocks(backend: CupyBackend, ran: set) -> None:
    for case in (norm_case(2, 9, 8, 32, 16, 36, True), norm_case(3, 8, 8, 16, 0, 16, False)):
        with running(checked=backend.precision == "tf32"):
            check(backend, "norm_conv2d", case)
    assert {"convolve_patches", "weight_gradient_units"} <= ran


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_whatever_the_size(exact: CupyBackend, data: st.DataObject) -> None:
    def number(least: int, most: int) -> int:
        return data.draw(st.integers(least, most))

    size, stride = data.draw(st.sampled_from([(1, 1), (3, 1), (3, 2), (2, 2), (4, 2), (5, 1)]))
    case = conv_case(
        number(1, 3), number(7, 20), number(7, 20), 4 * number(4, 20), number(8, 70), size, stride,
        tuple(number(0, size - 1) for _ in range(4)), number(0, 99),
    )  # fmt: skip
    with running(seed=number(0, 3)), device_with(data.draw(st.sampled_from([1, 8, 132])), "90"):
        check(exact, "conv2d", case)


@pytest.mark.parametrize("capability", ["80", "89", "100", "120"])
def test_other_gpus_have_no_warpgroups(exact: CupyBackend, capability: str, ran: set) -> None:
    with device_with(capability=capability):
        check(exact, "conv2d", CASES["one patch"])
    assert not {"convolve_patches", "weight_gradient_units"} & ran


@pytest.mark.parametrize(
    "case",
    [conv_case(64, 4, 4, 32, 32), conv_case(1, 9, 9, 32, 32), conv_case(1, 8, 8, 12, 32), conv_case(1, 8, 8, 32, 4)],
)
def test_shapes_that_patches_do_not_suit(exact: CupyBackend, case: dict[str, Any], ran: set) -> None:
    """Most of a patch would be of no image, or a slice of no channels."""
    check(exact, "conv2d", case)
    assert "convolve" in ran


def test_sums_are_the_same_bits_each_time(exact: CupyBackend) -> None:
    x, weight = (exact.asarray(CASES["many channels"][name], "float32") for name in ("x", "weight"))
    found = []
    for seed in range(3):
        with running(seed=seed):
            y, ctx = exact.conv2d(x, weight, padding=1)
            found.append([a.get() for a in (y, *exact.conv2d_backward(y, ctx)) if a is not None])
    for others in found[1:]:
        for a, b in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(a, b)


def test_products_are_those_of_warpgroups(exact: CupyBackend) -> None:
    """None by single warps: `mma` would be at half the rate."""
    case = CASES["one patch"]
    statistics()
    exact.conv2d(exact.asarray(case["x"], "float32"), exact.asarray(case["weight"], "float32"), padding=1)
    exact.synchronize()
    counted = statistics()
    assert counted["wgmma"] > 0
    assert counted["mma"] == 0


# Geometry


@settings(deadline=None)
@given(data=st.data())
def test_patches_cover_every_pixel_once(data: st.DataObject) -> None:
    n, h, w = (data.draw(st.integers(1, most)) for most in (5, 40, 40))
    patches, stride = data.draw(st.sampled_from([1, 2, 4])), data.draw(st.sampled_from([1, 2]))
    found = geometry.plain((n, h, w, 16), 0, (3, 3, 16, 16), stride, (1, 1, 1, 1))
    if data.draw(st.booleans()):
        found = geometry.flat(geometry.plain((n, h, w, 16), 0, (1, 1, 16, 16), 1, (0, 0, 0, 0)))
    tiling, (height, width) = geometry.patched(found, patches), found.grid
    assert tiling.images * tiling.rows * tiling.columns == 64 * patches
    assert (tiling.down - 1) * tiling.rows < height <= tiling.down * tiling.rows
    assert (tiling.across - 1) * tiling.columns < width <= tiling.across * tiling.columns
    assert tiling.halo_rows == found.steps[0] * (tiling.rows - 1) + found.window[0]
    assert tiling.halo_columns == found.steps[0] * (tiling.columns - 1) + found.window[1]
