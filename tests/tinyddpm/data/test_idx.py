"""The IDX reader: sound files packed and unpacked, and every way a file can be broken."""

import gzip
import struct

import numpy as np
import pytest

from tinyddpm.data.idx import read_idx
from tinyddpm.errors import DamagedFileError

SHAPE = (5, 3, 2)
VALUES = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
SOUND = struct.pack(">4B3I", 0, 0, 8, 3, *SHAPE) + VALUES.tobytes()


@pytest.fixture
def write(tmp_path):
    def write(content, name="images"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def test_reads_unpacked_and_packed(write):
    for path in (write(SOUND), write(gzip.compress(SOUND), "images.gz")):
        values = read_idx(path, SHAPE)
        np.testing.assert_array_equal(values, VALUES)
        assert values.dtype == np.uint8
        assert values.flags.writeable


def test_reads_labels(write):
    content = bytes.fromhex("00000801 00000003 07 00 09")
    assert read_idx(write(content), (3,)).tolist() == [7, 0, 9]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with nothing where an IDX file of 3 dimensions begins with 00 00 08 03"),
        (b"<!DOCTYPE html>", "begins with 3c 21 44 4f"),
        (b"\0\0\x08\x01" + SOUND[4:], "begins with 00 00 08 01"),
        (SOUND[:9], "cut short within its header"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 4, 3, 2) + SOUND[16:-6], "holds 4 x 3 x 2 .* has 5 x 3 x 2"),
        (SOUND[:-1], "cut short: 29 of 30 bytes"),
        (SOUND + b"\0", "too long: more than 30 bytes"),
    ],
)
def test_broken_content(write, content, message, packed):
    path = write(gzip.compress(content), "images.gz") if packed else write(content)
    with pytest.raises(DamagedFileError, match=message) as caught:
        read_idx(path, SHAPE)
    assert str(path) in str(caught.value)
    assert "fetch" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_not_gzip_suggests_the_name_without_gz(write):
    with pytest.raises(DamagedFileError, match=r"not a sound gzip file .* unpacked already call it images"):
        read_idx(write(SOUND, "images.gz"), SHAPE)


def test_gzip_cut_anywhere(write):
    packed = gzip.compress(SOUND)
    for length in range(len(packed)):
        with pytest.raises(DamagedFileError):
            read_idx(write(packed[:length], "images.gz"), SHAPE)


def test_gzip_with_any_byte_changed_is_refused_or_still_right(write):
    packed = gzip.compress(SOUND)
    refused = 0
    for i in range(len(packed)):
        broken = bytearray(packed)
        broken[i] ^= 0xFF
        path = write(bytes(broken), "images.gz")
        # The time stamp, the system and a few flag bytes of gzip's header carry no content.
        try:
            np.testing.assert_array_equal(read_idx(path, SHAPE), VALUES)
        except DamagedFileError:
            refused += 1
    assert refused >= len(packed) - 10


def test_an_archive_that_expands_without_end_is_not_expanded(write):
    path = write(gzip.compress(SOUND + bytes(50_000_000)), "images.gz")
    with pytest.raises(DamagedFileError, match="too long"):
        read_idx(path, SHAPE)
