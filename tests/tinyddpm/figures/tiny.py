"""Recipes so small that all figures are drawn in a test."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tinyddpm.tiny_runs import succeed
from tinyddpm.data.named import ENVIRONMENT
from tinyddpm.figures.recipes import RECIPES

NETWORK = "--base-channels 4 --channel-mults 1,2 --groups 2 --batch-size 4"
FULL_NETWORK = f"{NETWORK} --num-res-blocks 1 --num-heads 2 --attention-resolutions="


@contextmanager
def tiny_recipes() -> Iterator[None]:
    """Within, quick runs are two steps for each checkpoint that is kept, of a tiny network, on digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(ENVIRONMENT, raising=False)
        for name, recipe in RECIPES.items():
            quick = NETWORK if "--model simple" in recipe.options else FULL_NETWORK
            patch.setitem(RECIPES, name, replace(recipe, quick=quick, quick_steps=2 * recipe.kept))
        yield


def draw(folder: Path, *words: object) -> str:
    """`tinyddpm figures --quick` with these words, into folder/figures from folder/runs; what it printed."""
    places = ("-o", folder / "figures", "--runs", folder / "runs")
    with tiny_recipes():
        return succeed("figures", *words, "--quick", *places, "--backend", "numpy")
