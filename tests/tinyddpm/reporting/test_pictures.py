"""Pictures: every image at its place, sizes, frames, and files that are whole or not there."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tinyddpm.tiny_runs import tree
from tinyddpm.errors import InputError
from tinyddpm.reporting.pictures import (
    GAP,
    SMALLEST_SIDE,
    grid,
    save_array,
    save_each,
    save_gif,
    save_grid,
    to_pillow,
)


def noise(n: int, h: int, w: int, c: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, h, w, c)).astype(np.uint8)


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


class TestGrid:
    @pytest.mark.parametrize(
        ("n", "columns", "shape"),
        [
            (1, None, (1, 1)),
            (2, None, (1, 2)),
            (5, None, (2, 3)),
            (16, None, (4, 4)),
            (17, None, (4, 5)),
            (6, 2, (3, 2)),
            (3, 7, (1, 7)),
        ],
    )
    @pytest.mark.parametrize(("h", "w", "c"), [(8, 8, 1), (3, 5, 3), (1, 1, 1)])
    def test_every_image_at_its_place_and_a_gap_around(
        self, n: int, columns: int | None, shape: tuple[int, int], h: int, w: int, c: int
    ) -> None:
        images = noise(n, h, w, c)
        sheet = grid(images, columns)
        rows, across = shape
        assert sheet.shape == (GAP + rows * (h + GAP), GAP + across * (w + GAP), c)
        assert sheet.dtype == np.uint8
        covered = np.zeros(sheet.shape, bool)
        for i, image in enumerate(images):
            top, left = GAP + (i // across) * (h + GAP), GAP + (i % across) * (w + GAP)
            place = np.s_[top : top + h, left : left + w]
            np.testing.assert_array_equal(sheet[place], image)
            assert not covered[place].any()
            covered[place] = True
        assert (sheet[~covered] == sheet[0, 0, 0]).all()
        assert sheet[0, 0, 0] < 128

    def test_no_image(self) -> None:
        with pytest.raises(InputError, match="at least one image, got none"):
            grid(noise(0, 8, 8, 1))


class TestFiles:
    @pytest.mark.parametrize("c", [1, 3])
    def test_grid_is_enlarged_by_a_whole_factor_without_smoothing(self, tmp_path: Path, c: int) -> None:
        images = noise(6, 8, 5, c)
        save_grid(tmp_path / "new" / "grid.png", images)
        seen, sheet = opened(tmp_path / "new" / "grid.png"), grid(images)
        factor = -(-SMALLEST_SIDE // min(sheet.shape[:2]))
        expected = sheet.repeat(factor, axis=0).repeat(factor, axis=1)
        assert min(expected.shape[:2]) >= SMALLEST_SIDE
        np.testing.assert_array_equal(seen, expected[..., 0] if c == 1 else expected)

    def test_large_pictures_stay_as_they_are(self) -> None:
        assert to_pillow(noise(1, 600, 700, 3)[0], SMALLEST_SIDE).size == (700, 600)
        assert to_pillow(noise(1, 4, 3, 1)[0]).size == (3, 4)
        assert to_pillow(noise(1, 511, 700, 1)[0], SMALLEST_SIDE).size == (1400, 1022)

    @pytest.mark.parametrize("c", [1, 3])
    def test_each_by_number_at_its_own_size(self, tmp_path: Path, c: int) -> None:
        images = noise(12, 7, 5, c)
        save_each(tmp_path / "out", images)
        assert sorted(os.listdir(tmp_path / "out")) == [f"{i:05d}.png" for i in range(12)]  # noqa: PTH208
        for i, image in enumerate(images):
            np.testing.assert_array_equal(opened(tmp_path / "out" / f"{i:05d}.png").reshape(7, 5, c), image)

    def test_array(self, tmp_path: Path) -> None:
        images = noise(5, 4, 6, 3)
        save_array(tmp_path / "out.npy", images)
        seen = np.load(tmp_path / "out.npy", allow_pickle=False)
        np.testing.assert_array_equal(seen, images)
        assert seen.dtype == np.uint8

    @pytest.mark.parametrize("c", [1, 3])
    @pytest.mark.parametrize("count", [1, 2, 7])
    def test_gif_has_every_frame_in_order_and_holds_the_last(self, tmp_path: Path, count: int, c: int) -> None:
        frames = [np.full((4, 8, 8, c), 40 + 25 * i, np.uint8) for i in range(count)]
        save_gif(tmp_path / "out.gif", iter(frames))
        with Image.open(tmp_path / "out.gif") as picture:
            assert getattr(picture, "n_frames", 1) == count
            durations, seen = [], []
            for i in range(count):
                picture.seek(i)
                durations.append(picture.info["duration"])
                seen.append(np.asarray(picture.convert("RGB"))[picture.height // 4, picture.width // 4, 0])
            assert picture.width == picture.height >= SMALLEST_SIDE // 2
        assert durations == [50] * (count - 1) + [2000]
        assert all(abs(int(value) - 40 - 25 * i) <= 3 for i, value in enumerate(seen))

    def test_same_picture_gives_the_same_bytes(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            save_gif(tmp_path / f"{name}.gif", [noise(3, 8, 8, 3, seed) for seed in range(3)])
        assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()

    def test_failure_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        monkeypatch.setattr(Path, "replace", full)  # of pictures by the thousand, which are flushed together
        images = noise(3, 8, 8, 1)
        for write in (
            lambda: save_grid(tmp_path / "a.png", images),
            lambda: save_gif(tmp_path / "a.gif", [images]),
            lambda: save_array(tmp_path / "a.npy", images),
            lambda: save_each(tmp_path, images),
        ):
            with pytest.raises(OSError, match="No space left"):
                write()
        assert tree(tmp_path) == {}
