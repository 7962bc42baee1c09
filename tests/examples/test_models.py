"""The models that come along: small, with a card, and drawn from at once by every sampler."""

from pathlib import Path

import numpy as np
import pytest

from tinyddpm.evaluation.classifier import load_classifier, look, shipped
from tinyddpm.generation.images import draw
from tinyddpm.samplers import SAMPLERS
from tinyddpm.training.run_folder import open_checkpoint, read_config

MODELS = sorted(path.parent for path in Path(__file__).parents[2].glob("examples/models/*/config.json"))
MEGABYTE = 1_000_000


def names() -> list[str]:
    return [model.name for model in MODELS]


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_there_are_some_and_they_are_small() -> None:
    assert MODELS
    assert all(size(model) <= 8 * MEGABYTE for model in MODELS)
    assert sum(map(size, MODELS)) <= 20 * MEGABYTE


@pytest.mark.parametrize("model", MODELS, ids=names())
def test_each_has_a_card_of_its_own(model: Path) -> None:
    card = (model / "README.md").read_text(encoding="utf-8")
    for word in ('license: "mit"', "licence of the data", "seconds", "Fréchet distance over that of real images"):
        assert word in card
    for command in ("sample", "train --config", "train --init"):
        assert f"tinyddpm {command} examples/models/{model.name} " in card
    assert "unknown" not in card


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("model", MODELS, ids=names())
def test_every_sampler_draws_what_is_asked_for(model: Path, sampler: str) -> None:
    """Three in four of thirty images in fifteen steps are given to the class that they were drawn for; one in ten
    would be by chance."""
    weights = shipped(read_config(model).data.name)
    assert weights is not None
    classifier, _ = load_classifier(weights)
    spacing = "trailing" if sampler == "ddpm" else "karras"
    images, _ = draw(open_checkpoint(model), 30, 15, sampler=sampler, spacing=spacing)
    seen = np.argmax(look(classifier, images).probabilities, axis=1)
    assert np.mean(seen == np.arange(30) % 10) >= 0.75
