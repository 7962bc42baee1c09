"""The house as README describes it: what is essential and how long it is, which way imports run, what is where."""

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterable
from pathlib import Path

import pytest

from backends.numba_kernels.vectors import gemm
from backends.numba_kernels.vectors.processor import Registers

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGES = ("backends", "tinyddpm")

# What each room of tinyddpm may import, beside itself and the rooms before it; `backends` is open to all
FLOORS = (
    ("errors",),
    ("checks", "files", "locks", "ranks", "streams"),
    ("data", "networks"),
    ("diffusion",),
    ("samplers", "training", "testing"),
    ("diffusers_format", "generation", "evaluation"),
    ("reporting", "doctor"),
    ("figures",),
    ("cli",),
    ("__main__", ""),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def module_files() -> dict[str, Path]:
    """Every module of the packages by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = module_files()


def type_checking_only(tree: ast.Module) -> set[ast.AST]:
    """The nodes under `if TYPE_CHECKING:`, which do not run."""
    guarded = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ]
    return {inner for node in guarded for part in node.body for inner in ast.walk(part)}


def imports(source: str) -> set[str]:
    """The modules of ours that a source imports, wherever it does."""
    tree, found = ast.parse(source), set()
    ignored = type_checking_only(tree)
    for node in ast.walk(tree):
        if node in ignored:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & MODULES.keys()
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & MODULES.keys()
            if names - MODULES.keys():
                found.add(node.module)
    return found


IMPORTS = {name: imports(path.read_text(encoding="utf-8")) - {name} for name, path in MODULES.items()}


def circle(graph: dict[str, Iterable[str]]) -> list[str]:
    """The names along a circle, if there is one."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for following in graph.get(name, ()):
            if found := visit(following, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in graph if (found := visit(name, []))), [])


def room(module: str) -> str:
    """The folder or file right under tinyddpm that a module is in; "" for the package itself."""
    return module.partition(".")[2].partition(".")[0]


# Imports


def test_a_circle_is_found() -> None:
    assert circle({"a": ["b"], "b": ["c"], "c": ["b"]}) == ["b", "c", "b"]
    assert circle({"a": ["b", "c"], "b": ["c"], "c": []}) == []


def test_no_module_imports_itself_by_a_detour() -> None:
    assert circle(IMPORTS) == []


def test_backends_know_nothing_of_diffusion() -> None:
    for name, imported in IMPORTS.items():
        if name.startswith("backends"):
            assert not [module for module in imported if module.startswith("tinyddpm")], name


def test_tinyddpm_takes_from_backends_what_they_show() -> None:
    shown = {"backends", "backends.thread_count"}
    for name, imported in IMPORTS.items():
        if name.startswith("tinyddpm"):
            assert {module for module in imported if module.startswith("backends")} <= shown, name


def test_every_room_has_its_floor() -> None:
    assert {room(name) for name in MODULES if name.startswith("tinyddpm")} == FLOOR.keys()


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("tinyddpm")])
def test_imports_run_downwards(name: str) -> None:
    here = room(name)
    for module in IMPORTS[name]:
        there = room(module)
        if module.startswith("tinyddpm") and there != here:
            assert FLOOR[there] <= FLOOR[here], f"{name} imports {module}, which is above it"


def test_rooms_form_no_circle() -> None:
    rooms: dict[str, set[str]] = {here: set() for here in FLOOR}
    for name, imported in IMPORTS.items():
        if name.startswith("tinyddpm"):
            rooms[room(name)] |= {room(module) for module in imported if module.startswith("tinyddpm")} - {room(name)}
    assert circle(rooms) == []


# Files


def test_no_file_is_a_drawer() -> None:
    drawers = {"utils", "util", "helpers", "common", "misc", "core"}
    for package in (*PACKAGES, "tests", "benchmarks", "examples"):
        for path in (ROOT / package).rglob("*"):
            assert path.stem not in drawers, path
    assert not (ROOT / "docs").exists()


def test_every_folder_says_what_is_in_it() -> None:
    for path in MODULES.values():
        if path.name == "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


@pytest.mark.parametrize("folder", ["diffusion", "networks", "samplers", "training"])
def test_the_folders_of_the_paper_give_their_reading_order(folder: str) -> None:
    text = ast.get_docstring(ast.parse((ROOT / "tinyddpm" / folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert re.search(r"\bRead `", text)
    for path in (ROOT / "tinyddpm" / folder).glob("[!_]*.py"):
        assert f"`{path.stem}`" in text, path


# README


def essential() -> list[tuple[str, list[str], int]]:
    """README's table of what is essential: folder, files, lines."""
    rows = re.findall(r"^\| `([^`]+/)` \| ((?:`\w+`(?:, )?)+) \| [^|]+ \| ([\d,]+) \|$", README, re.MULTILINE)
    return [(folder, re.findall(r"\w+", files), int(lines.replace(",", ""))) for folder, files, lines in rows]


def lines_of(folder: str, name: str) -> int:
    return len((ROOT / folder / f"{name}.py").read_text(encoding="utf-8").splitlines())


def test_the_length_of_the_essential_is_as_printed() -> None:
    table = essential()
    assert len(table) == 5
    for folder, names, printed in table:
        assert sum(lines_of(folder, name) for name in names) == printed, folder
    lines, files = sum(printed for _, _, printed in table), sum(len(names) for _, names, _ in table)
    assert f"The DDPM itself is {lines:,} lines in {files} files." in README


def test_readme_names_every_folder_of_the_packages() -> None:
    code_map = README[README.index("## How the code is laid out") :]
    folders = {path.parent.relative_to(ROOT) for path in MODULES.values() if path.name == "__init__.py"}
    for folder in folders:
        assert f"{folder.name}/" in code_map, folder


def test_what_readme_points_to_is_there() -> None:
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    quoted = re.findall(r"`((?:backends|tinyddpm|tests|benchmarks|examples)/[\w/.-]+)`", README)
    assert linked
    assert quoted
    for path in (*linked, *quoted):
        assert (ROOT / path).exists(), path


# READMEs of folders

KERNELS = ROOT / "backends" / "numba_kernels"
# Text of all sources that the kernels' README may name
SOURCES = "".join(
    path.read_text(encoding="utf-8")
    for folder in ("backends", "tests", "benchmarks", "tinyddpm")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path != Path(__file__)
)


def quoted_code(text: str) -> list[str]:
    """What stands between backticks, blocks of code included."""
    blocks = re.findall(r"```\n(.*?)```", text, re.DOTALL)
    return blocks + re.findall(r"`([^`\n]+)`", re.sub(r"```\n.*?```", "", text, flags=re.DOTALL))


def unknown_names(text: str) -> set[str]:
    """Names of files, functions and constants in quoted code that no source has; other words have no such form."""
    files = {path.name for folder in ("backends", "tests") for path in (ROOT / folder).rglob("*.*")}
    unknown: set[str] = set()
    for code in quoted_code(text):
        unknown |= {name for name in re.findall(r"\b\w+\.(?:py|md)\b", code) if name not in files}
        code = re.sub(r"\w+\.(?:py|md)\b", "", code)
        names = re.findall(r"\b(?!fits_NAME)[A-Za-z]+_\w+|\b[A-Z][a-z]+[A-Z]\w+", code)
        unknown |= {name for name in names if not re.search(rf"\b{name}\b", SOURCES)}
    return unknown


def test_an_unknown_name_is_found() -> None:
    assert unknown_names("`gemm_rows` of `gemm.py`, `PlanType`, a word, `x y`") == set()
    assert unknown_names("`gemm_rowz`\n```\nno.py  WorkerType\n```\n") == {"gemm_rowz", "no.py", "WorkerType"}


def test_what_the_kernels_readme_names_is_there() -> None:
    text = (KERNELS / "README.md").read_text(encoding="utf-8")
    assert unknown_names(text) == set()
    for path in re.findall(r"\]\(([^)#]+)\)", text):
        assert (KERNELS / path).exists(), path


def test_the_kernels_readme_names_every_file() -> None:
    text = " ".join(quoted_code((KERNELS / "README.md").read_text(encoding="utf-8")))
    inner = {"__init__", "addresses", "atomics", "compilation", "forks", "fast_math", "processor", "rows"}
    for path in KERNELS.rglob("*.py"):
        if path.stem not in inner:
            assert re.search(rf"\b{path.stem}\b", text), path


# English

# What crept in by translation, and what to say: subject first, one verb
BANNED = {
    r"(?:^|[.:;] )Of ": "start with the subject",
    r"\bunless told\b": "by default",
    r"\bmade a(?:gain|new)\b|\banew\b": "recomputed, rebuilt, a second time",
    r"\bso many\b": "the number's name",
    r"\b[Ww]hoever\b": "the subject",
    r"\bdear(?:er)?\b": "expensive",
    r"\bat a stroke\b": "at once",
    r"\b[Hh]ears of\b": "listens for",
}


def prose(path: Path) -> list[tuple[int, str]]:
    """Line number and text of each docstring's and comment's lines, or of all lines of a README or notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell["source"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        return list(enumerate((line.rstrip("\n") for source in cells for line in source), 1))
    if path.suffix == ".md":
        return list(enumerate(text.splitlines(), 1))
    found = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            found.append((token.start[0], token.string.lstrip("# ")))
        elif token.type == tokenize.STRING and token.string.startswith('"""'):
            lines = token.string.strip('"').splitlines()
            found += [(token.start[0] + i, line.strip()) for i, line in enumerate(lines)]
    return found


def stumbles(path: Path) -> list[str]:
    """Where a text has what is BANNED, and what to say instead."""
    return [
        f"{path}:{number}: {line!r}: {better}"
        for number, line in prose(path)
        for pattern, better in BANNED.items()
        if re.search(pattern, line)
    ]


def test_a_stumble_is_found(tmp_path: Path) -> None:
    path = tmp_path / "text.py"
    path.write_text('"""Plain.\n\nOf two, the first."""\n\nx = "so many"  # dear\n', encoding="utf-8")
    assert [stumble.split(":")[1] for stumble in stumbles(path)] == ["3", "5"]


def test_prose_is_plain() -> None:
    folders, ends = ("backends", "benchmarks", "examples", "tests", "tinyddpm"), ("py", "md", "ipynb")
    paths = [ROOT / "README.md"] + [p for f in folders for end in ends for p in (ROOT / f).rglob(f"*.{end}")]
    assert [stumble for path in paths if path != Path(__file__) for stumble in stumbles(path)] == []


def test_the_micro_kernel_is_cut_as_its_table_says(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (KERNELS / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [\w-]+ \| (\d+) of (\d+) lanes \| (\d+) × (\d+) \| (\d+) \| (\d+) \|", text, re.MULTILINE)
    assert len(rows) == 4
    for row in rows:
        number, lanes, height, width, pieces, registers = map(int, row)
        monkeypatch.setattr(gemm, "SUMS", gemm.sums_for(Registers(number, lanes)))
        blocks = gemm.blocks(gemm.ROWS)
        assert {(len(block.rows), len(block.sides)) for block in blocks} == {(height, width)}
        assert len(blocks) == pieces
        assert height * width * gemm.WIDTH // lanes == registers
