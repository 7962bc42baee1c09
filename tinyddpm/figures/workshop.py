"""What figures are made from: data sets, trained runs, samples of these; in full or in the quick form."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import backends
from tinyddpm import data
from tinyddpm.data.named import ENVIRONMENT
from tinyddpm.errors import InputError
from tinyddpm.evaluation.quality import RealImages
from tinyddpm.figures.recipes import Recipe, recipe
from tinyddpm.generation.images import Drawing, draw
from tinyddpm.reporting.series import Series
from tinyddpm.samplers import DEFAULT_SAMPLER, DEFAULT_SPACING
from tinyddpm.training.checkpoint import Checkpoint
from tinyddpm.training.edits import flat
from tinyddpm.training.run_config import RunConfig
from tinyddpm.training.run_folder import CONFIG, checkpoints, open_checkpoint, read_config
from tinyddpm.training.trainer import TrainConfig

# Where each set lies below the folder of the data sets
FOLDERS = {"mnist": "mnist", "fashion-mnist": "fashion-mnist", "stanford-cars": "cars-128"}
STAND_IN = "digits"
DRAWN = "drawn"
# Figures draw their own
NO_PICTURES = ("--samples", "0")
# In what a run may differ from its recipe: where it lies, how it was kept and looked at, and how it came to its end
FREE = ("data.data_dir", "checkpoint_every", "keep_checkpoints", "validate_every",
        "training.steps", "training.changed_at", "training.changed_lr", "training.recompute")  # fmt: skip


@dataclass
class Workshop:
    """quick: small networks, few steps and samples. runs: the folder of the trained runs. data_dir: as of `data.load`.

    train: called with a run's folder and the words that `tinyddpm train` is to be given, leaves the run finished.
    plan: called with such words, gives the config that they make.
    bar: gives, while samples are drawn, a function that is called with the steps done and all to do. In the
    quick form a set that is not at hand is not fetched: digits stand in for it, and captions say so.
    """

    quick: bool
    runs: Path
    data_dir: str | None
    backend: backends.Backend
    train: Callable[[Path, list[str]], None]
    plan: Callable[[list[str]], RunConfig]
    bar: Callable[[], AbstractContextManager[Callable[[int, int], None]]] = lambda: nullcontext(
        lambda done, total: None
    )
    loaded: dict[Any, data.Dataset] = field(default_factory=dict)
    real: dict[Any, RealImages] = field(default_factory=dict)

    def of(self, full: int, quick: int) -> int:
        """The number for this form."""
        return quick if self.quick else full

    # Data

    def stands_in(self, name: str) -> bool:
        """Whether digits stand in for the set."""
        root = self.data_dir or os.environ.get(ENVIRONMENT)
        return self.quick and not (root is not None and (Path(root) / FOLDERS[name]).is_dir())

    def dataset(self, name: str, side: int | None = None, split: str = "train", color: bool = False) -> data.Dataset:
        """The set, or digits in its place. Raises MissingDataError, naming what to fetch, as `data.load` does."""
        if stand_in := self.stands_in(name):
            name, side = STAND_IN, 16 if color else None
        key = (name, side, split, color)
        if key not in self.loaded:
            data_dir = None if stand_in else self.data_dir
            self.loaded[key] = data.load(name, split=split, image_size=side, color=color or None, data_dir=data_dir)
        return self.loaded[key]

    def said(self, dataset: data.Dataset) -> str:
        """What a caption has to add where digits stand in for another set, or nothing."""
        return " (Digits of scikit-learn, in place of data that are not at hand.)" if dataset.name == STAND_IN else ""

    # Runs

    def folder(self, name: str) -> Path:
        """Where the run of that name is. A quick one lies apart, so that it never passes for the full one."""
        if not self.quick:
            return self.runs / name
        return self.runs / ("quick-digits" if self.stands_in(recipe(name).data) else "quick") / name

    def ensure(self, name: str) -> None:
        """Leaves the run of that name finished: as it is found, resumed, or trained from the start.

        Raises InputError where a run of other data, or of other options, is in its place.
        """
        wanted, folder = recipe(name), self.folder(name)
        steps = wanted.total(self.quick)
        arguments = wanted.arguments(self.quick, self.stands_in(wanted.data))
        if self.data_dir is not None:
            arguments += ["--data-dir", self.data_dir]
        if not (folder / CONFIG).exists():
            self.train(folder, ["--out", str(folder), *arguments, *NO_PICTURES])
            return
        config = read_config(folder)
        expected = STAND_IN if self.stands_in(wanted.data) else wanted.data
        if config.data.name != expected:
            raise InputError(f"{folder} is a run on {config.data.name}, not {expected}; choose another --runs")
        found, planned = flat(config.to_dict()), flat(self.plan(arguments).to_dict())
        for key in planned:
            if key not in FREE and found.get(key) != planned[key]:
                raise InputError(
                    f"{folder} is a run with {key} {found.get(key)!r}, not {planned[key]!r}; choose another --runs, or "
                    "move it away to have it trained again"
                )
        kept = checkpoints(folder)
        if not kept or kept[-1][0] < steps:
            self.train(folder, ["--resume", str(folder), "--steps", str(steps), *NO_PICTURES])

    def state(self, name: str) -> str:
        """What is there of the run, in words."""
        folder, steps = self.folder(name), recipe(name).total(self.quick)
        kept = checkpoints(folder) if (folder / CONFIG).exists() else []
        if not kept:
            return "not trained yet"
        return f"at step {kept[-1][0]:,} of {steps:,}" if kept[-1][0] < steps else "trained"

    def trained(self, name: str, share: float = 1.0) -> "Trained":
        """The finished run at that share of its steps, or the nearest of its checkpoints that are kept evenly.

        Raises InputError where that checkpoint was not kept.
        """
        wanted, folder = recipe(name), self.folder(name)
        step = wanted.step_at(share, self.quick)
        by_step = dict(checkpoints(folder))
        if step not in by_step:
            found = ", ".join(map(str, by_step)) or "none"
            raise InputError(
                f"{folder} has no checkpoint of step {step} (only {found}); move it away to have it trained again"
            )
        return Trained(name, wanted, folder, open_checkpoint(by_step[step], self.backend), self)

    def history(self, name: str) -> list["Trained"]:
        """The run at each of the checkpoints that its recipe keeps, the last one at its end."""
        kept = recipe(name).kept
        return [self.trained(name, (i + 1) / kept) for i in range(kept)]


@dataclass
class Trained:
    """A run at one of its checkpoints, averaged weights."""

    name: str
    recipe: Recipe
    folder: Path
    checkpoint: Checkpoint
    workshop: Workshop

    @property
    def step(self) -> int:
        """Optimiser steps taken."""
        return self.checkpoint.step

    @cached_property
    def training(self) -> TrainConfig:
        """How it was trained."""
        return read_config(self.folder).training

    @property
    def epoch(self) -> float:
        """Epochs taken."""
        return self.step * self.training.batch_size * self.training.accumulate / len(self.dataset())

    @property
    def at(self) -> str:
        """When, in words."""
        return f"epoch {self.epoch:.3g}"

    @property
    def parameters(self) -> int:
        """How many."""
        return int(self.checkpoint.model.params.shape[0])

    def dataset(self, split: str = "train") -> data.Dataset:
        """The images that it was trained on, or those of the same set that it was not."""
        config = self.checkpoint.model.config
        height, _ = config.size
        return self.workshop.dataset(self.recipe.data, height, split, config.in_channels == 3)

    def samples(self, count: int, steps: int, *, seed: int = 0, **options: Any) -> np.ndarray:
        """Images (count, H, W, C) uint8, every label in turn; options as of `draw`.

        They are kept beside the run, batch by batch, so that a figure that was interrupted goes on where it was.
        """
        steps = min(steps, self.checkpoint.diffusion.schedule.T)
        options = {"sampler": DEFAULT_SAMPLER, "spacing": DEFAULT_SPACING, "seed": seed, **options}
        words = [f"{key}-{value}" for key, value in sorted(options.items())]
        path = self.folder / DRAWN / f"{'_'.join([f'step-{self.step:08d}', f'{count}-in-{steps}', *words])}.npz"
        if not path.exists():
            # What other weights have begun there is of no use
            series = Series(path, Drawing(self.checkpoint, steps, **options), count, overwrite=True)
            with series, self.workshop.bar() as progress:
                series.draw(progress)
        with np.load(path, allow_pickle=False) as file:
            return np.array(file["images"])

    def draw(self, count: int, steps: int, **options: Any) -> np.ndarray:
        """The same, drawn in any case and not kept."""
        with self.workshop.bar() as progress:
            images, _ = draw(self.checkpoint, count, steps, progress=progress, **options)
        return images
