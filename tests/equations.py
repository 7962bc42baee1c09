"""The equation index: which function computes an equation of a paper, and which test asserts it.

Docstrings cite "Ho et al. 2020, eq. 4" or "Algorithm 1 of Ho et al. 2020"; the test that asserts what is cited is
marked with `@pytest.mark.equation("Ho et al. 2020, eq. 4")`. Both are read from the sources, without running them.
`python -m tests.equations` writes the page, equations.md, beside this file.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).with_suffix(".md")
SOURCES = ("tinyddpm", "backends/ops")

NAME = r"[A-Z][\w'-]+"
AUTHORS = rf"{NAME}(?: et al\.|(?:, {NAME})* & {NAME})?"
PAPER = rf'{AUTHORS} (?:19|20)\d\d(?:, "[^"]+")?'
NUMBER = r"\d+(?:\.\d+)?"
ITEM = rf"(?:eq\.|[Aa]lgorithm) {NUMBER}"
CITED = re.compile(rf"(?P<paper>{PAPER}), (?P<items>{ITEM}(?:(?:,| and|, and) (?:{ITEM}|{NUMBER}))*)")
REVERSED = re.compile(rf"(?P<items>{ITEM}) of (?P<paper>{PAPER})")
HEADER = """# Equations, where they are computed, and what asserts it

Written by `python -m tests.equations` from the docstrings' citations and the tests' marks
`@pytest.mark.equation(…)`; `tests/test_equations.py` fails where one lacks the other.

| paper | equation | computed by | asserted by |
| --- | --- | --- | --- |
"""


@dataclass(frozen=True)
class Place:
    """A function, class or module: the file, relative to the root, and the dotted name within it, "" for the module."""

    file: str
    name: str

    def __str__(self) -> str:
        return f"{self.file}, {self.name}" if self.name else self.file

    @property
    def link(self) -> str:
        """As in the page, which stands in tests/."""
        text = f"{Path(self.file).stem}.{self.name}" if self.name else self.file
        return f"[`{text}`](../{self.file})"


def citations(text: str) -> list[str]:
    """The equations and algorithms that a text cites with their paper, such as "Ho et al. 2020, algorithm 1"."""
    text, found = " ".join(text.split()), []
    for match in [*CITED.finditer(text), *REVERSED.finditer(text)]:
        kind = ""
        for item in re.findall(rf"{ITEM}|{NUMBER}", match["items"]):
            kind, number = item.lower().rsplit(" ", 1) if " " in item else (kind, item)
            found.append(f"{match['paper']}, {kind} {number}")
    return list(dict.fromkeys(found))


def bare(text: str) -> set[str]:
    """Every mention of an equation or algorithm, with or without its paper, such as "algorithm 1"."""
    return {item.lower() for item in re.findall(ITEM, " ".join(text.split()))}


def nodes(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """The module and all its classes and functions, by dotted name."""

    def below(node: ast.AST, name: str) -> Iterator[tuple[str, ast.AST]]:
        yield name, node
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef):
                yield from below(child, f"{name}.{child.name}".lstrip("."))

    return below(tree, "")


def docstrings() -> Iterator[tuple[Place, str]]:
    """Every docstring of the sources."""
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for name, node in nodes(ast.parse(path.read_text(encoding="utf-8"))):
                assert isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
                if text := ast.get_docstring(node):
                    yield Place(path.relative_to(ROOT).as_posix(), name), text


def computed() -> dict[str, list[Place]]:
    """Where each citation stands."""
    found: dict[str, list[Place]] = {}
    for place, text in docstrings():
        for citation in citations(text):
            found.setdefault(citation, []).append(place)
    return found


def marks(source: str) -> Iterator[tuple[str, str]]:
    """(name of the test, equation) of every mark in a source."""
    for name, node in nodes(ast.parse(source)):
        for decorator in getattr(node, "decorator_list", []):
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.equation":
                for argument in decorator.args:
                    yield name, ast.literal_eval(argument)


def asserted() -> dict[str, list[Place]]:
    """The tests marked for each equation."""
    found: dict[str, list[Place]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name, equation in marks(path.read_text(encoding="utf-8")):
            found.setdefault(equation, []).append(Place(path.relative_to(ROOT).as_posix(), name))
    return found


def order(citation: str) -> tuple[str, str, tuple[int, ...]]:
    """By paper, equations before algorithms, by number."""
    paper, _, item = citation.rpartition(", ")
    kind, number = item.split(" ")
    return paper, {"eq.": "1"}.get(kind, "2"), tuple(map(int, number.split(".")))


def page() -> str:
    """The text of equations.md."""
    where, tests, rows = computed(), asserted(), []
    for citation in sorted(where, key=order):
        paper, _, item = citation.rpartition(", ")
        cells = (", ".join(place.link for place in places) for places in (where[citation], tests.get(citation, [])))
        rows.append(f"| {paper} | {item} | {' | '.join(cells)} |\n")
    return HEADER + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
