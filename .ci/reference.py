"""The reference of `tinyddpm` and `backends` as HTML, from their docstrings: `python .ci/reference.py FOLDER`.

It is written only if every docstring renders: else the mistakes are listed, one a line, and the exit status is 1.

Docstrings are Markdown. A mistake is

- a warning of pdoc's,
- a page that does not read as the docstring does: `*` or `_` taken for emphasis, `<…>` for a tag, a picture or a table
  run together into a paragraph because it is not indented by four spaces after an empty line,
- a backtick without its fellow,
- code of the form `name` or `module.name` that names nothing in these packages, Python or what a module imports.
"""

import argparse
import ast
import builtins
import html
import importlib
import keyword
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import zip_longest
from pathlib import Path
from types import ModuleType

import pdoc
import pdoc.doc
import pdoc.render
from pdoc.render_helpers import to_html

ROOT = Path(__file__).parents[1]
PACKAGES = ("backends", "tinyddpm")
# Folders whose modules docstrings may name, but which have no pages
OUTSIDE = ("benchmarks", "tests")
# Names of other projects that docstrings speak of
ELSEWHERE = {
    *("DDPMPipeline.from_pretrained", "DDPMPipeline.save_pretrained", "GroupNorm", "click.Group.main"),
    *("DPMSolverMultistepScheduler", "get_beta_schedule", "numba.cfunc", "p_mean_variance", "prange"),
}
NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")


# Which names there are


@cache
def modules() -> dict[str, ModuleType]:
    """Every module of the packages by its dotted name, but those that run a program when they are imported."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if path.stem != "__main__":
                found[name] = importlib.import_module(name)
    return found


@cache
def words() -> tuple[set[str], set[str], set[str]]:
    """Identifiers of the packages' sources; of these, names of variables and parameters; texts between quotes."""
    known, variables, texts = set(dir(builtins)) | set(keyword.kwlist) | set(PACKAGES), set(), set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            known.add(path.stem)
            known.add(path.parent.name)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Name):
                    known.add(node.id)
                    if isinstance(node.ctx, ast.Store):
                        variables.add(node.id)
                elif isinstance(node, ast.arg):
                    known.add(node.arg)
                    variables.add(node.arg)
                elif isinstance(node, ast.Attribute):
                    known.add(node.attr)
                elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                    known.add(node.name)
                elif isinstance(node, ast.alias):
                    known |= set(node.name.split(".")) | {node.asname or node.name}
                elif isinstance(node, ast.keyword) and node.arg:
                    known.add(node.arg)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
                    # Names of operations, files and loggers; fields of plans, many in one text
                    texts |= {node.value, *re.findall(r"\w+", node.value)}
    return known, variables, texts


def follows(start: object, parts: list[str]) -> bool:
    """Whether start.part.part… exists; what an object of a class holds counts if any code speaks of it."""
    for i, part in enumerate(parts):
        if not hasattr(start, part):
            return not isinstance(start, ModuleType) and all(p in words()[0] for p in parts[i:])
        start = getattr(start, part)
    return True


def names_something(name: str, module: str) -> bool:
    """Whether `name`, written in a docstring of that module, names something."""
    known, variables, texts = words()
    first, *rest = name.split(".")
    if name in ELSEWHERE or name in texts:
        return True
    if first in OUTSIDE:
        parts = len(name.split("."))
        return any(ROOT.joinpath(*name.split(".")[:i]).with_suffix(".py").exists() for i in range(1, parts + 1))
    if not rest:
        return first in known
    here = modules().get(module)
    starts = [there for path, there in modules().items() if path == first or path.endswith(f".{first}")]
    if hasattr(here, first):
        starts.append(getattr(here, first))
    elif not starts:
        starts = [getattr(there, first) for there in modules().values() if hasattr(there, first)]
    if any(follows(start, rest) for start in starts):
        return True
    # A variable of which something is said; else one of our own files or classes was meant
    return first in variables and all(part in known for part in rest)


# What is wrong with a docstring


def paragraphs(text: str) -> str:
    """A docstring's Markdown without blocks of code, fenced or indented by four spaces after an empty line."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    kept, code, empty = [], False, True
    for line in text.splitlines():
        code = (line.startswith("    ") and (code or empty)) or (code and not line.strip())
        empty = not line.strip()
        if not code:
            kept.append(line)
    return "\n".join(kept)


def reads(text: str) -> list[str]:
    """The words of a docstring as they are meant to be read: its Markdown without its marks."""
    text = re.sub(r"^```\w*$|^\|[ |:-]+$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^\|.*\|$", lambda row: row[0].replace("|", " "), text, flags=re.MULTILINE)
    text = re.sub(r"^ *(?:[-*+]|\d+\.) ", "", text, flags=re.MULTILINE)
    text = re.sub(r"\[([^\]]*)\]\(https?:[^)]*\)", r"\1", text)
    return text.replace("`", "").split()


def rendered(text: str) -> list[str]:
    """The words of a docstring's page."""
    return html.unescape(re.sub(r"<[^>]+>", "", str(to_html(text)))).split()


def mistakes(text: str, module: str) -> Iterator[str]:
    """What is wrong with a docstring of that module."""
    prose = paragraphs(text)
    for paragraph in re.split(r"\n\s*\n", prose):
        if paragraph.count("`") % 2:
            yield f"a backtick without its fellow in {paragraph.strip().splitlines()[0]!r}"
            return
    meant, page = reads(text), rendered(text)
    if meant != page:
        pairs = zip_longest(meant, page)
        at = next(i for i, (one, other) in enumerate(pairs) if one != other)
        yield f"{' '.join(meant[at : at + 4])!r} is rendered as {' '.join(page[at : at + 4])!r}"
    for line in prose.splitlines():
        if re.match(r" {2,}\S", line) and not re.match(r" *(?:[-*+]|\d+\.) ", line) and not in_list(prose, line):
            yield f"{line.strip()!r} is run together with its neighbours: indent by four spaces after an empty line"
            break
    for code in re.findall(r"`([^`\n]+)`", prose):
        name = code.removesuffix("()")
        if NAME.fullmatch(name) and not names_something(name, module):
            yield f"`{code}` names nothing"


def in_list(prose: str, line: str) -> bool:
    """Whether an indented line goes on with an item of a list."""
    before = prose[: prose.index(line)].rstrip("\n").splitlines()
    for earlier in reversed(before):
        if re.match(r" *(?:[-*+]|\d+\.) ", earlier):
            return True
        if not earlier.startswith("  "):
            return False
    return False


# The pages


def docs(doc: pdoc.doc.Doc) -> Iterator[pdoc.doc.Doc]:
    """Everything on a page, itself and its members, but for what is only shown there and is written elsewhere."""
    yield doc
    if isinstance(doc, pdoc.doc.Namespace):
        for member in doc.members.values():
            if not isinstance(member, pdoc.doc.Module) and member.taken_from == (member.modulename, member.qualname):
                yield from docs(member)


def all_mistakes() -> list[str]:
    """What is wrong with the docstrings of both packages, each with its place."""
    return [
        f"{doc.fullname}: {mistake}"
        for module in modules().values()
        for doc in docs(pdoc.doc.Module(module))
        for mistake in mistakes(doc.docstring, doc.modulename)
    ]


def build(folder: Path, names: Iterable[str]) -> list[str]:
    """Writes the pages of modules into the folder, one for each. Returns what pdoc warned of."""
    pdoc.render.configure(docformat="markdown")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # A package adds its modules, unless its `__all__` names none: each is named, so that none is left out
        warnings.filterwarnings("ignore", "The module specification .* adds a module named")
        pdoc.pdoc(*names, output_directory=folder)
    return [str(warning.message) for warning in caught]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    sys.path.insert(0, str(ROOT))
    found = all_mistakes() or build(folder, modules())
    print("\n".join(found) or f"wrote {len(list(folder.rglob('*.html')))} pages to {folder}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
