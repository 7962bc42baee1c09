"""What commands print and where they write: names of any bytes, readers that leave, folders with something in them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.tinyddpm import sudden_ends
from tests.tinyddpm.tiny_runs import QUICK, SIMPLE_OPTIONS, beside_notice, invoke, succeed, tree
from tinyddpm.generation.images import Drawing
from tinyddpm.locks import NAME

# Bytes that are no UTF-8, letters beyond ASCII, and what matplotlib takes for formulas
BYTES = b"bil\xff der \xc3\xbc $x$"
LOCALES: dict[str, dict[str, str]] = {
    "UTF-8": {"LC_ALL": "C.UTF-8"},
    "C": {"LC_ALL": "C"},
    "ASCII": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "Latin-1": {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "latin-1"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("printed") / "run"
    succeed("train", *SIMPLE_OPTIONS, *QUICK, "--steps", 2, "--out", folder)
    return folder


def sample(run: Path, *more: Any) -> Any:
    return invoke("sample", run, "--steps", 2, "--backend", "numpy", *more)


class TestNames:
    @pytest.mark.skipif(sys.platform != "linux", reason="this system's names are of text")
    @pytest.mark.parametrize("locale", LOCALES)
    def test_any_bytes_in_any_locale(self, tmp_path: Path, locale: str) -> None:
        """From the pictures' folder to the title of the plot, which is drawn when all training is done."""
        for label in (b"k\xfe", b"\xc3\xbc"):
            folder = os.path.join(os.fsencode(tmp_path), BYTES, label)
            os.makedirs(folder)  # noqa: PTH103
            for i in range(2):
                with open(os.path.join(folder, b"\xfd%d.png" % i), "wb") as file:
                    Image.new("L", (8, 8), 90 * i).save(file, "PNG")
            with open(os.path.join(folder, b"broken\xfd.png"), "wb") as file:
                file.write(b"no picture")
        program = [sys.executable, "-m", "tinyddpm"]
        quick = ["--backend", "numpy", "--samples", "1", "--sample-steps", "2"]
        train = [*SIMPLE_OPTIONS, *QUICK, *quick, "--image-size", "8", "--steps", "1", "--data", BYTES]
        run = b"runs/" + BYTES
        for command in (
            ["train", *train],
            ["sample", run, "--backend", "numpy", "-n", "1", "--steps", "2", "-o", BYTES + b" out"],
        ):
            result = subprocess.run(
                [*program, *command],
                cwd=tmp_path,
                env={**os.environ, **LOCALES[locale], "PYTHONPATH": os.getcwd()},  # noqa: PTH109
                capture_output=True,
                check=False,
            )
            assert result.returncode == 0, result.stderr
            assert b"Traceback" not in result.stderr
            assert result.stdout.endswith(b"\n")
            if locale != "Latin-1":
                assert BYTES in result.stdout
        found = set(os.listdir(os.path.join(os.fsencode(tmp_path), run)))  # noqa: PTH208
        assert {b"loss.png", b"samples.png", b"denoising.gif"} <= found

    def test_a_name_that_the_locale_does_not_have(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            "ü".encode("ascii")

        monkeypatch.setattr(sys.modules["tinyddpm.cli.sample"], "open_checkpoint", refuse)
        result = sample(run)
        assert result.exit_code == 2
        assert "error: 'ü' cannot be the name of a file in this locale, of the encoding ascii; use" in result.stderr


class TestClosed:
    @pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
    def test_streams_that_are_closed_from_the_start(self, run: Path, tmp_path: Path, closed: str) -> None:
        """The first file opened would be the one that libraries print to."""
        arguments = f"{run} --backend numpy -n 1 --steps 2 -o {tmp_path / 'out.png'}"
        status = subprocess.run(
            ["sh", "-c", f"exec {sys.executable} -m tinyddpm sample {arguments} {closed}"], check=False
        )
        assert status.returncode == 0
        with Image.open(tmp_path / "out.png") as picture:
            picture.load()

    @pytest.mark.parametrize("command", ["sample", "export"])
    def test_files_are_written_without_a_reader(self, run: Path, tmp_path: Path, fork: Any, command: str) -> None:
        out = tmp_path / ("out.png" if command == "sample" else "folder")
        arguments = ["sample", str(run), "--backend", "numpy", "-n", "1", "--steps", "2", "-o", str(out)]
        if command == "export":
            succeed("train", *QUICK, "--base-channels", 4, "--channel-mults", 1, "--groups", 2, "--num-res-blocks", 1,
                    "--attention-resolutions", "", "--steps", 1, "--out", tmp_path / "unet")  # fmt: skip
            arguments = ["export", str(tmp_path / "unet"), str(out)]
        process = fork(sudden_ends.train, arguments, None, tmp_path / "err")
        process.join(60)
        assert process.exitcode == 0
        assert "warning: nothing more can be printed" in (tmp_path / "err").read_text()
        assert out.exists()

    def test_a_command_that_only_prints_ends_with_its_reader(self, tmp_path: Path, fork: Any) -> None:
        process = fork(sudden_ends.train, ["doctor", "--backend", "numpy"], None, tmp_path / "err")
        process.join(60)
        assert process.exitcode == 1
        assert (tmp_path / "err").read_text() == ""


class TestFolders:
    def test_older_pictures_do_not_stay_between_new_ones(self, run: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        assert sample(run, "-n", 5, "-o", out).exit_code == 0
        (out / "notes.txt").write_text("mine")
        (out / "best.png").write_bytes(b"mine")
        before = tree(tmp_path)
        result = sample(run, "-n", 3, "-o", out)
        assert result.exit_code == 2
        assert beside_notice(result.stderr) == (
            f"error: {out} already holds 5 pictures, 00000.png … 00004.png; "
            "give a new folder, or --overwrite to delete them\n"
        )
        assert tree(tmp_path) == before
        assert sample(run, "-n", 3, "-o", out, "--overwrite").exit_code == 0
        assert set(tree(out)) == {"00000.png", "00001.png", "00002.png", "notes.txt", "best.png"}
        for name in ("notes.txt", "best.png"):
            assert (out / name).read_bytes() == b"mine"

    def test_a_folder_with_other_things_in_it_is_fine(self, run: Path, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        assert sample(run, "-n", 1, "-o", tmp_path).exit_code == 0
        assert set(tree(tmp_path)) == {"00000.png", "notes.txt"}

    def test_two_commands_in_one_folder(self, run: Path, tmp_path: Path, fork: Any) -> None:
        process = fork(hold_for_ever, tmp_path / "out", tmp_path / "there")
        sudden_ends.wait_for(tmp_path / "here", tmp_path / "there")()
        result = sample(run, "-n", 1, "-o", tmp_path / "out")
        assert result.exit_code == 2
        assert f"out is in use: process {process.pid} on" in result.stderr
        process.kill()
        process.join()
        assert sample(run, "-n", 1, "-o", tmp_path / "out").exit_code == 0
        assert set(tree(tmp_path / "out")) == {"00000.png"}

    def test_a_failure_leaves_no_empty_folder(self, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise MemoryError("no more")

        monkeypatch.setattr(Drawing, "states", fail)
        assert sample(run, "-o", tmp_path / "far" / "out").exit_code == 2
        assert tree(tmp_path) == {}


def hold_for_ever(folder: Path, there: Path) -> None:
    from tinyddpm.locks import hold

    lock = hold(folder)
    assert (folder / NAME).exists()
    sudden_ends.wait_for(there, folder / "never")()
    lock.release()
