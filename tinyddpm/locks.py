"""One writer a folder: a lock that ends with the process that holds it, however that ends.

The system locks the file `.lock` in the folder, and lets go of it when the process ends, killed or not. The file says
who holds it. It goes with the lock; what a killed process leaves of it holds nobody up. On a file system without
locks, what the file says is all that there is: a process of this machine that still runs is respected.
"""

import contextlib
import errno
import json
import os
import secrets
import socket
import sys
import warnings
from pathlib import Path
from typing import Any, Self

from tinyddpm.errors import InputError
from tinyddpm.files import named

NAME = ".lock"
TAKEN = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)

if sys.platform == "win32":
    import msvcrt

    def lock_file(number: int) -> None:
        """Locks an open file, or raises OSError. Windows keeps others from reading what is locked: a byte far off."""
        os.lseek(number, 1 << 30, os.SEEK_SET)
        msvcrt.locking(number, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def lock_file(number: int) -> None:
        """Locks an open file, or raises OSError."""
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)


class FolderLock:
    """That this process writes to a folder: see `hold`."""

    def __init__(self, folder: Path, number: int, text: bytes, made: list[Path]) -> None:
        self.folder, self.number, self.text, self.made = folder, number, text, made
        # The process may go elsewhere meanwhile
        self.path, self.key = folder.absolute() / NAME, os.path.realpath(folder)
        self.pid, self.holders = os.getpid(), 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def check(self) -> None:
        """Raises InputError where the folder is no longer this process's: moved, deleted, or taken over."""
        if not self.is_in_place():
            raise InputError(
                f"{self.folder} was moved, deleted or taken over by another process while this one wrote to it, "
                "and nothing more is written; put it back and go on, or choose another place"
            )

    def is_in_place(self) -> bool:
        try:
            if os.path.samestat(self.path.stat(), os.fstat(self.number)):
                return True
            # Not every file system numbers its files for good
            return self.path.read_bytes() == self.text
        except OSError:
            return False

    def release(self) -> None:
        """Lets others write, if all who hold the lock in this process are done; deletes folders made for it if they are
        empty."""
        self.holders -= 1
        if self.holders != 0:
            return
        if self.pid != os.getpid():
            # A forked process has a copy of its parent's
            os.close(self.number)
            return
        if HELD.get(self.key) is self:
            del HELD[self.key]
        in_place = self.is_in_place()
        # While it is locked, so that nobody else's is deleted; Windows deletes none that is open
        if in_place and sys.platform != "win32":
            self.path.unlink(missing_ok=True)
        os.close(self.number)
        if not in_place:
            return
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                self.path.unlink()
            for folder in self.made:
                folder.rmdir()


# The locks of this process by the folders' real paths: its parts may write to one folder together
HELD: dict[str, FolderLock] = {}


def hold(folder: str | os.PathLike[str]) -> FolderLock:
    """Locks a folder, which is made if it is missing, for this process, until the lock's `release`.

    Raises InputError that names the other process which holds it; OSError that names the file.
    """
    folder = Path(folder)
    lock = HELD.get(os.path.realpath(folder))
    if lock is not None and lock.pid == os.getpid() and lock.is_in_place():
        lock.holders += 1
        return lock
    made = [place.absolute() for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "token": secrets.token_hex(8)}).encode()
    with named(path):
        while True:
            number = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            lock = FolderLock(folder, number, text, made)
            try:
                take(lock)
            except InputError:
                os.close(number)
                raise
            except BaseException:
                lock.release()
                raise
            if path.exists() and path.read_bytes() == text:
                HELD[lock.key] = lock
                return lock
            # The one before has deleted it meanwhile
            os.close(number)


def take(lock: FolderLock) -> None:
    """Locks the file and writes who holds it there. Raises InputError where another process has it."""
    try:
        lock_file(lock.number)
    except OSError as error:
        if error.errno in TAKEN:
            raise InputError(in_use(lock.folder, read_holder(lock.path))) from None
        check_unlocked(lock)
    os.lseek(lock.number, 0, os.SEEK_SET)
    os.ftruncate(lock.number, 0)
    os.write(lock.number, lock.text)


def check_unlocked(lock: FolderLock) -> None:
    """On a file system without locks: raises InputError where a process of this machine is there, and warns of one
    elsewhere."""
    holder = read_holder(lock.path)
    if holder.get("host") == socket.gethostname():
        if holder.get("pid") != os.getpid() and is_running(holder.get("pid")):
            raise InputError(f"{in_use(lock.folder, holder)}; if that is another program, delete {lock.path}")
    elif holder:
        warnings.warn(
            f"files cannot be locked in {lock.folder}: see that process {holder.get('pid')} on {holder.get('host')} no "
            "longer writes there",
            stacklevel=2,
        )


def check_free(folder: str | os.PathLike[str]) -> None:
    """Raises InputError where another process holds the folder's lock; changes nothing."""
    if (Path(folder) / NAME).exists():
        hold(folder).release()


def in_use(folder: Path, holder: dict[str, Any]) -> str:
    """What to tell who finds the folder held."""
    who = f"process {holder['pid']} on {holder.get('host')}" if "pid" in holder else "another process"
    return f"{folder} is in use: {who} writes to it; wait for its end, stop it, or choose another folder"


def read_holder(path: Path) -> dict[str, Any]:
    """What a lock's file says; empty where it says nothing, as in the moment before it is written."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_running(pid: Any) -> bool:
    """Whether a process of this machine has that number."""
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        # On Windows this would end it
        if sys.platform != "win32":
            os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
