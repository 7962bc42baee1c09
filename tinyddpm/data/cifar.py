"""CIFAR-10 in its binary version.

Source: Krizhevsky 2009; https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version": six files of 10,000
records, each 1 label byte, then 1024 red, 1024 green and 1024 blue bytes, row by row. (The Python version is
a pickle, and reading a pickle runs whatever code it holds; it is not supported.)
"""

import gzip
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from tinyddpm.errors import DamagedFileError

ARCHIVE = "cifar-10-binary.tar.gz"
FILES = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

RECORDS = 10_000
RECORD_BYTES = 1 + 3 * 32 * 32
FILE_BYTES = RECORDS * RECORD_BYTES


def read_files(paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Read unpacked batch files; returns as `decode`. Raises DamagedFileError if one has the wrong size."""
    blobs = []
    for path in paths:
        try:
            with open(path, "rb") as file:
                blobs.append(file.read(FILE_BYTES + 1))
        except OSError as error:
            raise DamagedFileError(f"{path} cannot be read ({error.strerror}); fetch it again") from error
        _check_size(str(path), len(blobs[-1]))
    return decode(blobs, ", ".join(path.name for path in paths))


def read_archive(path: Path, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read batch files straight from the archive, in whichever folder of it they are; returns as `decode`.

    Nothing is written to disk. Raises DamagedFileError if the archive is broken or lacks one of the files.
    """
    blobs: dict[str, bytes] = {}
    try:
        with gzip.open(path) as unpacked, tarfile.open(fileobj=unpacked, mode="r:") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if name in names and member.isreg():
                    _check_size(f"{name} in {path}", member.size)
                    content = archive.extractfile(member)
                    assert content is not None, "a regular member always has content"
                    blobs[name] = content.read()
            # On to the very end, where gzip keeps its checksum.
            while unpacked.read(1 << 20):
                pass
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DamagedFileError(f"{path} is not a sound .tar.gz archive ({error}); fetch it again") from error
    missing = [name for name in names if name not in blobs]
    if missing:
        raise DamagedFileError(
            f"{path} lacks {', '.join(missing)}; fetch the binary version of CIFAR-10, {ARCHIVE}, again"
        )
    return decode([blobs[name] for name in names], str(path))


def decode(blobs: Sequence[bytes], source: str) -> tuple[np.ndarray, np.ndarray]:
    """Records to images (N, 32, 32, 3) uint8 RGB and labels (N,) int64. `source` names them in an error."""
    records = np.frombuffer(b"".join(blobs), np.uint8).reshape(-1, RECORD_BYTES)
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= len(CLASS_NAMES):
        raise DamagedFileError(f"{source} has a label {labels.max()}; CIFAR-10 has 0 … 9; fetch it again")
    planes = records[:, 1:].reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


def _check_size(name: str, size: int) -> None:
    if size != FILE_BYTES:
        relation = "more than" if size > FILE_BYTES else "only"
        shown = FILE_BYTES if size > FILE_BYTES else size
        raise DamagedFileError(
            f"{name} has {relation} {shown:,} bytes; a CIFAR-10 batch has {FILE_BYTES:,}; fetch it again"
        )
