"""A run and its folder of images: what changes are noticed, where the data may go, what classes are called."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import backends
from tests.tinyddpm.tiny_runs import QUICK, UNET_OPTIONS, arrays, assert_same, invoke, rows, succeed, tree
from tinyddpm.training.run_data import known_data
from tinyddpm.training.run_folder import Run, open_checkpoint, read_config

NUMPY = backends.get("numpy")
PLAIN = [*UNET_OPTIONS[:-1], "--attention-resolutions", "", *QUICK, "--image-size", 8]
CLASSES = [*PLAIN, "--classes"]


def put(folder: Path, count: int, first: int = 0) -> None:
    """Pictures of random grey, numbered from `first`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of b and c, and a run with classes and one without on them."""
    here = tmp_path_factory.mktemp("made")
    put(here / "photos" / "b", 12)
    put(here / "photos" / "c", 10, 50)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        for name, options in (("labelled", CLASSES), ("plain", PLAIN)):
            succeed("train", "--data", "photos", *options, "--steps", 2, "--out", name)
    return here


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it as the current directory, its runs pointing to the copy of the pictures."""
    shutil.copytree(made, tmp_path / "here")
    for run in ("labelled", "plain"):
        path = tmp_path / "here" / run / "config.json"
        path.write_text(path.read_text().replace(str(made / "photos"), str(tmp_path / "here" / "photos")))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def refused(*arguments: object) -> str:
    """The one line on stderr of a command that must leave all files as they are."""
    before = tree(Path())
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert tree(Path()) == before
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def resume(run: str, *more: object) -> list[object]:
    return ["train", "--resume", run, "--steps", 4, "--samples", 0, "--backend", "numpy", *more]


def evaluate(run: str, *more: object) -> list[object]:
    return ["evaluate", run, "--levels", 1, "--backend", "numpy", *more]


class TestChanges:
    @pytest.mark.parametrize("run", ["labelled", "plain"])
    def test_a_new_class_stops_the_run(self, here: Path, run: str) -> None:
        put(here / "photos" / "a", 8, 80)
        for command in (resume(run), evaluate(run)):
            assert "error: the data changed: class 'a' is new, 30 images instead of 22; " in refused(*command)
            assert "--accept-data" in refused(*command)

    def test_a_class_without_a_label_is_never_accepted(self, here: Path) -> None:
        put(here / "photos" / "a", 8, 80)
        for command in (resume("labelled", "--accept-data"), evaluate("labelled", "--accept-data")):
            assert "error: the model has no label for class 'a', only for 'b', 'c'" in refused(*command)

    def test_a_model_without_classes_accepts_any(self, here: Path) -> None:
        put(here / "photos" / "a", 8, 80)
        succeed(*evaluate("plain", "--accept-data"))
        succeed(*resume("plain", "--accept-data"))
        # It is now what the run knows
        succeed("train", "--resume", "plain", "--steps", 5, "--samples", 0)
        summary = known_data(open_checkpoint("plain", NUMPY))
        assert summary is not None
        assert (summary.images, summary.classes) == (30, ("a", "b", "c"))

    def test_labels_keep_their_classes(self, here: Path) -> None:
        """Without a's class, labels of b and c would be 0 and 1 again, but the model knows three."""
        put(here / "photos" / "a", 12, 80)
        succeed("train", "--data", "photos", *CLASSES, "--steps", 2, "--out", "three")
        shutil.rmtree(here / "photos" / "a")
        assert "class 'a' is gone, 22 images instead of 34" in refused(*resume("three"))
        out = succeed(*resume("three", "--accept-data"))
        assert "classes: 0 a, 1 b, 2 c" in out
        summary = known_data(open_checkpoint("three", NUMPY))
        assert summary is not None
        assert (summary.classes, summary.counts) == (("a", "b", "c"), (0, 12, 10))
        succeed("train", "--resume", "three", "--steps", 5, "--samples", 0)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda photos: put(photos / "c", 1, 70), "23 images instead of 22"),
            (lambda photos: (photos / "b" / "000.png").unlink(), "21 images instead of 22"),
            (
                lambda photos: (photos / "b" / "000.png").rename(photos / "c" / "000.png"),
                "class 'b' has 11 images inst",
            ),
            (lambda photos: (photos / "b" / "000.png").rename(photos / "b" / "x.png"), "22 images as before, but not"),
            (lambda photos: (photos / "b").rename(photos / "d"), "class 'd' is new, class 'b' is gone"),
            (lambda photos: put(photos, 1, 90), "there are no classes any more, 23 images instead of 22"),
            (lambda photos: Image.new("RGB", (9, 9), "red").save(photos / "c" / "red.png"), "23 images instead of 22"),
        ],
    )
    def test_each_is_named(self, here: Path, change: Any, words: str) -> None:
        change(here / "photos")
        for run in ("labelled", "plain"):
            for command in (resume(run), evaluate(run)):
                assert f"the data changed: {words}" in refused(*command)

    def test_a_coloured_picture_that_is_accepted_turns_grey(self, here: Path) -> None:
        Image.new("RGB", (9, 9), "red").save(here / "photos" / "c" / "red.png")
        assert "photos 8x8x1" in succeed(*resume("labelled", "--accept-data"))

    def test_held_out_labels_keep_their_classes_too(self, here: Path) -> None:
        put(here / "photos" / "a", 12, 80)
        options = [*CLASSES, "--steps", 2, "--validate-every", 1]
        succeed("train", "--data", "photos", *options, "--out", "three")
        shutil.rmtree(here / "photos" / "a")
        assert "the data changed" in refused(*resume("three"))
        run = Run.resume("three", NUMPY, accept_data=True)
        assert run.validation is not None
        train, held_out = run.trainer.batches.dataset, run.validation.dataset
        assert train.class_names == held_out.class_names == ("a", "b", "c")
        # Every tenth of 12 pictures of b and 10 of c
        assert held_out.labels is not None
        assert held_out.labels.tolist() == [1, 2]

    def test_what_is_no_image_changes_nothing(self, here: Path) -> None:
        (here / "photos" / "notes.txt").write_text("mine")
        result = invoke(*resume("labelled"))
        assert result.exit_code == 0
        assert "warning: skipped 1 file that is not a readable image: notes.txt" in result.stderr
        assert "warning: skipped 1 file" in invoke(*evaluate("labelled")).stderr

    def test_unchanged_data_are_no_change_accepted_or_not(self, here: Path) -> None:
        shutil.copytree(here / "labelled", here / "second")
        succeed(*resume("labelled"))
        succeed(*resume("second", "--accept-data"))
        first, second = (open_checkpoint(here / name, NUMPY) for name in ("labelled", "second"))
        assert_same(arrays(first), arrays(second))
        assert rows(here / "labelled") == rows(here / "second")

    def test_pixels_of_a_named_set(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        succeed("train", *UNET_OPTIONS, *QUICK, "--steps", 2, "--out", "digits")
        from sklearn import datasets

        changed = datasets.load_digits()
        changed.images[0] = 16 - changed.images[0]
        monkeypatch.setattr(datasets, "load_digits", lambda: changed)
        for command in (resume("digits"), evaluate("digits")):
            assert "the data changed: 1,541 images as before, but not the same ones" in refused(*command)

    def test_a_run_of_an_earlier_version(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It kept no classes, and ordered them as texts: 10 before 2."""
        for name in ("b", "c"):
            (here / "photos" / name).rename(here / "photos" / {"b": "2", "c": "10"}[name])
        monkeypatch.setattr("tinyddpm.training.run_folder.DATA_ENTRY", "unknown")
        succeed("train", "--data", "photos", *CLASSES, "--steps", 2, "--out", "old")
        monkeypatch.undo()
        monkeypatch.chdir(here)
        assert "classes: 0 10, 1 2" in succeed(*resume("old"))
        succeed(*evaluate("old"))
        shutil.copytree(here / "photos" / "2", here / "photos" / "1")
        assert "class '1' is new" in refused("train", "--resume", "old", "--steps", 5)


class TestPlaces:
    def test_a_run_goes_on_from_another_directory(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert read_config(here / "labelled").data.name == str(here / "photos")
        (here / "elsewhere").mkdir()
        monkeypatch.chdir(here / "elsewhere")
        succeed(*evaluate("../labelled"))
        succeed(*resume("../labelled"))

    def test_data_that_moved(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (here / "photos").rename(here / "moved")
        for command in (resume("labelled"), evaluate("labelled")):
            assert "photos'" in refused(*command)
            assert "if the data have moved, give their place by --data or --data-dir" in refused(*command)
        monkeypatch.chdir(here / "moved")
        succeed(*evaluate("../labelled", "--data", "."))
        assert str(here / "photos") in (here / "labelled" / "config.json").read_text()
        assert "moved 8x8x1" in succeed(*resume("../labelled", "--data", "."))
        monkeypatch.chdir(here)
        assert read_config(here / "labelled").data.name == str(here / "moved")
        succeed("train", "--resume", "labelled", "--steps", 5, "--samples", 0)

    def test_another_place_is_checked(self, here: Path) -> None:
        put(here / "others" / "b", 20)
        put(here / "others" / "c", 3)
        for command in (resume("labelled", "--data", "others"), evaluate("labelled", "--data", "others")):
            assert "the data changed: 23 images instead of 22" in refused(*command)

    def test_the_folder_of_the_named_sets(self, here: Path) -> None:
        (here / "sets").mkdir()
        put(here / "cars", 22)
        (here / "sets" / "cars-128").mkdir()
        for path in (here / "cars").iterdir():
            Image.open(path).save(here / "sets" / "cars-128" / f"{path.stem}.jpg")
        options = ["--data", "stanford-cars", "--data-dir", "sets", *PLAIN]
        succeed("train", *options, "--steps", 2, "--out", "run")
        assert json.loads(Path("run/config.json").read_text())["data"]["data_dir"] == str(here / "sets")
        (here / "sets").rename(here / "new")
        for command in (resume("run"), evaluate("run")):
            assert "give their place by --data or --data-dir" in refused(*command)
        succeed(*evaluate("run", "--data-dir", "new"))
        succeed(*resume("run", "--data-dir", "new"))
        assert json.loads(Path("run/config.json").read_text())["data"]["data_dir"] == str(here / "new")


class TestOwnPictures:
    @pytest.mark.parametrize("out", [[], ["--out", "b/run"], ["--out", "../photos/run"]])
    def test_a_run_below_its_data_learns_none_of_its_pictures(
        self, here: Path, monkeypatch: pytest.MonkeyPatch, out: list[str]
    ) -> None:
        monkeypatch.chdir(here / "photos")
        options = ["train", "--data", ".", *CLASSES, "--steps", 2, "--samples", 1, "--sample-steps", 1]
        succeed(*options, *out)
        run = out[1] if out else "runs/photos"
        assert (here / "photos" / run / "samples.png").exists()
        succeed(*resume(run))
        succeed(*evaluate(run))
        second = invoke(*options, "--out", here / "second")
        assert second.exit_code == 0
        assert "warning: skipped 1 folder of training runs: " in second.stderr
        assert known_data(open_checkpoint(here / "second", NUMPY)) == known_data(open_checkpoint(run, NUMPY))

    def test_samples_are_not_put_among_the_images(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sample = ["-n", 1, "--steps", 2, "-o"]
        path = sorted((here / "labelled" / "checkpoints").iterdir())[-1]
        (here / "link").symlink_to(here / "photos")
        for run in ("labelled", path):
            for output in ("photos/grid.png", "photos/b/each", "link/grid.gif", "plain/../photos/x.png"):
                line = refused("sample", run, *sample, output)
                assert f"error: {output} would be among the training images in {here / 'photos'}; choose" in line
            succeed("sample", run, *sample, "grid.png")
        monkeypatch.chdir(here / "photos")
        assert "samples.png would be among" in refused("sample", "../labelled", *sample[:-1])
        shutil.copytree(here / "labelled", here / "photos" / "run")
        succeed("sample", "run", *sample, "run/grid.png")

    @pytest.mark.parametrize("out", ["photos", "b/../photos", "link"])
    def test_a_run_in_the_very_folder_is_refused(self, here: Path, out: str) -> None:
        (here / "b").mkdir()
        (here / "link").symlink_to(here / "photos")
        line = refused("train", "--data", "photos", *PLAIN, "--steps", 1, "--out", out)
        assert f"{out} is the folder of the images; choose another --out" in line


class TestClassNames:
    def test_they_are_shown_and_kept(self, here: Path) -> None:
        for folder in ("10", "9"):
            put(here / "numbers" / folder, 11)
        out = succeed("train", "--data", "numbers", *CLASSES, "--steps", 2, "--out", "run")
        assert out.splitlines()[1] == "classes: 0 9, 1 10"
        summary = known_data(open_checkpoint("run", NUMPY))
        assert summary is not None
        assert (summary.classes, summary.counts) == (("9", "10"), (11, 11))
        assert "classes:" not in succeed("train", "--data", "numbers", *PLAIN, "--steps", 2, "--out", "other")

    def test_sampling_by_name(self, here: Path) -> None:
        for label in ("b", "0", "c", "1"):
            result = invoke("sample", "labelled", "-n", 2, "--steps", 2, "--label", label, "-o", f"{label}.npy")
            assert (result.exit_code, result.stderr) == (0, "")
        images = {label: np.load(f"{label}.npy") for label in ("b", "0", "c", "1")}
        np.testing.assert_array_equal(images["b"], images["0"])
        np.testing.assert_array_equal(images["c"], images["1"])
        path = sorted((here / "labelled" / "checkpoints").iterdir())[-1]
        succeed("sample", path, "-n", 2, "--steps", 2, "--label", "c", "-o", "file.npy")
        np.testing.assert_array_equal(np.load("file.npy"), images["c"])
        line = refused("sample", "labelled", "-n", 1, "--steps", 2, "--label", "cat")
        assert "'cat' is not a label of this model; accepted: 0 … 1, or a name of b, c" in line
        line = refused("sample", "plain", "-n", 1, "--steps", 2, "--label", "b")
        assert "accepted: none (the model was trained without classes)" in line

    def test_a_grid_has_captions(self, here: Path) -> None:
        for run in ("labelled", "plain"):
            succeed("sample", run, "-n", 4, "--steps", 2, "-o", f"{run}.png")
        with Image.open("labelled.png") as labelled, Image.open("plain.png") as plain:
            assert labelled.width == plain.width
            assert labelled.height == plain.height + 2 * 16
        succeed("train", "--data", "photos", *CLASSES, "--steps", 2, "--samples", 4, "--sample-steps", 2, "--out", "r")
        with Image.open("r/samples.png") as picture:
            assert picture.height == plain.height + 2 * 16

    def test_an_exported_folder_keeps_them(self, here: Path) -> None:
        succeed("export", "labelled", "out")
        assert json.loads(Path("out/classes.json").read_text()) == ["b", "c"]
        succeed("export", "plain", "none")
        assert not Path("none/classes.json").exists()


def test_the_doctor_tells_of_what_was_skipped(here: Path) -> None:
    for number in range(4):
        (here / "photos" / "c" / f"broken{number}.png").write_bytes(b"no picture")
    Image.new("L", (8, 9), 7).save(here / "photos" / "b" / "tall.png")
    out = succeed("doctor", "--data", "photos", *CLASSES[: CLASSES.index("--samples")], "--image-size", 8, "--classes")
    assert "\nok   data photos: 21 images to train on\nok   classes: 0 b, 1 c\n" in out
    names = ", ".join(f"c/broken{number}.png" for number in range(4))
    assert f"\nWARN skipped 4 files that are not readable images: {names}\n" in out
    assert "\nWARN 1 of 21 images are not square: only their centre is used\n" in out
    assert out.endswith("some checks warn; see above\n")
