"""The examples as README promises them: numbered without a gap, named there, short, with a picture at the end."""

import ast
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("[0-9]*.py"))


def test_numbers_have_no_gap():
    assert [path.name[:2] for path in EXAMPLES] == [f"{i:02d}" for i in range(1, len(EXAMPLES) + 1)]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_writes_the_picture_that_it_announces(path):
    text = path.read_text(encoding="utf-8")
    # The lines of code: neither the text at the top nor blank ones
    begin = ast.parse(text).body[0].end_lineno
    assert sum(bool(line.strip()) for line in text.splitlines()[begin:]) <= 75
    announced = re.search(r"Writes (\w+\.png)", ast.get_docstring(ast.parse(text)))
    assert announced
    assert text.count(f'"{announced[1]}"') == 1
