"""Files in a folder that are no images for training: damaged, of other kinds, pipes, the pictures of runs."""

import io
import os
import signal
import socket

import numpy as np
import pytest
from PIL import Image

from tinyddpm.data import load
from tinyddpm.errors import InputError, MissingDataError


def save(path, value=100, size=(6, 4), mode="L", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path, **options)
    return path


def broken_png(path):
    """A header that opens, pixels that do not decode."""
    raw = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6), np.uint8)).save(raw, "png")
    path.write_bytes(raw.getvalue()[:60])


def test_other_files_are_skipped_and_counted(tmp_path):
    save(tmp_path / "good.png")
    (tmp_path / "a.txt").write_text("notes")
    (tmp_path / "b.png").write_bytes(b"not a png")
    broken_png(tmp_path / "c.png")
    (tmp_path / ".hidden.png").write_bytes(b"left alone")
    save(tmp_path / ".thumbnails" / "good.png")
    dataset = load(tmp_path)
    assert len(dataset) == 1
    assert dataset.notes == ("skipped 3 files that are not readable images: a.txt, b.png, c.png",)


def test_one_skipped_file_and_many(tmp_path):
    save(tmp_path / "good.png")
    (tmp_path / "0.txt").touch()
    assert load(tmp_path).notes == ("skipped 1 file that is not a readable image: 0.txt",)
    for i in range(1, 8):
        (tmp_path / f"{i}.txt").touch()
    assert load(tmp_path).notes[0].endswith(": 0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 3 more")


def test_images_and_labels_stay_together_past_a_broken_file(tmp_path):
    for i, name in enumerate(("a/0.png", "a/2.png", "b/0.png", "b/1.png")):
        save(tmp_path / name, 10 * i)
    broken_png(tmp_path / "a" / "1.png")
    dataset = load(tmp_path)
    assert dataset.images[:, 0, 0, 0].tolist() == [0, 10, 20, 30]
    assert dataset.labels.tolist() == [0, 0, 1, 1]
    assert dataset.notes == ("skipped 1 file that is not a readable image: a/1.png",)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp"])
def test_any_damage_to_a_file_is_survived(tmp_path, suffix):
    save(tmp_path / "good.png", size=(16, 16))
    rng = np.random.default_rng(0)
    raw = io.BytesIO()
    noise = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
    noise.save(raw, {"jpg": "jpeg"}.get(suffix, suffix))
    # Fewer than 20 files, so that none is set aside for testing.
    for i in range(18):
        content = bytearray(raw.getvalue())
        content[rng.integers(len(content))] ^= 1 + rng.integers(255)
        (tmp_path / f"{i}.{suffix}").write_bytes(content[: rng.integers(len(content) // 4, 2 * len(content))])
    dataset = load(tmp_path, image_size=8)
    skipped = int(dataset.notes[0].split()[1])
    assert skipped > 0
    assert len(dataset) + skipped == 19


def test_a_false_name_does_not_open_other_formats(tmp_path):
    save(tmp_path / "good.png")
    Image.new("L", (6, 4)).save(tmp_path / "a.png", "tiff")
    Image.new("L", (6, 4)).save(tmp_path / "b.png", "jpeg")
    dataset = load(tmp_path)
    assert len(dataset) == 2
    assert dataset.notes == ("skipped 1 file that is not a readable image: a.png",)


def test_nothing_readable(tmp_path):
    with pytest.raises(MissingDataError, match=r"has no readable image; put images into it: png, jpg"):
        load(tmp_path)
    (tmp_path / "a.txt").touch()
    with pytest.raises(MissingDataError, match=r"\(skipped 1 file that is not a readable image: a\.txt\)"):
        load(tmp_path)
    (tmp_path / "a.txt").unlink()
    broken_png(tmp_path / "c.png")
    with pytest.raises(MissingDataError, match=r"has no readable image \(skipped 1 file .*: c\.png\)"):
        load(tmp_path)


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    save(tmp_path / "a.png")
    save(tmp_path / "locked" / "b.png")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    dataset = load(tmp_path)
    assert len(dataset) == 1
    assert dataset.notes == ("skipped 1 folder that cannot be read: locked",)


def test_names_that_are_not_utf8_can_be_shown(tmp_path):
    try:
        save(tmp_path / os.fsdecode(b"caf\xe9") / "a.png")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    save(tmp_path / "tea" / "a.png")
    (tmp_path / os.fsdecode(b"\xff.txt")).touch()
    dataset = load(tmp_path)
    assert dataset.class_names == ("caf?", "tea")
    assert dataset.labels.tolist() == [0, 1]
    assert dataset.notes == ("skipped 1 file that is not a readable image: ?.txt",)


@pytest.mark.filterwarnings("error")
def test_odd_exif_data_is_no_warning(tmp_path):
    save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12", size=(8, 8))
    assert len(load(tmp_path)) == 1


@pytest.fixture
def no_waiting():
    """A test that waits for a pipe's writer fails after a while."""

    def give_up(*_):
        raise TimeoutError("a pipe was opened")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_pipes_sockets_and_devices_are_not_opened(tmp_path, monkeypatch):
    save(tmp_path / "good.png")
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    assert load(tmp_path).notes == (
        "skipped 1 file that is not a readable image: pipe",
        "skipped 1 pipe, socket or device: pipe.png",
    )
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket.jpg")
    (tmp_path / "device.gif").symlink_to("/dev/zero")
    (tmp_path / "link.png").symlink_to("pipe.png")
    assert load(".").notes[1] == "skipped 4 pipes, sockets or devices: device.gif, link.png, pipe.png, socket.jpg"


def test_a_picture_above_the_limit_of_pillow_is_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    save(tmp_path / "good.png")
    save(tmp_path / "huge.png", size=(10, 11))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    assert load(tmp_path).notes == (
        "skipped 1 file that is not a readable image: bad.png",
        "skipped 1 picture of more than 100 pixels: huge.png",
    )
    save(tmp_path / "vast.png", size=(11, 11))
    assert load(tmp_path).notes[1] == "skipped 2 pictures of more than 100 pixels: huge.png, vast.png"
    (tmp_path / "good.png").unlink()
    with pytest.raises(MissingDataError, match=r"skipped 2 pictures of more than 100 pixels: huge\.png, vast\.png"):
        load(tmp_path)


@pytest.mark.filterwarnings("error")
def test_a_picture_within_twice_the_limit_is_loaded_without_a_word(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    save(tmp_path / "large.png", size=(9, 9))
    dataset = load(tmp_path)
    assert (len(dataset), dataset.notes) == (1, ())


def make_run(folder, *content):
    save(folder / "samples.png")
    for name in content:
        (folder / name).mkdir() if name == "checkpoints" else (folder / name).write_text("{}")


@pytest.mark.parametrize(
    "content", [("config.json", "checkpoints"), ("metrics.jsonl", "checkpoints"), ("config.json", "metrics.jsonl")]
)
def test_the_folder_of_a_run_is_left_out(tmp_path, content):
    root = tmp_path / "root"
    for name in ("a/1.png", "b/1.png"):
        save(root / name)
    before = load(root)
    make_run(root / "runs" / "old", *content)
    make_run(root / "a" / "run", *content)
    make_run(tmp_path / "outside", *content)
    (root / "link").symlink_to(tmp_path / "outside")
    dataset = load(root)
    assert dataset.notes == ("skipped 3 folders of training runs: a/run, link, runs/old",)
    assert (len(dataset), dataset.class_names) == (2, ("a", "b"))
    assert dataset.summary == before.summary


@pytest.mark.parametrize("way", [".", "../run", "../link", "sub/.."])
def test_the_folder_of_a_run_is_no_data(tmp_path, monkeypatch, way):
    make_run(tmp_path / "run", "config.json", "checkpoints")
    (tmp_path / "run" / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    with pytest.raises(InputError, match="is the folder of a training run, whose own pictures are no training data"):
        load(way)


def test_a_folder_with_one_such_name_is_no_run(tmp_path):
    make_run(tmp_path, "config.json")
    assert len(load(tmp_path)) == 1
