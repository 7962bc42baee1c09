"""The recipes are trainings that there can be, and their checkpoints are where figures look."""

import math
from dataclasses import replace
from typing import Any

import pytest

from tinyddpm.cli import main
from tinyddpm.cli.configuration import run_config
from tinyddpm.cli.train import train
from tinyddpm.data import NAMES
from tinyddpm.errors import InputError
from tinyddpm.figures.comparisons import SHARES
from tinyddpm.figures.recipes import EPOCH, RECIPES, recipe
from tinyddpm.figures.registry import FIGURES
from tinyddpm.networks.registry import build_network, kind_of, network
from tinyddpm.training.run_config import RunConfig


def config_of(arguments: list[str]) -> RunConfig:
    """What `tinyddpm train` would make of them."""
    with train.make_context("train", arguments, parent=main.make_context("tinyddpm", ["train"])) as context:
        options = dict(context.params)
        return run_config(options)[0]


def parameters(config: Any) -> int:
    return sum(math.prod(d.shape) for d in network(str(kind_of(config))).model.declarations(config))


@pytest.mark.parametrize("name", RECIPES)
def test_quick_forms_on_digits(name: str) -> None:
    config = config_of(recipe(name).arguments(quick=True, stand_in=True))
    assert config.data.name == "digits"
    assert build_network(config.model).params.shape[0] < 250_000
    assert config.training.steps == recipe(name).quick_steps


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_full_forms(name: str, data_dir: Any) -> None:
    config = config_of([*recipe(name).arguments(quick=False), "--data-dir", str(data_dir)])
    assert config.data.name == recipe(name).data
    assert config.training.steps == recipe(name).steps
    # What is looked at in the middle does not depend on the end
    assert config.training.lr_decay == ("constant" if recipe(name).kept > 1 else config.training.lr_decay)
    # Both forms differ in size alone
    quick = config_of([*recipe(name).arguments(quick=True), "--data-dir", str(data_dir)])
    assert quick.diffusion == config.diffusion
    assert kind_of(quick.model) == kind_of(config.model)
    assert quick.model.time_embedding == config.model.time_embedding


@pytest.mark.slow
def test_simple_and_full_have_about_as_many_parameters(data_dir: Any) -> None:
    full, simple = (
        parameters(config_of([*recipe(name).arguments(quick=False), "--data-dir", str(data_dir)]).model)
        for name in ("full", "simple")
    )
    assert abs(simple / full - 1) < 0.03


@pytest.mark.parametrize("name", RECIPES)
def test_checkpoints_are_even_and_end_with_the_run(name: str) -> None:
    found = recipe(name)
    assert found.data in NAMES
    assert found.minutes <= 120
    for quick in (False, True):
        total = found.total(quick)
        assert total % found.kept == 0
        steps = {found.step_at((i + 1) / found.kept, quick) for i in range(found.kept)}
        assert len(steps) == found.kept
        assert max(steps) == total
        words = found.arguments(quick)
        every = int(words[words.index("--checkpoint-every") + 1])
        assert all(step % every == 0 for step in steps)


def test_epochs_9_and_12_are_kept() -> None:
    for name in ("mnist-linear", "mnist-cosine"):
        assert [recipe(name).step_at(share, quick=False) for share in SHARES] == [9 * EPOCH, 12 * EPOCH]
    linear, cosine = recipe("mnist-linear"), recipe("mnist-cosine")
    assert replace(linear, options=linear.options.replace("linear", "cosine")) == cosine
    assert recipe("fashion-linear").steps == 5 * EPOCH
    assert recipe("fashion-linear").data == "fashion-mnist"


def test_every_run_is_of_a_figure_and_known() -> None:
    assert {run for figure in FIGURES.values() for run in figure.runs} == RECIPES.keys()
    with pytest.raises(InputError, match=r"run must be one of fashion-linear, .* got 'nothing'"):
        recipe("nothing")
