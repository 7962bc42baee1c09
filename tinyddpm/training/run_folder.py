"""Run folders: config.json, metrics.jsonl, checkpoints/, and the pictures of a training run."""

import json
import os
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import backends
from tinyddpm import data
from tinyddpm.data.summary import Summary
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.errors import DamagedFileError, InputError, MissingDataError
from tinyddpm.files import remove_partial, write_atomically
from tinyddpm.networks.registry import build_network
from tinyddpm.training.checkpoint import Checkpoint, load, save
from tinyddpm.training.run_config import RunConfig
from tinyddpm.training.run_data import ENTRY, as_model, check_labels, known_data, load_again
from tinyddpm.training.starting_weights import StartingWeights
from tinyddpm.training.trainer import Metrics, Trainer
from tinyddpm.training.validation import ValidatedMetrics, Validation, hold_out

CONFIG, METRICS, CHECKPOINTS = "config.json", "metrics.jsonl", "checkpoints"
CHECKPOINT_NAME = re.compile(r"step-(\d+)\.safetensors")


class Run:
    """A training run in a folder.

    `Run.create` starts one, `Run.resume` goes on from its last checkpoint; `record` logs a step and
    `checkpoint` saves one and deletes those past `keep_checkpoints`. summary: what the data are, which every
    checkpoint keeps. validation: of held-out images, where the config asks for it; `validated` adds its losses to a
    step's metrics.
    """

    def __init__(
        self, folder: Path, config: RunConfig, trainer: Trainer, summary: Summary, validation: Validation | None = None
    ) -> None:
        self.folder, self.config, self.trainer = folder, config, trainer
        self.summary, self.validation = summary, validation

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        config: RunConfig,
        backend: backends.Backend | None = None,
        dataset: data.Dataset | None = None,
        start: StartingWeights | None = None,
    ) -> "Run":
        """A new run; dataset: the config's, where it is loaded already; start: weights instead of fresh ones.

        The config that the run keeps has the absolute places of its data. Raises InputError if the folder already
        holds a run, is a file or that of the images, or if the images do not fit the model.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; a run needs a folder, choose another --out")
        if (folder / CONFIG).exists():
            raise InputError(f"{folder} already holds a run; go on with --resume {folder}, or choose another --out")
        # A run killed during creation leaves only step 0; a later checkpoint is real work and is not overwritten
        if (folder / METRICS).exists() or any(step > 0 for step, _ in checkpoints(folder)):
            raise InputError(f"{folder} holds what is left of a run without {CONFIG}; choose another --out")
        if config.data.name not in data.NAMES and os.path.realpath(folder) == os.path.realpath(config.data.name):
            raise InputError(f"{folder} is the folder of the images; choose another --out, so that pictures stay apart")
        dataset = config.data.load() if dataset is None else dataset
        config = replace(config, data=config.data.at())
        diffusion = config.diffusion.build()
        batches, validation = cls.images(config, diffusion, dataset)
        model = build_network(config.model, backend=backend, seed=config.training.seed)
        if start is not None:
            start.fill(model)
        trainer = Trainer(model, diffusion, batches, config.training)
        run = cls(folder, config, trainer, dataset.summary, validation)
        remove_leftovers(folder)
        # Before the config, so that whatever shows itself as a run can be resumed
        run.checkpoint()
        run.write_config()
        return run

    @classmethod
    def resume(
        cls,
        folder: str | os.PathLike[str],
        backend: backends.Backend | None = None,
        steps: int | None = None,
        *,
        name: str | None = None,
        data_dir: str | None = None,
        accept_data: bool = False,
    ) -> "Run":
        """The run in folder at its last checkpoint, bit for bit as it was.

        steps: a new total. name, data_dir: where the data are now, as of `DataConfig`. accept_data: go on even if
        they changed, as far as the model has labels for their classes.
        Raises MissingDataError where there is no run, no checkpoint or no data, DamagedFileError for a broken one,
        InputError for steps fewer than those taken, a checkpoint that does not go with the config, or changed data.
        """
        folder = Path(folder)
        config = read_config(folder)
        if steps is not None:
            config = replace(config, training=replace(config.training, steps=steps))
        if name is not None or data_dir is not None:
            config = replace(config, data=config.data.at(name, data_dir))
        path, checkpoint = last_checkpoint(folder), open_checkpoint(folder, backend)
        if checkpoint.optimizer is None or checkpoint.ema is None:
            raise InputError(f"{path} holds no optimiser state, so training cannot go on; start a new run")
        if checkpoint.model.config != config.model:
            raise InputError(f"{path} is of another model than {folder / CONFIG}; put back the file that was changed")
        if steps is not None and steps < checkpoint.step:
            raise InputError(
                f"{folder} has already taken {checkpoint.step} steps; give --steps of at least that, got {steps}"
            )
        dataset = load_again(config, known_data(checkpoint), accept=accept_data)
        batches, validation = cls.images(config, checkpoint.diffusion, dataset)
        trainer = Trainer(
            checkpoint.model,
            checkpoint.diffusion,
            batches,
            config.training,
            checkpoint.optimizer,
            checkpoint.ema,
            checkpoint.step,
        )
        kept = [row for row in read_metrics(folder) if row["step"] <= checkpoint.step]
        run = cls(folder, config, trainer, dataset.summary, validation)
        # Nothing was written before all of the above was found sound
        remove_leftovers(folder)
        run.prune()
        write_atomically(folder / METRICS, "".join(json.dumps(row) + "\n" for row in kept).encode())
        if (steps, name, data_dir) != (None, None, None):
            run.write_config()
        return run

    @staticmethod
    def images(
        config: RunConfig, diffusion: Diffusion, dataset: data.Dataset
    ) -> tuple[data.Batches, Validation | None]:
        """The training batches, and where the config asks for it the images held out.

        The images and their labels must fit the model.
        """
        validation = None
        seen, wanted = dataset.images.shape[1:], (*config.model.size, config.model.in_channels)
        if seen != wanted:
            raise InputError(
                f"the images are {'x'.join(map(str, seen))}, the model takes {'x'.join(map(str, wanted))}; "
                "set image_size and color of the data, or image_size and in_channels of the model"
            )
        check_labels(dataset, config.model.num_classes)
        if config.validate_every:
            dataset, held_out, source = hold_out(as_model(config), dataset)
            validation = Validation(held_out, diffusion, source)
        return data.Batches(dataset, config.training.batch_size, config.training.seed, config.data.flip), validation

    def write_config(self) -> None:
        """Writes config.json."""
        write_atomically(self.folder / CONFIG, (json.dumps(self.config.to_dict(), indent=2) + "\n").encode())

    def record(self, metrics: Metrics) -> None:
        """Appends a step to metrics.jsonl."""
        with open(self.folder / METRICS, "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(metrics)) + "\n")

    def due(self) -> bool:
        """Whether a checkpoint is due at this step."""
        step = self.trainer.step
        return step % self.config.checkpoint_every == 0 or step >= self.config.training.steps

    def validation_due(self) -> bool:
        """Whether to look at the held-out images after this step: as often as the config says, and after the last."""
        step, every = self.trainer.step, self.config.validate_every
        return every > 0 and (step % every == 0 or step >= self.config.training.steps)

    def validated(self, metrics: Metrics) -> ValidatedMetrics:
        """The metrics of the trainer's step with the losses on held-out images.

        Raises NonFiniteError where weights, or a loss, are NaN or infinite, InputError where nothing is held out.
        """
        if self.validation is None:
            raise InputError("nothing is held out where validate_every is 0; give the config a number of steps")
        self.trainer.check_finite()
        return self.validation.measure(metrics, self.trainer.model, self.trainer.ema.params)

    def checkpoint(self) -> Path:
        """Saves the state and deletes the oldest checkpoints past the number to keep.

        Raises NonFiniteError, nothing saved or deleted, where weights have become NaN or infinite.
        """
        trainer = self.trainer
        trainer.check_finite()
        path = self.folder / CHECKPOINTS / f"step-{trainer.step:08d}.safetensors"
        save(
            path,
            trainer.model,
            trainer.diffusion,
            optimizer=trainer.optimizer,
            ema=trainer.ema,
            step=trainer.step,
            extra={ENTRY: self.summary.to_dict()},
        )
        self.prune()
        return path

    def prune(self) -> None:
        """Deletes the oldest checkpoints past the number to keep."""
        for _, old in checkpoints(self.folder)[: -self.config.keep_checkpoints]:
            old.unlink()


def remove_leftovers(folder: Path) -> None:
    """Deletes what a killed process left half-written in a run's folder."""
    for place in (folder, folder / CHECKPOINTS):
        remove_partial(place)


def read_config(folder: Path) -> RunConfig:
    """The config of the run in folder. Raises MissingDataError or DamagedFileError."""
    path = folder / CONFIG
    if not path.is_file():
        raise MissingDataError(f"{folder} holds no run (no {CONFIG}); give the folder that --out named")
    try:
        return RunConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except InputError as error:
        raise InputError(f"{path} cannot be used: {error}; put it back as it was, or start a new run") from error
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(
            f"{path} is not valid JSON ({error}); put it back as it was, or start a new run"
        ) from error


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The logged steps, up to the first line that is none: a crash can cut the last one short.

    Each row has the fields of `Metrics`, its "loss" that of the step alone; after a look at held-out images those of
    `ValidatedMetrics` as well.
    """
    path = folder / METRICS
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
            row = asdict((ValidatedMetrics if "validation_loss" in row else Metrics)(**row))
        except (ValueError, TypeError):
            break
        if not all(isinstance(value, int | float) for value in row.values()):
            break
        rows.append(row)
    return rows


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints of the run in folder with their steps, oldest first; other files are left alone."""
    named = ((CHECKPOINT_NAME.fullmatch(path.name), path) for path in (folder / CHECKPOINTS).glob("*"))
    return sorted((int(found[1]), path) for found, path in named if found)


def last_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The newest checkpoint of a run folder, or path itself where it is a file. Raises MissingDataError."""
    path = Path(path)
    if path.is_file():
        return path
    found = checkpoints(path)
    if not found:
        raise MissingDataError(f"no checkpoint in {path}; give a run folder or a .safetensors file")
    return found[-1][1]


def open_checkpoint(path: str | os.PathLike[str], backend: backends.Backend | None = None) -> Checkpoint:
    """The newest checkpoint of a run folder, or the checkpoint file itself. Raises InputError as `load` does."""
    try:
        return load(last_checkpoint(path), backend)
    except DamagedFileError as error:
        if len(older := checkpoints(Path(path))[:-1]) == 0:
            raise
        raise DamagedFileError(f"{error} (delete it to go back to step {older[-1][0]})") from error
