"""Executes the notebooks of examples/notebooks afresh, and fails at the first error.

    .ci/notebooks.py            every notebook, in a new kernel; nothing is written
    .ci/notebooks.py --write    keeps the outputs in the .ipynb, without times and paths, and notes of which source

`tests/examples/test_notebooks.py` finds outputs that are not of the source beside them. Needs the extra `notebook`.
"""

import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"


def source_hash(notebook) -> str:
    """Of all code cells, in their order."""
    cells = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:16]


def tidy(notebook) -> None:
    """Takes out what differs from run to run or machine to machine, so that a diff shows what changed."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "executed": source_hash(notebook),
    }
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
        for output in cell.get("outputs", ()):
            if "metadata" in output:
                output.metadata = {}
            # The picture's text form holds sizes only
            if "image/png" in output.get("data", {}):
                output.data.pop("text/plain", None)


def main(write: bool) -> None:
    """All notebooks, in the order of their names."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        started = time.perf_counter()
        notebook = nbformat.read(path, as_version=4)
        with tempfile.TemporaryDirectory() as scratch:
            NotebookClient(notebook, timeout=600, resources={"metadata": {"path": scratch}}).execute()
        if write:
            tidy(notebook)
            nbformat.write(notebook, path)
        print(f"{path.name}: executed in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main("--write" in sys.argv[1:])
