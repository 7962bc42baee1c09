"""Atomic writing: the old content or the new, never half of one, and nothing left beside it."""

import errno
import os
import resource
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.tinyddpm.tiny_runs import tree
from tinyddpm.errors import InputError
from tinyddpm.files import append_line, check_target, named, remove_partial, write_atomically


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


class TestWriteAtomically:
    def test_writes_and_overwrites_and_makes_parents(self, tmp_path: Path) -> None:
        path = tmp_path / "a" / "b" / "file"
        write_atomically(path, b"old, and longer")
        write_atomically(str(path), b"new")
        assert tree(tmp_path) == {"a": None, "a/b": None, "a/b/file": b"new"}

    def test_file_is_on_the_disk_before_it_is_renamed_and_the_folder_after(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        events = []
        fsync, replace = os.fsync, os.replace

        def seen_fsync(number: int) -> None:
            events.append("fsync folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "fsync file")
            if events[-1] == "fsync file":
                assert os.fstat(number).st_size == 7
            fsync(number)

        def seen_replace(*names: Any) -> None:
            events.append("replace")
            replace(*names)

        monkeypatch.setattr(os, "fsync", seen_fsync)
        monkeypatch.setattr(os, "replace", seen_replace)
        write_atomically(tmp_path / "file", b"content")
        assert events == ["fsync file", "replace", "fsync folder"]

    @pytest.mark.parametrize("function", ["fsync", "replace"])
    @pytest.mark.parametrize("exists", [True, False])
    def test_failure_leaves_the_old_content_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, exists: bool
    ) -> None:
        path = tmp_path / "file"
        if exists:
            path.write_bytes(b"old")
        before = tree(tmp_path)
        monkeypatch.setattr(os, function, full_disk)
        with pytest.raises(OSError, match="No space left") as caught:
            write_atomically(path, b"new")
        assert caught.value.filename == str(path)
        assert caught.value.errno == errno.ENOSPC
        assert tree(tmp_path) == before

    def test_disk_that_fills_up_half_way(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"old")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                write_atomically(path, bytes(300_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert tree(tmp_path) == {"file": b"old"}

    @pytest.mark.parametrize("function", ["open", "fsync"])
    @pytest.mark.parametrize(
        ("number", "tolerated"),
        [
            *((number, True) for number in (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF)),
            *((number, False) for number in (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS)),
        ],
    )
    def test_folders_that_cannot_be_flushed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int, tolerated: bool
    ) -> None:
        """Where the system has no such thing, the file is written all the same; a disk that fails is told of."""
        called = getattr(os, function)

        def patched(what: Any, *more: Any) -> Any:
            if Path(what if function == "open" else f"/proc/self/fd/{what}").is_dir():
                raise OSError(number, os.strerror(number))
            return called(what, *more)

        monkeypatch.setattr(os, function, patched)
        if tolerated:
            write_atomically(tmp_path / "file", b"new")
        else:
            with pytest.raises(OSError, match=os.strerror(number)) as caught:
                write_atomically(tmp_path / "file", b"new")
            assert caught.value.filename == str(tmp_path)
        assert tree(tmp_path) == {"file": b"new"}

    @pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EIO])
    def test_a_file_that_cannot_be_flushed_is_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        def refuse(_: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match=os.strerror(number)):
            write_atomically(tmp_path / "file", b"new")
        assert tree(tmp_path) == {}

    def test_interrupt_is_passed_on_and_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(number: int) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_atomically(tmp_path / "file", b"new")
        assert tree(tmp_path) == {}

    def test_parent_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"old")
        with pytest.raises(OSError, match="file"):
            write_atomically(tmp_path / "file" / "inner", b"new")
        assert tree(tmp_path) == {"file": b"old"}

    def test_folder_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        with pytest.raises(OSError, match="folder"):
            write_atomically(tmp_path / "folder", b"new")
        assert tree(tmp_path) == {"folder": None}

    def test_a_reader_meanwhile_sees_one_content_or_the_other(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        contents = [bytes([byte]) * 200_000 for byte in (0, 1)]
        write_atomically(path, contents[0])
        seen, done = [], threading.Event()

        def read() -> None:
            while not done.is_set():
                seen.append(path.read_bytes() in contents)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for i in range(30):
                write_atomically(path, contents[i % 2])
        finally:
            done.set()
            reader.join()
        assert seen
        assert all(seen)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_line_that_finds_no_room_names_its_file() -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        append_line("/dev/full", "line")
    assert caught.value.filename == "/dev/full"


def test_lines_are_added(tmp_path: Path) -> None:
    for line in ("ä", "b"):
        append_line(tmp_path / "log", line)
    assert (tmp_path / "log").read_text(encoding="utf-8") == "ä\nb\n"


def test_errors_keep_the_name_that_they_have(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, named("another"):
        open(tmp_path / "missing").close()
    assert caught.value.filename == str(tmp_path / "missing")


def test_remove_partial_deletes_what_a_killed_writer_left_and_only_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = []
    monkeypatch.setattr(os, "fsync", lambda number: left.extend(os.listdir(tmp_path)))  # noqa: PTH208
    write_atomically(tmp_path / "step-1.safetensors", b"content")
    assert left[0] != "step-1.safetensors"
    (tmp_path / left[0]).write_bytes(b"con")
    for name in (".hidden", "notes.partial", "config.json"):
        (tmp_path / name).write_bytes(b"mine")
    remove_partial(tmp_path)
    assert set(tree(tmp_path)) == {"step-1.safetensors", ".hidden", "notes.partial", "config.json"}
    remove_partial(tmp_path / "missing")


class TestCheckTarget:
    def test_accepts_new_and_existing_places(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").write_bytes(b"")
        (tmp_path / "folder").mkdir()
        monkeypatch.chdir(tmp_path)
        for name in ("file", "new", "folder/new", "far/away/new"):
            check_target(Path(name))
            check_target(tmp_path / name)
        for name in ("folder", "new", "far/away"):
            check_target(Path(name), folder=True)
        assert set(tree(tmp_path)) == {"file", "folder"}

    @pytest.mark.parametrize(
        ("name", "folder", "words"),
        [
            ("folder", False, "is a folder; give the name of a file"),
            ("file", True, "is a file; give the name of a folder"),
            ("file/new", False, "file is a file; choose another place"),
            ("file/far/new", True, "file is a file; choose another place"),
        ],
    )
    def test_refuses_what_could_not_be_written(self, tmp_path: Path, name: str, folder: bool, words: str) -> None:
        (tmp_path / "file").write_bytes(b"")
        (tmp_path / "folder").mkdir()
        with pytest.raises(InputError, match=words) as caught:
            check_target(tmp_path / name, folder)
        assert str(tmp_path / name) in str(caught.value)

    def test_refuses_a_write_protected_place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # Asked of the system, not of the permission bits: root may write where they say no
        monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
        with pytest.raises(InputError, match=f"{tmp_path} is write-protected"):
            check_target(tmp_path / "new" / "file")
