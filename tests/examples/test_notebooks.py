"""The notebooks as committed: outputs of an execution in order, of the very source beside them, without its traces.

`.ci/notebooks.py` executes them; here nothing runs.
"""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
LARGEST = 400_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_of_the_source_beside_them(path):
    pytest.importorskip("nbclient", reason="the extra `notebook` is not installed")
    spec = importlib.util.spec_from_file_location("notebooks_script", ROOT / ".ci" / "notebooks.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    notebook = json.loads(path.read_text(encoding="utf-8"))
    seen = script.source_hash(script.nbformat.read(path, as_version=4))
    assert notebook["metadata"]["executed"] == seen, "run .ci/notebooks.py --write"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_small_and_holds_nothing_of_the_machine(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < LARGEST
    # Absolute paths, times, addresses in memory
    assert not re.findall(r"[\s\"'(]/[a-z]+/[\w.-]+|iopub|Warning|0x7f", text)


def test_both_are_there():
    assert len(NOTEBOOKS) == 2
