"""The CUDA normalisation beyond what all kernels are tested for: what other operations ask of it."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import CupyBackend
from backends.cupy_kernels.norm_conv import fits_norm_conv2d
from backends.cupy_kernels.normalization import MOST_IMAGES, NORM, Normalised, fits_group_norm, shares
from backends.cupy_kernels.runtime import launch
from backends.cupy_kernels.runtime.compilation import FOLDER
from backends.ops.fused import group_norm_silu, group_norm_silu_backward
from backends.ops.normalization import group_norm, group_norm_backward
from tests.emulation.compiler import missing
from tests.emulation.cupy.kernels import running
from tests.emulation.device import cupy_backend, displaced
from tests.emulation.launch import Module
from tests.emulation.memory import empty, upload

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.fixture(scope="module")
def backend() -> Iterator[CupyBackend]:
    with cupy_backend() as backend:
        yield backend


def error(found: Any, right: Any, size: float = 0.0) -> float:
    """Relative by norm; to `size` at least, where sums may cancel."""
    return float(np.linalg.norm(np.asarray(found, np.float64) - right) / max(np.linalg.norm(right), size))


def multiprocessors(patch: pytest.MonkeyPatch, count: int) -> None:
    patch.setattr(launch, "multiprocessors", lambda module: count)


class Case:
    """A normalisation of [x, skip] in float64, and its arrays on the device."""

    # In the order in which `check` uploads them where there are all
    ARRAYS = ("x", "skip", "mask", "gamma", "beta", "dx", "dskip", "more")

    def __init__(
        self,
        backend: CupyBackend,
        first: int,
        second: int,
        groups: int,
        spatial: tuple[int, ...],
        upload: Callable[[np.ndarray], Any] | None = None,
    ) -> None:
        rng = np.random.default_rng(0)
        self.backend, self.first, self.groups, channels = backend, first, groups, first + second
        self.upload = upload or backend.asarray
        self.joined = self.round(3 + rng.standard_normal((2, *spatial, channels)))
        self.gamma, self.beta = self.round(rng.standard_normal(channels)), self.round(rng.standard_normal(channels))
        self.dy = self.round(rng.standard_normal(self.joined.shape))
        self.mask = 2.0 * (rng.random(self.joined.shape) < 0.5)
        self.more = self.round(rng.standard_normal((*self.joined.shape[:-1], first)))
        self.x, self.skip = self.parts(self.joined)

    def round(self, x: np.ndarray) -> np.ndarray:
        return x.astype(np.float32).astype(np.float64)

    def up(self, x: np.ndarray) -> Any:
        return self.upload(np.ascontiguousarray(x, np.float32))

    def parts(self, x: np.ndarray) -> tuple[Any, Any]:
        return self.up(x[..., : self.first]), self.up(x[..., self.first :]) if x.shape[-1] > self.first else None

    def normalised(self, silu: bool, masked: bool) -> Normalised:
        mean, rstd = self.backend.norm_statistics(self.x, self.skip, self.groups, 1e-5)
        mask = self.up(self.mask) if masked else None
        return Normalised(self.x, self.skip, self.up(self.gamma), self.up(self.beta), mean, rstd, mask, silu)

    def check(self, silu: bool, masked: bool, whole_dy: bool, in_place: bool) -> None:
        forward, backward = (group_norm_silu, group_norm_silu_backward) if silu else (group_norm, group_norm_backward)
        factor = self.mask if masked else 1.0
        wanted, ctx = forward(np, self.joined, self.gamma, self.beta, self.groups)
        dx, dgamma, dbeta = backward(np, self.dy * factor, ctx)
        norm = self.normalised(silu, masked)
        assert error(norm.mean.get(), ctx.mean) < 1e-6
        assert error(norm.rstd.get(), ctx.rstd) < 1e-6
        assert error(self.backend.normalised(norm).get(), wanted * factor) < 2e-6
        dy = (self.up(self.dy), None) if whole_dy else self.parts(self.dy)
        empty_parts = tuple(None if a is None else self.backend.xp.empty_like(a) for a in (self.x, self.skip))
        out = dy if in_place and not whole_dy else empty_parts
        found = self.backend.through_norm(dy, norm, out, self.up(self.more))
        assert error(out[0].get(), dx[..., : self.first] + self.more) < 2e-6
        if self.skip is not None:
            assert error(out[1].get(), dx[..., self.first :]) < 2e-6
        size = float(np.linalg.norm(self.dy))
        assert error(found[0].get(), dgamma, size) < 2e-6
        assert error(found[1].get(), dbeta, size) < 2e-6


CHANNELS = [(32, 0, 8), (32, 16, 8), (5, 10, 3), (6, 2, 4), (64, 64, 1), (1, 0, 1), (12, 8, 5)]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_two_arrays_joined_along_channels(backend: CupyBackend, data: st.DataObject) -> None:
    spatial = data.draw(st.sampled_from([(7, 5), (8, 8), (1, 33), (40,), (20, 19), (13, 50)]))
    case = Case(backend, *data.draw(st.sampled_from(CHANNELS)), spatial)
    flags = [data.draw(st.booleans()) for _ in range(4)]
    checked = data.draw(st.sampled_from([False, False, False, True]))
    with pytest.MonkeyPatch.context() as patch, running(checked=checked, seed=data.draw(st.integers(0, 3))):
        multiprocessors(patch, data.draw(st.sampled_from([1, 132])))
        case.check(*flags)


@pytest.mark.parametrize("which", range(len(Case.ARRAYS)), ids=Case.ARRAYS)
def test_each_array_in_turn_may_begin_anywhere(backend: CupyBackend, which: int) -> None:
    """Whether 16 bytes are moved at once, depends on the addresses of all."""
    number = itertools.count()
    with running(checked=True, seed=0):
        case = Case(backend, 16, 8, 4, (5, 3), lambda x: displaced(backend, x, int(next(number) == which)))
        case.check(silu=True, masked=True, whole_dy=False, in_place=False)
    assert next(number) == len(Case.ARRAYS)


@pytest.mark.parametrize("count", [1, 132])
def test_statistics_of_numbers_far_from_zero(backend: CupyBackend, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Squares of 10^4 would leave nothing of a deviation of one."""
    multiprocessors(monkeypatch, count)
    x = (1e4 + np.random.default_rng(0).standard_normal((1, 24, 24, 8))).astype(np.float32)
    mean, rstd = backend.norm_statistics(backend.asarray(x), None, 2, 1e-5)
    grouped = x.astype(np.float64).reshape(1, -1, 2, 4)
    assert error(mean.get(), grouped.mean((1, 3))) < 1e-7
    assert error(rstd.get(), 1 / np.sqrt(grouped.var((1, 3)) + 1e-5)) < 1e-6


@pytest.mark.parametrize(("images", "fit"), [(MOST_IMAGES, True), (MOST_IMAGES + 1, False)])
def test_guards_know_how_many_images_a_grid_has_room_for(backend: CupyBackend, images: int, fit: bool) -> None:
    x, gamma, weight, bias = (backend.xp.empty(shape, np.float32) for shape in ((images, 1, 1, 2), 2, (1, 1, 2, 1), 1))
    assert fits_group_norm(x, gamma, gamma, 1) == fit
    assert fits_norm_conv2d(x, None, gamma, gamma, weight, bias, 1) == fit


def test_how_work_is_shared_out(backend: CupyBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """One launch where blocks are enough or images small; every multiprocessor has some where one image is large."""
    multiprocessors(monkeypatch, 132)
    empty = backend.xp.empty
    many, one, small = (empty(shape, np.float32) for shape in ((64, 32, 32, 64), (1, 64, 64, 64), (1, 8, 8, 64)))
    assert shares(many, None, 32, statistics=True).whole
    assert shares(small, None, 32, statistics=True).whole
    by = shares(one, None, 32, statistics=True)
    assert not by.whole
    assert all(np.prod(grid) >= 128 for grid in (by.grid, shares(one, None, 32).grid, shares(many, None, 32).grid))
    assert shares(many, None, 32, statistics=True).grid == (1, 4, 64)
    # Groups so wide that no block has threads for one
    assert not shares(empty((64, 2, 2, 4096), np.float32), None, 1, statistics=True).whole


def test_bfloat16_in_memory() -> None:
    """The result for numbers that bfloat16 holds is that of float32, rounded."""
    code = (FOLDER / "normalization.cu").read_text(encoding="utf-8")
    names = ["statistics<bf16, 8, true>", "normalise<bf16, 8, true>"]
    module = Module(code, names, include=[str(FOLDER)])
    x = np.random.default_rng(0).standard_normal((2, 20, 16)).astype(np.float32)
    bits = (x.view(np.uint32) >> 16).astype(np.uint16)
    x = (bits.astype(np.uint32) << 16).view(np.float32)
    record = NORM(images=2, pixels=20, first=16, second=0, groups=4, chunk=20, slab=16)
    mean, rstd, y = empty((2, 4)), empty((2, 4)), empty((2, 20, 16), np.uint16)
    gamma, beta = upload(np.full(16, 2.0), np.float32), upload(np.ones(16), np.float32)
    device = upload(bits)
    arguments = [device, None, mean, rstd, None, record, np.float32(1e-5)]
    module.launch(names[0], (1, 1, 2), (256,), arguments)
    module.launch(names[1], (1, 1, 2), (256,), [device, None, gamma, beta, mean, rstd, None, y, record])
    wanted = group_norm_silu(np, x.astype(np.float64), np.full(16, 2.0), np.ones(16), 4)[0]
    found = (y.astype(np.uint32) << 16).view(np.float32)
    assert np.max(np.abs(found - wanted) / np.maximum(np.abs(wanted), 1e-3)) < 2**-8
