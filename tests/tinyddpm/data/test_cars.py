"""Stanford Cars: images, index, class names, and the split."""

import os

import numpy as np
import pytest
from PIL import Image

from tinyddpm.data import load
from tinyddpm.errors import DamagedFileError, InputError, MissingDataError

COLOURS = [(255, 0, 0), (0, 0, 255)]


@pytest.fixture
def root(tmp_path):
    """22 images with gaps in their numbers; image i is red (class 1) or blue (class 3) by turns."""
    (tmp_path / "cars-128").mkdir()
    rows = ["file,class_id,source_width,source_height"]
    for i in range(22):
        name = f"{3 * i + 1:05}.jpg"
        Image.new("RGB", (16, 16), COLOURS[i % 2]).save(tmp_path / "cars-128" / name)
        rows.append(f"{name},{1 if i % 2 == 0 else 3},300,200")
    (tmp_path / "cars-128-index.csv").write_text("\n".join(rows[:1] + rows[:0:-1]) + "\n")
    (tmp_path / "cars-128-classes.txt").write_text("Red Car 2001\nGreen Car 2002\nBlue Car 2003\n")
    return tmp_path


def test_images_labels_and_split(root):
    train, test = load("stanford-cars", data_dir=root), load("stanford-cars", split="test", data_dir=root)
    assert train.images.shape == (20, 16, 16, 3)
    assert test.images.shape == (2, 16, 16, 3)
    # The 10th and the 20th image are blue.
    assert test.labels.tolist() == [2, 2]
    assert train.labels.tolist() == [2 * (i % 2) for i in range(22) if i not in (9, 19)]
    assert train.class_names == ("Red Car 2001", "Green Car 2002", "Blue Car 2003")
    assert (train.num_classes, train.name, train.notes) == (3, "stanford-cars", ())
    reds = train.images[train.labels == 0].mean(axis=(0, 1, 2))
    assert reds[0] > 240
    assert reds[2] < 15


def test_size_and_colour(root):
    assert load("stanford-cars", data_dir=root, image_size=8).images.shape == (20, 8, 8, 3)
    assert load("stanford-cars", data_dir=root, color=False).images.shape == (20, 16, 16, 1)
    padded = load("stanford-cars", data_dir=root, image_size=20, resize="pad").images
    assert not padded[:, :2].any()
    assert load("stanford-cars", data_dir=root, image_size=20).images[:, :2].any()


def test_sizes_must_agree_or_be_given(root):
    Image.new("RGB", (20, 16)).save(root / "cars-128" / "00001.jpg")
    with pytest.raises(InputError, match="give image_size"):
        load("stanford-cars", data_dir=root)


def test_grey_photographs_are_coloured_like_the_others(root):
    for path in (root / "cars-128").glob("*.jpg"):
        Image.new("L", (16, 16), 99).save(path)
    assert load("stanford-cars", data_dir=root).images.shape[-1] == 3


def test_broken_and_hidden_files(root):
    (root / "cars-128" / "00004.jpg").write_bytes(b"broken")
    (root / "cars-128" / ".00005.jpg").write_bytes(b"left alone")
    dataset = load("stanford-cars", data_dir=root)
    assert len(dataset) == 19
    assert dataset.labels[:3].tolist() == [0, 0, 2]
    assert dataset.notes == ("skipped 1 file that is not a readable image: 00004.jpg",)


def test_without_index(root):
    (root / "cars-128-index.csv").unlink()
    dataset = load("stanford-cars", data_dir=root)
    assert (dataset.labels, dataset.class_names, dataset.num_classes) == (None, None, None)
    assert dataset.notes == (f"no class labels: {root / 'cars-128-index.csv'} is not there",)


def test_without_names(root):
    (root / "cars-128-classes.txt").unlink()
    assert load("stanford-cars", data_dir=root).class_names == ("1", "2", "3")


def test_an_index_saved_by_a_spreadsheet(root):
    path = root / "cars-128-index.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert load("stanford-cars", data_dir=root).labels[:2].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"", "lacks the column file or class_id, it has \\[\\]"),
        (b"file,class\n1.jpg,1\n", "it has \\['file', 'class'\\]"),
        (b"file,class_id\n", "lists no files"),
        (b"file,class_id\n00001.jpg,0\n", "line 2: class_id is '0'; it must be 1 or more"),
        (b"file,class_id\n00001.jpg\n", "line 2: class_id is None"),
        (b"file,class_id\n00001.jpg,two\n", "class_id is 'two'"),
        (b"file,class_id\n00001.jpg,4\n", "names 3 classes but the index uses class 4"),
        (b"file,class_id\n00001.jpg,1\n", r"gives no class for 19 images: 00004\.jpg, .* and 14 more"),
        (b"file,class_id\n\xff\xfe,1\n", "cannot be read as CSV"),
    ],
)
def test_broken_index(root, index, message):
    (root / "cars-128-index.csv").write_bytes(index)
    with pytest.raises(DamagedFileError, match=message) as caught:
        load("stanford-cars", data_dir=root)
    assert "\n" not in str(caught.value)


def test_broken_names(root):
    (root / "cars-128-classes.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DamagedFileError, match=r"cars-128-classes\.txt cannot be read"):
        load("stanford-cars", data_dir=root)


def test_not_there(tmp_path, monkeypatch):
    with pytest.raises(MissingDataError, match=r"cars-128 has no readable \.jpg file; its licence") as caught:
        load("stanford-cars", data_dir=tmp_path)
    assert f"put them as .jpg files into {tmp_path / 'cars-128'}" in str(caught.value)
    monkeypatch.delenv("TINYDDPM_DATA", raising=False)
    with pytest.raises(MissingDataError, match=r"no data folder was given; .*name its parent by data_dir"):
        load("stanford-cars")


def test_channels_are_not_exchanged(root):
    dataset = load("stanford-cars", split="test", data_dir=root)
    assert np.argmax(dataset.images.mean(axis=(0, 1, 2))) == 2


def test_the_summary_is_of_all_files_and_classes(root):
    train, test = load("stanford-cars", data_dir=root), load("stanford-cars", split="test", data_dir=root)
    assert train.summary == test.summary
    assert (train.summary.images, train.summary.classes, train.summary.counts) == (22, train.class_names, (11, 0, 11))
    (root / "cars-128-index.csv").unlink()
    assert train.summary.change(load("stanford-cars", data_dir=root).summary) == "there are no classes any more"


def test_a_folder_with_the_name_of_an_image(root):
    (root / "cars-128" / "00002.jpg").mkdir()
    assert load("stanford-cars", data_dir=root).notes == ("skipped 1 file that is not a readable image: 00002.jpg",)


def test_photographs_that_are_not_square_are_counted(root):
    Image.new("RGB", (20, 16)).save(root / "cars-128" / "00001.jpg")
    note = "1 of 20 images are not square: only their centre is used"
    assert load("stanford-cars", data_dir=root, image_size=16).notes == (note,)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_in_place_of_the_index_or_the_names_is_not_opened(root):
    (root / "cars-128-classes.txt").unlink()
    os.mkfifo(root / "cars-128-classes.txt")
    assert load("stanford-cars", data_dir=root).class_names == ("1", "2", "3")
    (root / "cars-128-index.csv").unlink()
    os.mkfifo(root / "cars-128-index.csv")
    with pytest.raises(DamagedFileError, match=r"cars-128-index\.csv is no regular file; fetch it again"):
        load("stanford-cars", data_dir=root)
