"""Writing files so that a reader never sees half of one."""

import os
from pathlib import Path

SUFFIX = ".partial"


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes content to path aside, flushes it to the disk and renames it: after a crash path is old or new.

    Missing parent folders are made. Raises OSError as `open` does, leaving nothing behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}{SUFFIX}")
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    # The rename itself survives a power cut only once the folder is on the disk
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_partial(folder: Path) -> None:
    """Deletes what killed writers left aside in folder."""
    for leftover in folder.glob(f".*{SUFFIX}"):
        leftover.unlink(missing_ok=True)
