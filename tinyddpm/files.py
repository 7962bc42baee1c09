"""Writing files so that a reader never sees half of one."""

import os
from pathlib import Path

from tinyddpm.errors import InputError

SUFFIX = ".partial"


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes content to path aside, flushes it to the disk and renames it: after a crash path is old or new.

    Missing parent folders are made. Raises OSError that names path, with path as it was and nothing beside it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}{SUFFIX}")
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror or str(error), os.fspath(path)) from error
        raise
    # The rename itself survives a power cut only once the folder is on the disk
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def check_target(path: Path, folder: bool = False) -> None:
    """Raises InputError where a file or folder could not be written, so that a long run does not fail at the end."""
    if path.exists() and path.is_dir() != folder:
        seen, wanted = ("file", "folder") if folder else ("folder", "file")
        raise InputError(f"cannot write {path}: it is a {seen}; give the name of a {wanted}")
    nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
    if nearest != path and not nearest.is_dir():
        raise InputError(f"cannot write {path}: {nearest} is a file; choose another place")
    if not os.access(nearest, os.W_OK):
        raise InputError(f"cannot write {path}: {nearest} is write-protected; choose another place")


def remove_partial(folder: Path) -> None:
    """Deletes what killed writers left aside in folder."""
    for leftover in folder.glob(f".*{SUFFIX}"):
        leftover.unlink(missing_ok=True)
