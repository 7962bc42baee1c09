"""A finished figure: its picture, the numbers in it, and what to see; and how a folder of them is written."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyddpm.errors import InputError
from tinyddpm.files import named, write_atomically

INDEX = "figures.md"


@dataclass(frozen=True)
class Plate:
    """One picture. name: of its files. picture: a PNG. header, rows: the table of what it shows. caption: in words."""

    name: str
    picture: bytes
    header: tuple[str, ...]
    rows: Sequence[Sequence[Any]]
    caption: str

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise InputError(f"a row of {self.name} has {len(row)} values for {len(self.header)} columns: {row!r}")

    def write(self, folder: Path) -> list[Path]:
        """Writes NAME.png, NAME.csv and NAME.txt, each whole or not at all, the picture last; returns their paths."""
        contents = {".csv": table(self.header, self.rows), ".txt": self.caption.encode() + b"\n", ".png": self.picture}
        paths = [folder / f"{self.name}{suffix}" for suffix in contents]
        for path, content in zip(paths, contents.values(), strict=True):
            write_atomically(path, content)
        return paths


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """The rows as CSV, floats to six significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    # NumPy's numbers as Python's, which print as themselves
    plain = ([value.item() if hasattr(value, "item") else value for value in row] for row in rows)
    writer.writerows([f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in plain)
    return text.getvalue().encode()


def write_index(folder: Path, order: Sequence[str]) -> Path:
    """Writes figures.md, a page of all plates that the folder holds; order: the names of figures.

    A plate belongs to the figure whose name its own begins with.
    """
    plates = []
    for path in folder.glob("*.txt"):
        places = [i for i, figure in enumerate(order) if path.stem == figure or path.stem.startswith(f"{figure}-")]
        if places and path.with_suffix(".png").exists():
            with named(path):
                # Where one figure's name begins another's, the longer is meant
                plates.append((max(places, key=lambda i: len(order[i])), path.stem, path.read_text(encoding="utf-8")))
    page = ["# Figures", ""]
    for _, name, caption in sorted(plates):
        page += [f"## {name}", "", f"![{name}]({name}.png)", "", f"{caption.strip()} ([numbers]({name}.csv))", ""]
    path = folder / INDEX
    write_atomically(path, "\n".join(page).encode())
    return path
