"""Writing files so that a reader never sees half of one."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tinyddpm.errors import InputError

SUFFIX = ".partial"
# What systems answer that cannot flush folders, or let nobody open one; a disk that fails or is full says otherwise
NO_FLUSHING_OF_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EACCES, errno.EBADF, errno.EISDIR)


@contextmanager
def named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Within, every OSError names path: a write to a full disk, for one, fails without a name."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or str(error), os.fspath(path)) from error


def write_atomically(path: str | os.PathLike[str], content: bytes, flush: bool = True) -> None:
    """Writes content to path aside, flushes it to the disk and renames it: after a crash path is old or new.

    Missing parent folders are made. flush: False leaves flushing to `flush_all`, for files by the thousand; until then
    path is whole, old or new, whatever ends the process, but not after a power cut. Raises OSError that names path,
    with path as it was and nothing beside it.
    """
    with replacing(path, flush) as file:
        file.write(content)


@contextmanager
def replacing(path: str | os.PathLike[str], flush: bool = True) -> Iterator[BinaryIO]:
    """A new file to write to, which takes the place of path when the context ends, as `write_atomically` says."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}{SUFFIX}")
    try:
        with open(aside, "wb") as file:
            yield file
            if flush:
                file.flush()
                os.fsync(file.fileno())
        aside.replace(path)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror or str(error), os.fspath(path)) from error
        raise
    # The rename itself survives a power cut only once the folder is on the disk
    if flush:
        flush_folder(path.parent)


def flush_all(folder: Path) -> None:
    """Flushes all that was written, to folder and elsewhere, to the disk: one by one, thousands of files take long."""
    if hasattr(os, "sync"):
        os.sync()
        return
    for path in folder.iterdir():
        if path.is_file():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Flushes a folder to the disk, where the system can. Raises OSError, naming folder, where the disk fails."""
    with named(folder):
        try:
            number = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(number)
            finally:
                os.close(number)
        except OSError as error:
            if error.errno not in NO_FLUSHING_OF_FOLDERS:
                raise


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """Adds a line to a text file. Raises OSError that names path."""
    with named(path), open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")


def check_target(path: Path, folder: bool = False) -> None:
    """Raises InputError where a file or folder could not be written, so that a long run does not fail at the end."""
    if path.exists() and path.is_dir() != folder:
        seen, wanted = ("file", "folder") if folder else ("folder", "file")
        raise InputError(f"cannot write {path}: it is a {seen}; give the name of a {wanted}")
    nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
    if nearest != path and not nearest.is_dir():
        raise InputError(f"cannot write {path}: {nearest} is a file; choose another place")
    # A file is replaced, which its folder must allow
    place = nearest if nearest.is_dir() else path.absolute().parent
    if not os.access(place, os.W_OK):
        raise InputError(f"cannot write {path}: {place} is write-protected; choose another place")


def remove_partial(folder: Path) -> None:
    """Deletes what killed writers left aside in folder."""
    for leftover in folder.glob(f".*{SUFFIX}"):
        leftover.unlink(missing_ok=True)
