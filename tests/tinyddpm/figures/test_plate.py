"""A figure's files: whole or not there, with the numbers that were given, and a page of them all."""

import csv
from pathlib import Path

import numpy as np
import pytest

from tinyddpm.errors import InputError
from tinyddpm.figures import plate as plates
from tinyddpm.figures.plate import Plate, table, write_index


def plate(name: str = "one", caption: str = "What to see.") -> Plate:
    return Plate(name, b"picture", ("step", "loss"), [(1, 0.5), (2, np.float64(1 / 3))], caption)


def test_three_files_are_written(tmp_path: Path) -> None:
    paths = plate().write(tmp_path / "figures")
    assert sorted(path.name for path in paths) == ["one.csv", "one.png", "one.txt"]
    with open(tmp_path / "figures" / "one.csv", newline="") as file:
        assert list(csv.reader(file)) == [["step", "loss"], ["1", "0.5"], ["2", "0.333333"]]
    assert (tmp_path / "figures" / "one.txt").read_text() == "What to see.\n"


def test_numbers_are_pythons_own() -> None:
    assert table(("a", "b", "c"), [(np.float32(0.1), np.int64(3), "x, y")]) == b'a,b,c\n0.1,3,"x, y"\n'


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(InputError, match=r"a row of one has 1 values for 2 columns: \(3,\)"):
        Plate("one", b"", ("a", "b"), [(3,)], "")


def test_a_failure_leaves_no_picture_and_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plate(caption="old").write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(plates, "write_atomically", full)
    with pytest.raises(OSError, match="No space"):
        plate(caption="new").write(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_index_has_every_plate_in_the_order_of_the_figures(tmp_path: Path) -> None:
    for name in ("cars-128", "unet-simple", "unet-full", "cars", "stray"):
        plate(name, f"Caption of {name}.").write(tmp_path)
    (tmp_path / "cars.png").unlink()
    text = write_index(tmp_path, ("unet", "cars", "cars-128")).read_text()
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == ["## unet-full", "## unet-simple", "## cars-128"]
    assert "![cars-128](cars-128.png)\n\nCaption of cars-128. ([numbers](cars-128.csv))" in text
