"""The reference is written from docstrings that render; each kind of mistake in one is refused, and said by name."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from backends import OPS

pytest.importorskip("pdoc", reason="pdoc is not installed; run: pip install -e '.[docs]'")

ROOT = Path(__file__).parents[1]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / ".ci" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = load()
HERE = "backends.numba_kernels.convolution.winograd"


def found(text: str, module: str = HERE) -> list[str]:
    return list(reference.mistakes(text, module))


GOOD = """A sum, `forward_layout` and `vectors.gemm`, of (N, H, W, C) in `np.float32`.

x: 3 * 4 and a_b; `kinds.geometry` of `Kind`; `plan.v_bytes`, `x * y`, `backends.ops.OPS`.

    a picture   [ 1  2 ]
       with <tags> and *stars*

- an item
  that goes on
- another

| a | b |
| --- | --- |
| 1 | 2 |
"""


def test_a_good_docstring_passes() -> None:
    assert found(GOOD) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Of `winograd.forward_layouts`.", "`winograd.forward_layouts` names nothing"),
        ("Of `backends.ops.nothing`.", "`backends.ops.nothing` names nothing"),
        ("Of `forward_layouts`.", "`forward_layouts` names nothing"),
        ("Of `forward_layouts()`.", "`forward_layouts()` names nothing"),
        ("Of `kinds.Kind.side`.", None),
        ("Of `layouts.Layout.sizes_of_all`.", "`layouts.Layout.sizes_of_all` names nothing"),
        ("Of `benchmarks.no_such_file`.", "`benchmarks.no_such_file` names nothing"),
        ("Of `benchmarks.operation_cases.Numbers`.", None),
        ("One ` alone.", "a backtick without its fellow in 'One ` alone.'"),
        ("Rows of kh*kw*C.", "'kh*kw*C.' is rendered as 'khkwC.'"),
        ("The **whole** of it.", "'**whole** of it.' is rendered as 'whole of it.'"),
        ("<b, a> is lost.", "'<b, a> is lost.' is rendered as 'is lost.'"),
        ("A picture:\n\n  x ->\n  y", "'x ->' is run together with its neighbours"),
        ("A picture:\n    x -> y\n", "'x -> y' is run together with its neighbours"),
    ],
)
def test_a_mistake_is_said(text: str, said: str | None) -> None:
    assert [mistake for mistake in found(text) if said is None or not mistake.startswith(said)] == []
    assert bool(found(text)) == (said is not None)


def test_a_bad_docstring_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(OPS["linear"].forward, "__doc__", "As `linear_forward`.")
    monkeypatch.setattr(sys, "argv", ["reference.py", str(tmp_path / "pages")])
    assert reference.main() == 1
    assert capsys.readouterr().out == "backends.ops.linear.linear: `linear_forward` names nothing\n"
    assert not (tmp_path / "pages").exists()


def test_a_warning_is_a_mistake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "lacking.py").write_text('"""A module."""\n__all__ = ["missing"]\n', encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    (message,) = reference.build(tmp_path / "pages", ["lacking"])
    assert message.startswith("Found 'missing' in lacking.__all__")


@pytest.mark.slow
def test_the_pages_are_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["reference.py", str(tmp_path)])
    status = reference.main()
    assert (status, capsys.readouterr().out) == (
        0,
        f"wrote {len(list(tmp_path.rglob('*.html')))} pages to {tmp_path}\n",
    )
    for name in reference.modules():
        if not name.startswith("_"):
            assert (tmp_path / name.replace(".", "/")).with_suffix(".html").exists(), name
    page = (tmp_path / "backends/ops/attention.html").read_text(encoding="utf-8")
    assert 'id="attention_backward"' in page
    assert "Vaswani et al. 2017, eq. 1" in page


def test_names_of_other_projects_are_in_use() -> None:
    texts = "".join(path.read_text(encoding="utf-8") for p in reference.PACKAGES for path in (ROOT / p).rglob("*.py"))
    assert [name for name in reference.ELSEWHERE if f"`{name}`" not in texts] == []
