"""CIFAR-10's binary records, unpacked and in their archive."""

import io
import tarfile

import numpy as np
import pytest

from tinyddpm.data import cifar, load
from tinyddpm.errors import DamagedFileError, MissingDataError

COUNT = 4


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(cifar, "FILE_BYTES", COUNT * cifar.RECORD_BYTES)


@pytest.fixture
def no_download(monkeypatch):
    def fetch(name, split, place):
        raise MissingDataError(f"asked for {name} {split}, {place}")

    monkeypatch.setattr("tinyddpm.data.named.fetch", fetch)


def batch(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, COUNT, np.uint8)
    images = rng.integers(0, 256, (COUNT, 32, 32, 3), np.uint8)
    records = b"".join(
        bytes([label]) + b"".join(image[..., channel].tobytes() for channel in range(3))
        for label, image in zip(labels, images, strict=True)
    )
    return records, images, labels


ALL = {name: batch(i) for i, name in enumerate((*cifar.FILES["train"], *cifar.FILES["test"]))}


def expected(split):
    parts = [ALL[name] for name in cifar.FILES[split]]
    return np.concatenate([part[1] for part in parts]), np.concatenate([part[2] for part in parts])


def archive(contents, folder="cifar-10-batches-bin/"):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(folder + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return raw.getvalue()


def blobs():
    # In an order of its own: files are known by their names.
    return {name: ALL[name][0] for name in reversed(ALL)} | {"readme.html": b"<html>"}


def put_archive(root):
    (root / "cifar10").mkdir()
    (root / "cifar10" / cifar.ARCHIVE).write_bytes(archive(blobs()))


def put_unpacked(root):
    (root / "cifar10").mkdir()
    for name, content in blobs().items():
        (root / "cifar10" / name).write_bytes(content)


def put_unpacked_in_its_folder(root):
    folder = root / "cifar10" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name, content in blobs().items():
        (folder / name).write_bytes(content)


def put_archive_beside(root):
    (root / cifar.ARCHIVE).write_bytes(archive(blobs()))


def put_unpacked_beside(root):
    put_unpacked_in_its_folder(root)
    (root / "cifar10" / "cifar-10-batches-bin").rename(root / "cifar-10-batches-bin")


@pytest.mark.parametrize(
    "put", [put_archive, put_unpacked, put_unpacked_in_its_folder, put_archive_beside, put_unpacked_beside]
)
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.usefixtures("no_download")
def test_reads(tmp_path, put, split):
    put(tmp_path)
    dataset = load("cifar10", split=split, data_dir=tmp_path)
    images, labels = expected(split)
    np.testing.assert_array_equal(dataset.images, images)
    np.testing.assert_array_equal(dataset.labels, labels)
    assert dataset.labels.dtype == np.int64
    assert dataset.class_names[3] == "cat"
    assert dataset.num_classes == 10


def test_photographs_are_fitted_not_padded_even_when_grey(tmp_path):
    put_archive(tmp_path)
    for color, channels in ((None, 3), (True, 3), (False, 1)):
        dataset = load("cifar10", split="test", data_dir=tmp_path, image_size=36, color=color)
        assert dataset.images.shape == (COUNT, 36, 36, channels)
        # Noise reaches the edges; a padded image would be black there.
        assert dataset.images[:, 0].any()


def test_downloads_the_archive_if_there_is_none(tmp_path, monkeypatch):
    path = tmp_path / "fetched.tar.gz"
    path.write_bytes(archive(blobs()))
    asked = []
    monkeypatch.setattr("tinyddpm.data.named.fetch", lambda *arguments: asked.append(arguments) or [path])
    dataset = load("cifar10", data_dir=tmp_path)
    np.testing.assert_array_equal(dataset.images, expected("train")[0])
    monkeypatch.delenv("TINYDDPM_DATA", raising=False)
    load("cifar10", split="test")
    assert asked == [
        ("cifar10", "train", str(tmp_path / "cifar10")),
        ("cifar10", "test", "a folder cifar10 whose parent is given as data_dir or TINYDDPM_DATA"),
    ]


@pytest.mark.usefixtures("no_download")
def test_the_pickled_version_is_never_read(tmp_path):
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "data_batch_1").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(MissingDataError, match="asked for cifar10 train"):
        load("cifar10", data_dir=tmp_path)


@pytest.mark.usefixtures("no_download")
def test_some_files_missing(tmp_path):
    put_unpacked(tmp_path)
    (tmp_path / "cifar10" / "data_batch_3.bin").unlink()
    with pytest.raises(MissingDataError, match=r"has data_batch_1.bin but lacks data_batch_3.bin; add it"):
        load("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ALL["test_batch.bin"][0][:-1], "test_batch.bin has only 12,291 bytes; a CIFAR-10 batch has 12,292"),
        (ALL["test_batch.bin"][0] + b"\0", "test_batch.bin has more than 12,292 bytes"),
        (b"\x0a" + ALL["test_batch.bin"][0][1:], "has a label 10; CIFAR-10 has 0 … 9"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_broken_batch(tmp_path, content, message, packed):
    folder = tmp_path / "cifar10"
    folder.mkdir()
    if packed:
        (folder / cifar.ARCHIVE).write_bytes(archive({"test_batch.bin": content}))
        message = message.replace("test_batch.bin has", "test_batch.bin in .* has")
    else:
        (folder / "test_batch.bin").write_bytes(content)
    with pytest.raises(DamagedFileError, match=message):
        load("cifar10", split="test", data_dir=tmp_path)


def test_archive_that_is_none_or_is_cut_short(tmp_path):
    put_archive(tmp_path)
    path = tmp_path / "cifar10" / cifar.ARCHIVE
    sound = path.read_bytes()
    broken = [b"", b"<!DOCTYPE html>", sound[: len(sound) // 2], sound[:1000] + bytes(99) + sound[1099:]]
    for content in broken:
        path.write_bytes(content)
        with pytest.raises(DamagedFileError, match=r"cifar-10-binary.tar.gz .*again") as caught:
            load("cifar10", data_dir=tmp_path)
        assert "\n" not in str(caught.value)


def test_archive_of_something_else(tmp_path):
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / cifar.ARCHIVE).write_bytes(archive({"data_batch_1": b"a pickle"}))
    with pytest.raises(DamagedFileError, match=r"lacks test_batch.bin; fetch the binary version"):
        load("cifar10", split="test", data_dir=tmp_path)


def test_a_link_in_the_archive_is_not_followed(tmp_path):
    (tmp_path / "cifar10").mkdir()
    with tarfile.open(tmp_path / "cifar10" / cifar.ARCHIVE, "w:gz") as tar:
        member = tarfile.TarInfo("test_batch.bin")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(DamagedFileError, match=r"lacks test_batch.bin"):
        load("cifar10", split="test", data_dir=tmp_path)


def test_unreadable_file(tmp_path):
    with pytest.raises(DamagedFileError, match=r"cannot be read \(Is a directory\)"):
        cifar.read_files([tmp_path])


def test_true_sizes(monkeypatch):
    monkeypatch.undo()
    assert cifar.FILE_BYTES == 30_730_000
