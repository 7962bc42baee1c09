"""Many images into a .npz or a folder: what is written, what an interrupted drawing goes on with, what is refused."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tinyddpm import sudden_ends
from tests.tinyddpm.generation.test_images import checkpoint
from tests.tinyddpm.tiny_runs import QUICK, SIMPLE, UNET, UNET_OPTIONS, beside_notice, invoke, succeed, tree
from tinyddpm.errors import InputError
from tinyddpm.generation.images import Drawing, draw
from tinyddpm.generation.sample_file import load_samples
from tinyddpm.reporting.series import Series
from tinyddpm.samplers import DEFAULT_SAMPLER, SAMPLERS
from tinyddpm.training.run_folder import open_checkpoint

COUNT, BATCH = 10, 4


def drawn(output: Path, config: Any = SIMPLE, **more: Any) -> Series:
    """The series of ten images, done."""
    series = Series(output, Drawing(checkpoint(config), 2, seed=7), **{"count": COUNT, "batch_size": BATCH} | more)
    with series:
        series.draw()
    return series


class Stop(Exception):
    """Ends a drawing in a test."""


def stopped_after(output: Path, batches: int, **more: Any) -> None:
    """The same series, ended in the batch after these."""
    drawing = Drawing(checkpoint(SIMPLE), 2, **{"seed": 7} | more)
    series = Series(output, drawing, COUNT, BATCH)

    def stop(done: int, total: int) -> None:
        if done > 2 * batches:
            raise Stop

    with pytest.raises(Stop), series:
        series.draw(stop)


@pytest.mark.parametrize("config", [SIMPLE, UNET])
def test_the_file_holds_the_images_and_how_they_were_drawn(tmp_path: Path, config: Any) -> None:
    drawn(tmp_path / "out.npz", config)
    with np.load(tmp_path / "out.npz") as file:
        found = dict(file)
    images, _ = draw(checkpoint(config), COUNT, 2, seed=7, batch_size=BATCH)
    np.testing.assert_array_equal(found.pop("images"), images)
    assert images.dtype == np.uint8
    if config is UNET:
        assert found.pop("labels").tolist() == list(range(10))
    settings = json.loads(str(found.pop("settings")))
    labels = "no labels" if config is SIMPLE else "guidance 1"
    assert str(found.pop("about")) == f"step 0, {DEFAULT_SAMPLER}, 2 steps, {labels}, seed 7"
    assert (settings["count"], settings["steps"], settings["sampler"], int(found.pop("seed"))) == (
        COUNT,
        2,
        DEFAULT_SAMPLER,
        7,
    )
    assert found == {}
    assert set(tree(tmp_path)) == {"out.npz"}


def test_the_folder_holds_a_picture_of_each(tmp_path: Path) -> None:
    drawn(tmp_path / "new" / "out")
    images, _ = draw(checkpoint(SIMPLE), COUNT, 2, seed=7, batch_size=BATCH)
    assert set(tree(tmp_path / "new" / "out")) == {f"{i:05d}.png" for i in range(COUNT)}
    for i, image in enumerate(images):
        with Image.open(tmp_path / "new" / "out" / f"{i:05d}.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), image[..., 0])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_images_do_not_depend_on_the_size_of_the_batch(sampler: str) -> None:
    """But for the rounding of sums, which may move a pixel by one."""
    for config in (SIMPLE, UNET):
        source = checkpoint(config)
        whole, *others = (
            draw(source, 9, 3, sampler=sampler, seed=3, batch_size=size)[0].astype(int) for size in (9, 1, 4)
        )
        assert len({image.tobytes() for image in whole}) == 9
        for other in others:
            assert np.abs(whole - other).max() <= 1


@pytest.mark.parametrize("name", ["out.npz", "out"])
@pytest.mark.parametrize("batches", [1, 2])
def test_what_was_interrupted_goes_on(tmp_path: Path, name: str, batches: int) -> None:
    """With the batches that are missing alone, to the same files."""
    drawn(tmp_path / "whole" / name)
    output, seen = tmp_path / "parts" / name, []
    output.parent.mkdir()
    stopped_after(output, batches)
    assert not output.is_file()
    assert not list(output.glob("*.png"))
    states = Drawing.states
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Drawing, "states", lambda self, *which: seen.append(which) or states(self, *which))
        drawn(output)
    assert seen == [(0, 4), (4, 4), (8, 2)][batches:]
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")


def test_a_part_that_is_damaged_is_drawn_again(tmp_path: Path) -> None:
    drawn(tmp_path / "whole" / "out.npz")
    output = tmp_path / "parts" / "out.npz"
    stopped_after(output, 2)
    (output.parent / ".out.npz.parts" / "00000004.npy").write_bytes(b"\x93NUMPY")
    drawn(output)
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")


def test_before_the_first_batch_nothing_is_left(tmp_path: Path) -> None:
    for name in ("out.npz", "out"):
        stopped_after(tmp_path / name, 0)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("name", ["out.npz", "out"])
@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"seed": 8}, "seed 8, not 7"),
        ({"clip": False}, "clip False, not None"),
        ({"unlabelled": True}, "unlabelled True, not False"),
        ({"sampler": "ddim"}, f"sampler ddim, not {DEFAULT_SAMPLER}"),
    ],
)
def test_other_settings_are_refused_in_one_line(tmp_path: Path, name: str, more: dict[str, Any], words: str) -> None:
    stopped_after(tmp_path / name, 1, **more)
    before = tree(tmp_path)
    with pytest.raises(InputError, match=rf"is unfinished and of other settings: it was begun with {words}; go on "):
        drawn(tmp_path / name)
    assert tree(tmp_path) == before
    drawn(tmp_path / name, overwrite=True)
    found = tree(tmp_path)
    drawn(tmp_path / "whole" / name)
    assert found == tree(tmp_path / "whole")


@pytest.mark.parametrize("more", [{"count": 11}, {"batch_size": 5}])
def test_so_are_another_number_and_another_batch(tmp_path: Path, more: dict[str, int]) -> None:
    stopped_after(tmp_path / "out.npz", 1)
    with pytest.raises(InputError, match=r"it was begun with (count 10, not 11|batch-size 4, not 5); go on"):
        drawn(tmp_path / "out.npz", **more)


def test_another_checkpoint_is_refused(tmp_path: Path) -> None:
    stopped_after(tmp_path / "out", 1)
    source = checkpoint(SIMPLE)
    source.sampling_model().params[3] += 1e-3
    with pytest.raises(InputError, match=r"it was begun with checkpoint [0-9a-f]{12}, not [0-9a-f]{12}; go on"):
        Series(tmp_path / "out", Drawing(source, 2, seed=7), COUNT, BATCH).__enter__()


def test_a_finished_file_stays_unless_told_otherwise(tmp_path: Path) -> None:
    drawn(tmp_path / "out.npz")
    (tmp_path / "out.npz").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"out\.npz is there already; give another name, or --overwrite"):
        drawn(tmp_path / "out.npz")
    assert tree(tmp_path) == {"out.npz": b"mine"}
    drawn(tmp_path / "out.npz", overwrite=True)
    assert (tmp_path / "out.npz").stat().st_size > 4


# The command

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("series") / "run"
    succeed("train", *UNET_OPTIONS, *QUICK, "--steps", 2, "--out", folder)
    return folder


def command(run: Path, output: Path, *more: object) -> list[str]:
    options = ("--backend", "numpy", "-n", COUNT, "--batch-size", BATCH, "--steps", 2, "-o", output, *more)
    return [str(word) for word in ("sample", run, *options)]


@pytest.fixture(scope="module")
def whole(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the file and the folder that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("out.npz", "out"):
        succeed(*command(run, folder / name))
    return folder


@needs_signals
@pytest.mark.parametrize("call", range(1, 46, 4))
@pytest.mark.parametrize("name", ["out.npz", "out"])
def test_killed_anywhere_it_goes_on(
    run: Path, whole: Path, tmp_path: Path, fork: Callable[..., Any], name: str, call: int
) -> None:
    """In front of a step, or of anything that changes the disk; and a second time further on."""
    home = tmp_path / "home"
    output = home / name
    for again in (call, call + 2):
        process = fork(sudden_ends.sample_and_die, command(run, output), tmp_path / "out", tmp_path / "err", again)
        process.join(60)
        # Killed where all was done already, it finds the result finished
        told = (tmp_path / "err").read_text()
        assert process.exitcode in (-signal.SIGKILL, 0) or "already" in told
        if output.is_file():
            assert output.read_bytes() == (whole / name).read_bytes()
        if process.exitcode != -signal.SIGKILL:
            break
    else:
        result = invoke(*command(run, output))
        assert result.exit_code == 0 or "already" in result.stderr
    found = {path: content for path, content in tree(home).items() if not path.endswith(".lock")}
    expected = {path: content for path, content in tree(whole).items() if path.split("/")[0] == name}
    assert found == expected


@needs_signals
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_tells_how_to_go_on(
    run: Path, whole: Path, tmp_path: Path, fork: Callable[..., Any], number: int
) -> None:
    output = tmp_path / "home" / "out.npz"
    process = fork(sudden_ends.sample_and_get, command(run, output), tmp_path / "out", tmp_path / "err", number)
    process.join(60)
    assert process.exitcode == 130
    line = (tmp_path / "err").read_text().strip()
    assert line == "error: interrupted; 8 of 10 images are kept, the same command goes on"
    assert succeed(*command(run, output)) == f"going on after 8 of 10 images\nwrote {output}\n"
    assert output.read_bytes() == (whole / "out.npz").read_bytes()


def test_labels_and_options_reach_the_file(run: Path, tmp_path: Path) -> None:
    succeed(*command(run, tmp_path / "out.npz", "--label", 3, "--guidance", 2, "--sampler", "ddim"))
    with np.load(tmp_path / "out.npz") as file:
        settings = json.loads(str(file["settings"]))
        assert file["labels"].tolist() == [3] * COUNT
    assert (settings["label"], settings["guidance"], settings["sampler"]) == (3, 2.0, "ddim")


def test_without_labels_the_file_has_none_and_says_so(run: Path, tmp_path: Path) -> None:
    succeed(*command(run, tmp_path / "out.npz", "--no-labels"))
    found = load_samples(tmp_path / "out.npz")
    assert found.labels is None
    assert found.about == f"step 2, {DEFAULT_SAMPLER}, 2 steps, no labels, seed 0"
    with np.load(tmp_path / "out.npz") as file:
        assert json.loads(str(file["settings"]))["unlabelled"] is True
    images, _ = draw(open_checkpoint(run), COUNT, 2, unlabelled=True, batch_size=BATCH)
    assert np.abs(found.images.astype(int) - images).max() <= 1


def test_a_batch_of_none_is_refused(run: Path, tmp_path: Path) -> None:
    for size in (0, -1):
        result = invoke(*command(run, tmp_path / "out.npz", "--batch-size", size))
        assert result.exit_code == 2
        words = f"error: --batch-size must be a whole number of at least 1, got {size}\n"
        assert beside_notice(result.stderr) == words
    assert tree(tmp_path) == {}
