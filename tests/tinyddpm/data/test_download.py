"""Downloads, from a server on this machine: checked, kept, never left half-written, refused with reasons."""

import functools
import hashlib
import http.server
import socket
import threading

import pytest

from tinyddpm.data import download
from tinyddpm.data.download import ARCHIVES, Archive, fetch
from tinyddpm.errors import DamagedFileError, MissingDataError

CONTENT = {"a.gz": b"first" * 1000, "b.gz": b"second"}


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path == "/cut.gz":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"only this")
            return
        super().do_GET()


@pytest.fixture
def server(tmp_path, monkeypatch):
    web = tmp_path / "web"
    web.mkdir()
    for name, content in CONTENT.items():
        (web / name).write_bytes(content)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(web))) as server:
        server.asked = []
        server.address = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setattr(download, "cache_folder", lambda: folder)
    return folder


def offer(monkeypatch, *archives):
    monkeypatch.setitem(ARCHIVES, ("mnist", "train"), archives)


def sound(server, name):
    return Archive(f"{server.address}/{name}", "sha256:" + hashlib.sha256(CONTENT[name]).hexdigest())


def left(cache):
    return sorted(path.name for path in cache.rglob("*") if path.is_file())


def test_fetches_once_and_keeps(server, cache, monkeypatch):
    offer(monkeypatch, sound(server, "a.gz"), sound(server, "b.gz"))
    paths = fetch("mnist", "train", "/data/mnist")
    assert [path.read_bytes() for path in paths] == list(CONTENT.values())
    assert all(path.parent == cache / "mnist" for path in paths)
    assert fetch("mnist", "train", "/data/mnist") == paths
    assert server.asked == ["/a.gz", "/b.gz"]
    assert left(cache) == ["a.gz", "b.gz"]


def test_md5_is_accepted(server, cache, monkeypatch):
    checksum = "md5:" + hashlib.md5(CONTENT["b.gz"], usedforsecurity=False).hexdigest()
    offer(monkeypatch, Archive(f"{server.address}/b.gz", checksum))
    assert fetch("mnist", "train", "")[0].read_bytes() == CONTENT["b.gz"]


def test_a_damaged_copy_in_the_cache_is_fetched_again(server, cache, monkeypatch):
    offer(monkeypatch, sound(server, "a.gz"))
    (path,) = fetch("mnist", "train", "")
    path.write_bytes(b"rotten")
    assert fetch("mnist", "train", "")[0].read_bytes() == CONTENT["a.gz"]


def test_wrong_checksum_leaves_nothing(server, cache, monkeypatch):
    offer(monkeypatch, Archive(f"{server.address}/a.gz", "md5:" + "0" * 32))
    with pytest.raises(DamagedFileError, match=r"a\.gz sends does not have the checksum md5:000.*nothing") as caught:
        fetch("mnist", "train", "/data/mnist")
    assert "save to /data/mnist" in str(caught.value)
    assert left(cache) == []


def test_a_download_cut_short_leaves_nothing(server, cache, monkeypatch):
    offer(monkeypatch, Archive(f"{server.address}/cut.gz", "md5:" + "0" * 32))
    with pytest.raises(MissingDataError, match=r"cut\.gz could not be downloaded"):
        fetch("mnist", "train", "/data/mnist")
    assert left(cache) == []


def test_not_on_the_server(server, cache, monkeypatch):
    offer(monkeypatch, Archive(f"{server.address}/none.gz", "md5:" + "0" * 32))
    with pytest.raises(MissingDataError, match=r"\(404 Client Error: "):
        fetch("mnist", "train", "/data/mnist")
    assert left(cache) == []


def test_no_server(cache, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as taken:
        # Bound but not listening: connections are refused, and nobody else gets the port.
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        offer(monkeypatch, Archive(f"{address}/a.gz", "md5:0"), Archive(f"{address}/b.gz", "md5:0"))
        with pytest.raises(MissingDataError) as caught:
            fetch("mnist", "train", "a folder mnist")
    message = str(caught.value)
    assert f"mnist was not found and {address}/a.gz could not be downloaded" in message
    assert "(Connection refused)" in message
    assert "get a.gz and b.gz by other means and save to a folder mnist" in message
    assert "\n" not in message


def test_cache_that_cannot_be_written(server, cache, monkeypatch):
    offer(monkeypatch, sound(server, "a.gz"))
    cache.write_bytes(b"a file where the folder should be")
    with pytest.raises(MissingDataError, match=r"could not be downloaded to .*cache"):
        fetch("mnist", "train", "/data/mnist")


def test_the_table_of_archives():
    assert set(ARCHIVES) == {(n, s) for n in ("mnist", "fashion-mnist", "cifar10") for s in ("train", "test")}
    for (name, split), archives in ARCHIVES.items():
        for archive in archives:
            kind, _, digits = archive.checksum.partition(":")
            assert len(bytes.fromhex(digits)) == {"md5": 16, "sha256": 32}[kind]
            if name != "cifar10":
                assert archive.file.startswith({"train": "train", "test": "t10k"}[split])


def test_cache_folder_is_the_users():
    assert download.cache_folder().name == "tinyddpm"
