"""The picture of the loss: any run, any name, and an axis that can be read."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from tests.tinyddpm.tiny_runs import tree
from tinyddpm.reporting.loss_curve import label_decades, save_loss_curve


def losses_of(*losses: float) -> list[dict[str, Any]]:
    return [{"step": i + 1, "loss": loss} for i, loss in enumerate(losses)]


@pytest.mark.parametrize("losses", [[], [1.0], list(1 / np.arange(1, 200)), [1e-30, 1e30], [0.5, 0.4] * 13])
def test_any_length(tmp_path: Path, losses: list[float]) -> None:
    save_loss_curve(tmp_path / "loss.png", losses_of(*losses), "digits")
    with Image.open(tmp_path / "loss.png") as picture:
        assert picture.size == (770, 440)


@pytest.mark.parametrize("title", ["", r"$\frac{", "a$b$c_^", "bilder_für_später", "100%"])
def test_any_name(tmp_path: Path, title: str) -> None:
    save_loss_curve(tmp_path / "loss.png", losses_of(1.0), title)
    assert (tmp_path / "loss.png").exists()


def test_the_same_bytes_again_and_others_with_held_out_images(tmp_path: Path) -> None:
    plain, looked = (losses_of(*(1 / (i + 1) for i in range(50))) for _ in range(2))
    for row in looked[9::10]:
        row |= {"validation_loss": row["loss"] * 1.1, "validation_loss_ema": row["loss"]}
    for name, metrics in (("a", plain), ("b", plain), ("looked", looked)):
        save_loss_curve(tmp_path / f"{name}.png", metrics, "digits")
    seen = tree(tmp_path)
    assert seen["a.png"] == seen["b.png"] != seen["looked.png"]


def test_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_loss_curve(tmp_path / "loss.png", [], "")
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    ("low", "high"), [(0.12, 1.1), (0.028, 1.05), (0.031, 0.036), (0.3, 0.9), (1e-3, 5), (1e-30, 1e30), (5, 49), (1, 1)]
)
def test_the_axis_has_four_numbers_or_more(low: float, high: float) -> None:
    """Powers of ten alone are two labels or fewer between 0.12 and 1.1."""
    figure = Figure()
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.semilogy([low, high])
    label_decades(axes)
    figure.canvas.draw()
    bottom, top = axes.get_ylim()
    labels = [
        label.get_text()
        for label, place in zip(axes.yaxis.get_ticklabels(), axes.yaxis.get_ticklocs(), strict=True)
        if bottom <= place <= top
    ]
    assert 4 <= len(labels) <= 11
    assert len(set(labels)) == len(labels)
    assert [float(label) for label in labels] == sorted(map(float, labels))
