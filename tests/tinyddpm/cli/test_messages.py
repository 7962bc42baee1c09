"""Messages name only what there is: options, extras to install, commands, and READMEs' commands with theirs."""

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from benchmarks.__main__ import main as benchmarks
from tinyddpm.cli import main

ROOT = Path(__file__).parents[3]
OPTION = re.compile(r"(?<![\w-])--([a-z][a-z-]*[a-z])(?![\w=-])")
# Options of compilers and pip, not ours
FOREIGN = {"--ptxas-options", "--device-as-default-execution-space", "--upgrade"}


def options(command: click.Command) -> set[str]:
    """All spellings of a command's options."""
    named = [option for option in command.params if isinstance(option, click.Option)]
    return {name for option in named for name in (*option.opts, *option.secondary_opts)} | {"--help"}


def all_options(group: click.Group) -> set[str]:
    """Those of all commands of a group, and its own."""
    return {"--version"}.union(*(options(command) for command in group.commands.values()))


def texts(path: Path) -> Iterator[str]:
    """All strings of a source, docstrings too; of an f-string what it has between its values."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def named_in(path: Path) -> set[str]:
    """The options that a source's texts name."""
    return {f"--{name}" for text in texts(path) for name in OPTION.findall(text)} - FOREIGN


SOURCES = [path for folder in ("tinyddpm", "backends") for path in sorted((ROOT / folder).rglob("*.py"))]


def test_an_option_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text('raise ValueError(f"{x} is wrong; use --no-such-thing or --lr {y}")')
    assert named_in(tmp_path / "a.py") - all_options(main) == {"--no-such-thing"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_options_in_messages_exist(path: Path) -> None:
    own = main.commands.get(path.stem) if path.parent.name == "cli" else None
    # A command's own file may send to another command, as "stopped; go on with: tinyddpm train --resume" does
    known = all_options(main) if own is None else options(own) | {"--resume", "--out"}
    assert named_in(path) <= known


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").rglob("*.py")), ids=lambda path: path.stem)
def test_options_in_messages_of_benchmarks_exist(path: Path) -> None:
    # MNN's converter has --bizCode; benchmarks.gpu gives itself --child
    assert named_in(path) <= all_options(benchmarks) | all_options(main) | {"--biz", "--child"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_in_messages_exist(path: Path) -> None:
    for text in texts(path):
        for found in re.findall(r"`tinyddpm ([a-z]+)|tinyddpm ([a-z]+) --", text):
            assert "".join(found) in main.commands, text
        for name in re.findall(r"python -m benchmarks ([a-z]+)", text):
            assert name in benchmarks.commands, text


def test_extras_in_messages_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    everywhere = "\n".join(path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *SOURCES])
    found = re.findall(r"(?:\.|tinyddpm)\[([a-z,-]+)\]", everywhere)
    assert found
    for names in found:
        assert set(names.split(",")) <= extras.keys(), names


def commands_of_readme() -> Iterator[tuple[click.Command, list[str]]]:
    """Every command line of ours in README.md, in blocks or between backticks."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```\n(.*?)```", text, re.DOTALL)
    quoted = re.findall(r"`([^`\n]+)`", text) + [line for block in blocks for line in block.splitlines()]
    for line in (part for whole in quoted for part in whole.split("&&")):
        for pattern, group in (
            (r"(?:\S*/)?tinyddpm (\w.*)", main),
            (r"(?:\S*/)?python -m benchmarks (\w.*)", benchmarks),
        ):
            if found := re.fullmatch(pattern, line.strip()):
                name, *rest = shlex.split(found[1])
                if name in group.commands:
                    yield group.commands[name], rest
                else:
                    assert not re.fullmatch(r"[a-z]+", name), line


COMMANDS = list(commands_of_readme())


def test_readme_has_commands() -> None:
    assert len(COMMANDS) >= 15


@pytest.mark.parametrize(
    ("command", "arguments"), COMMANDS, ids=lambda value: " ".join(getattr(value, "name", "") or value)
)
def test_commands_of_readme_are_understood(command: click.Command, arguments: list[str]) -> None:
    """Their options, values and arguments; a command in passing may leave out what it needs."""
    needed = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
    given = [word for word in arguments if word.isupper() or "/" in word]
    parent = main.make_context("tinyddpm", [command.name])  # whose settings hold for its commands
    context = command.make_context(command.name, [*arguments, *["x"] * (len(needed) - len(given))], parent)
    assert context.params
