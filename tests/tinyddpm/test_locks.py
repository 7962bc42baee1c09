"""One writer a folder: who is refused, what a dead process leaves, and file systems without locks."""

import errno
import json
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tinyddpm.tiny_runs import tree
from tinyddpm import locks
from tinyddpm.errors import InputError
from tinyddpm.locks import NAME, check_free, hold

HOST = socket.gethostname()

HOLDER = """
import sys
from tinyddpm.locks import hold
lock = hold(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path) -> Any:
    """A process that holds the lock of `tmp_path / "run"` until it is killed or its stdin ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_holder_is_named(tmp_path: Path, other: Any) -> None:
    before = tree(tmp_path)
    for refused in (hold, check_free):
        with pytest.raises(InputError, match=rf"run is in use: process {other.pid} on {HOST} writes to it; wait for"):
            refused(tmp_path / "run")
    assert tree(tmp_path) == before


def test_a_killed_process_leaves_nobody_locked_out(tmp_path: Path, other: Any) -> None:
    other.kill()
    other.wait()
    assert (tmp_path / "run" / NAME).exists()
    check_free(tmp_path / "run")
    hold(tmp_path / "run").release()
    assert tree(tmp_path) == {"run": None}


def test_folders_made_for_it_go_with_it_if_they_are_empty(tmp_path: Path) -> None:
    lock = hold(tmp_path / "far" / "away")
    assert json.loads((tmp_path / "far" / "away" / NAME).read_text())["pid"] == os.getpid()
    lock.release()
    assert tree(tmp_path) == {}
    lock = hold(tmp_path / "far" / "away")
    (tmp_path / "far" / "file").touch()
    lock.release()
    assert tree(tmp_path) == {"far": None, "far/file": b""}


def test_a_process_shares_its_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whatever name, and until the last part of it is done."""
    first = hold(tmp_path)
    monkeypatch.chdir(tmp_path)
    second = hold(".")
    monkeypatch.chdir("/")
    second.release()
    first.check()
    first.release()
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("deed", ["move", "delete", "replace", "take over"])
def test_a_folder_that_is_another_now(tmp_path: Path, deed: str) -> None:
    folder = tmp_path / "run"
    lock = hold(folder)
    lock.check()
    if deed == "take over":
        (folder / NAME).unlink()
        (folder / NAME).write_text('{"pid": 1, "host": "another"}')
    elif deed == "delete":
        (folder / NAME).unlink()
        folder.rmdir()
    else:
        folder.rename(tmp_path / "moved")
        if deed == "replace":
            folder.mkdir()
    before = tree(tmp_path)
    with pytest.raises(InputError, match="run was moved, deleted or taken over by another process while this one"):
        lock.check()
    lock.release()
    assert tree(tmp_path) == before


def test_files_whose_numbers_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As some file systems give them: what the file says counts."""
    lock = hold(tmp_path)
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)
    lock.check()
    lock.release()
    assert tree(tmp_path) == {}


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_neither_shares_nor_ends_its_parents(tmp_path: Path) -> None:
    lock = hold(tmp_path)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            hold(tmp_path)
        except InputError:
            lock.release()
            code = 0
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    lock.check()
    assert (tmp_path / NAME).exists()
    lock.release()


class TestWithoutLocks:
    """A file system that does not lock files: what the file says is all there is."""

    @pytest.fixture(autouse=True)
    def unable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(number: int) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(locks, "lock_file", refuse)

    def test_it_is_held_all_the_same(self, tmp_path: Path) -> None:
        lock = hold(tmp_path)
        lock.check()
        lock.release()
        assert tree(tmp_path) == {}

    def test_a_process_that_runs_is_respected(self, tmp_path: Path, other: Any) -> None:
        with pytest.raises(
            InputError, match=rf"process {other.pid} on .*; if that is another program, delete .*run/\.lock"
        ):
            hold(tmp_path / "run")
        other.kill()
        other.wait()
        hold(tmp_path / "run").release()

    def test_a_process_elsewhere_is_warned_of(self, tmp_path: Path) -> None:
        (tmp_path / NAME).write_text('{"pid": 77, "host": "elsewhere"}')
        with pytest.warns(UserWarning, match="see that process 77 on elsewhere no longer writes there"):
            hold(tmp_path).release()

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x", "host": 1}'])
    @pytest.mark.filterwarnings("ignore:files cannot be locked")
    def test_a_file_that_says_nothing(self, tmp_path: Path, content: str) -> None:
        (tmp_path / NAME).write_text(content)
        hold(tmp_path).release()
        assert tree(tmp_path) == {}

    def test_of_two_at_once_the_first_notices(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = hold(tmp_path)
        (tmp_path / NAME).write_text('{"pid": 77, "host": "elsewhere"}')
        monkeypatch.setattr(os.path, "samestat", lambda *_: False)
        with pytest.raises(InputError, match="taken over by another process"):
            first.check()
        first.release()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: Any, **__: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        hold(tmp_path / "run")
    assert caught.value.filename == str(tmp_path / "run" / NAME)
    assert tree(tmp_path) == {}
