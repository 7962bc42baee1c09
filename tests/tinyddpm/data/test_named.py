"""load: digits, the IDX sets, where files are looked for, and what it says to wrong arguments."""

import gzip
import struct
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tinyddpm.data import NAMES, load, named
from tinyddpm.errors import DamagedFileError, InputError, MissingDataError

COUNT = 6
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 28, 28), np.uint8)
LABELS = np.array([3, 0, 9, 1, 1, 2], np.uint8)


def idx(values):
    return struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def small_sets(monkeypatch):
    """Expect six images instead of 60,000."""
    for name, spec in named._IDX_SETS.items():
        small = replace(spec, counts=dict.fromkeys(spec.counts, COUNT))
        monkeypatch.setitem(named._IDX_SETS, name, small)


@pytest.fixture(autouse=True)
def fetched(monkeypatch):
    """No test here downloads; the calls are recorded."""
    calls = []

    def fetch(*arguments):
        calls.append(arguments)
        raise MissingDataError("no network")

    monkeypatch.setattr(named, "fetch", fetch)
    monkeypatch.delenv("TINYDDPM_DATA", raising=False)
    return calls


def put(root, name="mnist", stem="train", images=None, labels=None, packed=True):
    folder = root / name
    folder.mkdir(exist_ok=True)
    for file, values in (
        (f"{stem}-images-idx3-ubyte", PIXELS if images is None else images),
        (f"{stem}-labels-idx1-ubyte", LABELS if labels is None else labels),
    ):
        path = folder / (file + ".gz" if packed else file)
        path.write_bytes(gzip.compress(idx(values)) if packed else idx(values))


def test_digits():
    bunch = load_digits()
    train, test = load("digits"), load("digits", split="test")
    assert train.images.shape == (1541, 8, 8, 1)
    assert test.images.shape == (256, 8, 8, 1)
    assert (train.images.min(), train.images.max()) == (0, 255)
    # The two splits, put back together, are the whole set, in order.
    where = np.arange(1797) % 7 == 6
    whole = np.empty((1797, 8, 8, 1), np.uint8)
    whole[where], whole[~where] = test.images, train.images
    np.testing.assert_array_equal(np.rint(whole[..., 0] * (16 / 255)), bunch.images)
    np.testing.assert_array_equal(test.labels, bunch.target[where])
    np.testing.assert_array_equal(train.labels, bunch.target[~where])
    for dataset in (train, test):
        assert dataset.name == "digits"
        assert dataset.class_names == tuple("0123456789")
        assert dataset.labels.dtype == np.int64
        assert dataset.notes == ()
        # Every class is there in fair share.
        assert np.bincount(dataset.labels).min() > 0.07 * len(dataset)


def test_digits_never_look_for_files():
    assert len(load("digits", data_dir="/nowhere")) == 1541


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.usefixtures("small_sets")
def test_idx_sets(tmp_path, name, packed):
    put(tmp_path, name, packed=packed)
    put(tmp_path, name, "t10k", images=PIXELS[::-1], labels=LABELS[::-1], packed=packed)
    train = load(name, data_dir=tmp_path)
    test = load(name, split="test", data_dir=str(tmp_path))
    np.testing.assert_array_equal(train.images[..., 0], PIXELS)
    np.testing.assert_array_equal(test.images[..., 0], PIXELS[::-1])
    np.testing.assert_array_equal(train.labels, LABELS)
    np.testing.assert_array_equal(test.labels, LABELS[::-1])
    assert train.class_names[9] == {"mnist": "9", "fashion-mnist": "Ankle boot"}[name]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
@pytest.mark.usefixtures("small_sets")
def test_as_torchvision_lays_it_out(tmp_path, fetched, name, folder, packed):
    (tmp_path / folder).mkdir()
    put(tmp_path / folder, "raw", packed=packed)
    np.testing.assert_array_equal(load(name, data_dir=tmp_path).images[..., 0], PIXELS)
    assert fetched == []
    # Our own layout goes before.
    put(tmp_path, name, images=PIXELS[::-1])
    np.testing.assert_array_equal(load(name, data_dir=tmp_path).images[..., 0], PIXELS[::-1])
    with pytest.raises(MissingDataError, match="no network"):
        load(name, split="test", data_dir=tmp_path)
    put(tmp_path / folder, "raw", "t10k", packed=packed)
    (tmp_path / folder / "raw" / ("t10k-labels-idx1-ubyte" + ".gz" * packed)).unlink()
    with pytest.raises(MissingDataError, match=rf"{folder}/raw has t10k-images.* but lacks t10k-labels-idx1-ubyte\.gz"):
        load(name, split="test", data_dir=tmp_path)


def test_absolute_places(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path / "a")
    monkeypatch.setenv("HOME", str(tmp_path))
    here = str(tmp_path / "a")
    assert [named.absolute(place) for place in (".", "", here, "~/a", "../a", "../link")] == [here] * 6
    # A link stays one: it may be made to point elsewhere.
    assert named.absolute(str(tmp_path / "link")) == str(tmp_path / "link")
    assert named.absolute("mnist") == f"{here}/mnist"


@pytest.mark.usefixtures("small_sets")
def test_the_environment_names_the_folder_and_the_argument_goes_before(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, pixels in ((first, PIXELS), (second, PIXELS[::-1])):
        folder.mkdir()
        put(folder, images=pixels)
    monkeypatch.setenv("TINYDDPM_DATA", str(first))
    np.testing.assert_array_equal(load("mnist").images[..., 0], PIXELS)
    np.testing.assert_array_equal(load("mnist", data_dir=second).images[..., 0], PIXELS[::-1])


def test_a_set_that_is_nowhere_is_fetched(tmp_path, monkeypatch, fetched):
    with pytest.raises(MissingDataError):
        load("mnist", data_dir=tmp_path)
    monkeypatch.setenv("TINYDDPM_DATA", "")
    with pytest.raises(MissingDataError):
        load("fashion-mnist", split="test")
    assert fetched == [
        ("mnist", "train", str(tmp_path / "mnist")),
        (
            "fashion-mnist",
            "test",
            "a folder fashion-mnist whose parent is given as data_dir or TINYDDPM_DATA",
        ),
    ]


@pytest.mark.usefixtures("small_sets")
def test_a_fetched_set_is_read(tmp_path, monkeypatch):
    put(tmp_path)
    paths = [tmp_path / "mnist" / f"train-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
    monkeypatch.setattr(named, "fetch", lambda *_: paths)
    np.testing.assert_array_equal(load("mnist").labels, LABELS)


@pytest.mark.parametrize("setting", ["argument", "environment"])
def test_a_data_folder_that_is_not_there(tmp_path, monkeypatch, setting):
    missing = tmp_path / "typo"
    arguments = {"data_dir": missing} if setting == "argument" else {}
    if setting == "environment":
        monkeypatch.setenv("TINYDDPM_DATA", str(missing))
    source = {"argument": "data_dir", "environment": "TINYDDPM_DATA"}[setting]
    for name in ("mnist", "cifar10", "stanford-cars"):
        with pytest.raises(MissingDataError, match=f"^{source} is .*typo', which is not a folder"):
            load(name, **arguments)


@pytest.mark.usefixtures("small_sets")
def test_half_a_set_is_not_completed_from_elsewhere(tmp_path, fetched):
    put(tmp_path)
    (tmp_path / "mnist" / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(MissingDataError, match=r"lacks train-labels-idx1-ubyte\.gz; add it"):
        load("mnist", data_dir=tmp_path)
    assert fetched == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"images": PIXELS[:5]}, r"train-images-idx3-ubyte\.gz holds 5 x 28 x 28 .* 6 x 28 x 28"),
        ({"labels": LABELS[:5]}, r"train-labels-idx1-ubyte\.gz holds 5 bytes where this set has 6"),
        ({"images": PIXELS[:, :14]}, "holds 6 x 14 x 28"),
        ({"images": LABELS}, "begins with 00 00 08 01"),
        ({"labels": LABELS + 1}, "has a label 10; mnist has labels 0 … 9"),
    ],
)
@pytest.mark.usefixtures("small_sets")
def test_files_that_are_something_else(tmp_path, wrong, message):
    put(tmp_path, **wrong)
    with pytest.raises(DamagedFileError, match=message):
        load("mnist", data_dir=tmp_path)


def test_the_counts_are_the_official_ones(tmp_path):
    put(tmp_path)
    with pytest.raises(DamagedFileError, match="holds 6 x 28 x 28 bytes where this set has 60,000 x 28 x 28"):
        load("mnist", data_dir=tmp_path)


@pytest.mark.usefixtures("small_sets")
@pytest.mark.parametrize(
    ("size", "resize", "padded"),
    [
        (32, "auto", True),
        (36, "auto", True),
        (37, "auto", False),
        (16, "auto", False),
        (32, "fit", False),
        (40, "pad", True),
    ],
)
def test_resizing_of_grey_sets(tmp_path, size, resize, padded):
    put(tmp_path, images=np.maximum(PIXELS, 1))
    images = load("mnist", data_dir=tmp_path, image_size=size, resize=resize).images
    assert images.shape == (COUNT, size, size, 1)
    if padded:
        top = (size - 28) // 2
        np.testing.assert_array_equal(images[:, top : top + 28, top : top + 28, 0], np.maximum(PIXELS, 1))
        assert np.count_nonzero(images) == PIXELS.size
    else:
        assert images[:, 0].any()


@pytest.mark.usefixtures("small_sets")
def test_colour_of_grey_sets(tmp_path):
    put(tmp_path)
    assert load("mnist", data_dir=tmp_path, color=False).images.shape[-1] == 1
    colour = load("mnist", data_dir=tmp_path, color=True, image_size=32).images
    assert colour.shape == (COUNT, 32, 32, 3)
    for channel in range(3):
        np.testing.assert_array_equal(colour[:, 2:30, 2:30, channel], PIXELS)


def test_pad_cannot_shrink():
    with pytest.raises(InputError, match=r"image of 8x8 .* cannot be padded to image_size=4"):
        load("digits", image_size=4, resize="pad")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "valid"}, 'split is \'valid\'; give "train" or "test"'),
        ({"resize": "crop"}, "resize is 'crop'"),
        ({"color": "rgb"}, "color is 'rgb'"),
        ({"color": 1}, "color is 1"),
        ({"image_size": 0}, "image_size must be a whole number of at least 1 .*, got 0"),
        ({"image_size": 2.5}, "image_size must .*, got 2.5"),
        ({"image_size": (32, 32, 3)}, r"image_size must .*, got \(32, 32, 3\)"),
        ({"image_size": (32, 0)}, "image_size must be a whole number of at least 1 .*, got 0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        load("digits", **arguments)


def test_unknown_names(tmp_path):
    with pytest.raises(MissingDataError, match=r"no folder 'minst' \(did you mean mnist\?\)"):
        load("minst")
    with pytest.raises(MissingDataError, match="did you mean mnist"):
        load("MNIST")
    with pytest.raises(MissingDataError, match=f"give one of {', '.join(NAMES)}"):
        load(tmp_path / "pictures")
    with pytest.raises(MissingDataError, match="no folder ''"):
        load("")
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.png is a file; give a folder"):
        load(tmp_path / "a.png")
    with pytest.raises(MissingDataError, match="no folder '~no-such-user/x'"):
        load("~no-such-user/x")


def test_a_name_goes_before_a_folder_and_home_is_understood(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    Image.new("L", (3, 3)).save(tmp_path / "digits" / "a.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert len(load("digits")) == 1541
    assert len(load("./digits")) == 1
    assert load("~/digits").name == "~/digits"
