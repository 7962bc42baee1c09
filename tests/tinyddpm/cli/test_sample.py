"""`tinyddpm sample`: every option and every kind of output."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import backends
from tests.tinyddpm.tiny_runs import (
    invoke,
    succeed,
    tree,
)
from tinyddpm.generation.images import draw
from tinyddpm.training.run_folder import checkpoints, open_checkpoint

NUMPY = backends.get("numpy")


class TestSample:
    def expected(self, run: Path, count: int, steps: int, **more: Any) -> np.ndarray:
        return draw(open_checkpoint(run, NUMPY), count, steps, **more)[0]

    @pytest.mark.parametrize(
        ("options", "more"),
        [
            ("", {}),
            ("--sampler ddim --eta 0.5 --seed 3", {"sampler": "ddim", "eta": 0.5, "seed": 3}),
            ("--sampler ddim --keep-eps", {"sampler": "ddim", "keep_eps": True}),
            ("--sampler ddpm --no-clip", {"sampler": "ddpm", "clip": False}),
            ("--spacing leading --clip", {"spacing": "leading"}),
            ("--spacing linspace --seed 18446744073709551615", {"spacing": "linspace", "seed": 2**64 - 1}),
            ("--sampler euler --spacing karras", {"sampler": "euler", "spacing": "karras"}),
            ("--sampler heun", {"sampler": "heun"}),
            ("--sampler dpm_solver --threshold 0.9", {"sampler": "dpm_solver", "threshold": 0.9}),
            ("--sampler pndm --guidance 1.5", {"sampler": "pndm", "guidance": 1.5}),
            ("--label 3", {"label": 3}),
            ("--label 9 --guidance 2.5", {"label": 9, "guidance": 2.5}),
            ("--guidance 0", {"guidance": 0.0}),
            ("--no-labels", {"unlabelled": True}),
        ],
    )
    def test_options_reach_the_sampler(
        self, tmp_path: Path, labelled: Path, options: str, more: dict[str, Any]
    ) -> None:
        path = tmp_path / "out.npy"
        out = succeed("sample", labelled, "-n", 5, "--steps", 4, *options.split(), "--backend", "numpy", "-o", path)
        assert out == f"wrote {path}\n"
        np.testing.assert_array_equal(np.load(path), self.expected(labelled, 5, 4, **more))

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--label", 3], "error: --label 3 and --no-labels exclude each other; give one\n"),
            (["--guidance", 2], "error: --guidance 2.0 is towards labels; leave it out, or --no-labels\n"),
        ],
    )
    def test_no_labels_go_with_nothing_that_is_towards_them(
        self, tmp_path: Path, labelled: Path, options: list[Any], words: str
    ) -> None:
        result = invoke("sample", labelled, "-n", 2, "--no-labels", *options, "-o", tmp_path / "out.npz")
        assert result.exit_code == 2
        assert result.stderr.endswith(words)
        assert tree(tmp_path) == {}

    def test_a_grid_without_labels_has_no_captions(self, tmp_path: Path, labelled: Path) -> None:
        for name, options in (("with", []), ("without", ["--no-labels"])):
            succeed("sample", labelled, "-n", 4, "--steps", 2, *options, "-o", tmp_path / f"{name}.png")
        with Image.open(tmp_path / "with.png") as labels, Image.open(tmp_path / "without.png") as none:
            assert labels.width == none.width == none.height < labels.height

    def test_the_average_unless_raw(self, tmp_path: Path, labelled: Path) -> None:
        for name, options in (("average", []), ("raw", ["--raw"])):
            succeed("sample", labelled, "-n", 2, "--steps", 3, *options, "-o", tmp_path / f"{name}.npy")
        average, raw = np.load(tmp_path / "average.npy"), np.load(tmp_path / "raw.npy")
        np.testing.assert_array_equal(average, self.expected(labelled, 2, 3))
        assert not np.array_equal(average, raw)
        checkpoint = open_checkpoint(labelled, NUMPY)
        checkpoint.ema = None
        np.testing.assert_array_equal(raw, draw(checkpoint, 2, 3)[0])

    def test_png_gif_and_folder(self, tmp_path: Path, simple: Path) -> None:
        for name in ("grid.png", "steps.GIF", "new/folder"):
            succeed("sample", simple, "-n", 3, "--steps", 5, "-o", tmp_path / name)
        expected = self.expected(simple, 3, 5)
        assert sorted(tree(tmp_path)) == [
            "grid.png", "new", "new/folder", *(f"new/folder/{i:05d}.png" for i in range(3)), "steps.GIF"
        ]  # fmt: skip
        for i in range(3):
            with Image.open(tmp_path / "new" / "folder" / f"{i:05d}.png") as picture:
                np.testing.assert_array_equal(np.asarray(picture), expected[i, ..., 0])
        with Image.open(tmp_path / "grid.png") as picture:
            # two by two of 8 pixels with gaps of 2, enlarged until 512 is reached
            factor = math.ceil(512 / 22)
            assert picture.size == (22 * factor, 22 * factor)
            small = np.asarray(picture)[::factor, ::factor]
        np.testing.assert_array_equal(small[2:10, 12:20], expected[1, ..., 0])
        with Image.open(tmp_path / "steps.GIF") as picture:
            assert getattr(picture, "n_frames", 1) == 5

    @pytest.mark.parametrize(("columns", "rows_"), [(1, 3), (2, 2), (3, 1)])
    def test_columns_of_a_grid(self, tmp_path: Path, simple: Path, columns: int, rows_: int) -> None:
        for name in ("grid.png", "steps.gif"):
            succeed("sample", simple, "-n", 3, "--steps", 2, "--columns", columns, "-o", tmp_path / name)
            with Image.open(tmp_path / name) as picture:
                assert picture.width * (2 + 10 * rows_) == picture.height * (2 + 10 * columns)

    def test_a_gif_has_no_more_columns_than_images(self, tmp_path: Path, simple: Path) -> None:
        succeed("sample", simple, "-n", 20, "--steps", 2, "--columns", 20, "-o", tmp_path / "steps.gif")
        with Image.open(tmp_path / "steps.gif") as picture:
            assert picture.width * 12 == picture.height * 162

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--columns", 0], "--columns must be a whole number in 1 … 2 (the number of images), got 0"),
            (["--columns", 3], "--columns must be a whole number in 1 … 2 (the number of images), got 3"),
            (["--columns", 2, "-o", "x.npy"], "--columns 2 is of a grid; leave it out, or write to a name in .png"),
            (["--columns", 2, "-o", "folder"], "--columns 2 is of a grid; leave it out"),
        ],
    )
    def test_columns_that_cannot_be(self, simple: Path, options: list[Any], words: str) -> None:
        result = invoke("sample", simple, "-n", 2, "--steps", 2, *options)
        assert result.exit_code == 2
        assert words in result.stderr

    def test_default_name_and_checkpoint_file(
        self, tmp_path: Path, simple: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        _, path = checkpoints(simple)[-1]
        assert succeed("sample", path, "-n", 1, "--steps", 2) == "wrote samples.png\n"
        assert (tmp_path / "samples.png").exists()

    def test_older_checkpoints_too(self, tmp_path: Path, labelled: Path) -> None:
        (_, older), (_, newer) = checkpoints(labelled)
        for name, path in (("older", older), ("newer", newer), ("run", labelled)):
            succeed("sample", path, "-n", 2, "--steps", 2, "-o", tmp_path / f"{name}.npy")
        older_images, newer_images, images_ = (np.load(tmp_path / f"{name}.npy") for name in ("older", "newer", "run"))
        assert np.array_equal(newer_images, images_)
        assert not np.array_equal(older_images, newer_images)
