"""Run folders: config.json, metrics.jsonl, checkpoints/, and the pictures of a training run."""

import json
import os
import re
import weakref
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

import backends
from tinyddpm import data
from tinyddpm.data.summary import Summary
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.errors import DamagedFileError, InputError, MissingDataError
from tinyddpm.files import append_line, named, remove_partial, write_atomically
from tinyddpm.locks import FolderLock, check_free, hold
from tinyddpm.networks.registry import build_network
from tinyddpm.training.checkpoint import PACKED, Checkpoint, load, save
from tinyddpm.training.edits import ENTRY as CONFIG_ENTRY
from tinyddpm.training.edits import accepted, config_of
from tinyddpm.training.run_config import RunConfig
from tinyddpm.training.run_data import ENTRY as DATA_ENTRY
from tinyddpm.training.run_data import as_model, check_labels, known_data, load_again
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
    step's metrics. changes: lines that say what is not as it was when the run last stood still. The folder is locked
    for this process (`locks`) until the run is closed, as the end of a `with` does, or forgotten.
    """

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        trainer: Trainer,
        lock: FolderLock,
        summary: Summary,
        validation: Validation | None = None,
    ) -> None:
        self.folder, self.config, self.trainer, self.lock = folder, config, trainer, lock
        self.summary, self.validation = summary, validation
        self.changes: list[str] = []
        self.close = weakref.finalize(self, lock.release)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
        holds a run, is a file or that of the images, if another process is at work there, or if the images do not fit
        the model.
        """
        folder = Path(folder)
        check_new(folder)
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
        run = cls(folder, config, trainer, hold(folder), dataset.summary, validation)
        try:
            # Another process may have been quicker
            check_new(folder)
            remove_leftovers(folder)
            # Before the config, so that whatever shows itself as a run can be resumed
            run.checkpoint()
            write_config(folder, config)
        except BaseException:
            run.close()
            raise
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
        they changed, as far as the model has labels for their classes. Edits of config.json are taken, and told in
        `changes`, except those of model and diffusion; with other steps or rates the learning rate goes over smoothly
        (`TrainConfig`). Raises MissingDataError where there is no run, no checkpoint or no data, DamagedFileError for a
        broken one, InputError for steps fewer than those taken, a checkpoint that does not go with the config, changed
        data, or a folder in which another process is at work.
        """
        folder = Path(folder)
        read_config(folder)  # before a lock is made where no run is
        check_no_packed_model(folder)
        lock = hold(folder)
        try:
            written = read_config(folder)
            if name is not None or data_dir is not None:
                written = replace(written, data=written.data.at(name, data_dir))
            return cls.reopen(folder, lock, backend, written, steps, accept_data)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def reopen(
        cls,
        folder: Path,
        lock: FolderLock,
        backend: backends.Backend | None,
        written: RunConfig,
        steps: int | None,
        accept_data: bool,
    ) -> "Run":
        """`resume` in a folder that is locked, by the config that is written there."""
        path, checkpoint = last_checkpoint(folder), open_checkpoint(folder, backend)
        if checkpoint.optimizer is None or checkpoint.ema is None:
            raise InputError(f"{path} holds no optimiser state, so training cannot go on; start a new run")
        if type(checkpoint.model.config) is not type(written.model):
            raise InputError(f"{path} is of another model than {folder / CONFIG}; put back the file that was changed")
        before = config_of(checkpoint, written)
        config, changes = accepted(str(folder / CONFIG), written, before, checkpoint.step, steps)
        if config.training.steps < checkpoint.step:
            raise InputError(
                f"{folder} has already taken {checkpoint.step} steps; give --steps of at least that, "
                f"got {config.training.steps}"
            )
        dataset = load_again(config, known_data(checkpoint), accept=accept_data)
        batches, validation = cls.images(config, checkpoint.diffusion, dataset)
        # Both keep what they were made with
        checkpoint.optimizer.lr, checkpoint.optimizer.weight_decay = config.training.lr, config.training.weight_decay
        checkpoint.ema.decay = config.training.ema_decay
        trainer = Trainer(
            checkpoint.model,
            checkpoint.diffusion,
            batches,
            config.training,
            checkpoint.optimizer,
            checkpoint.ema,
            checkpoint.step,
            checkpoint.importance,
        )
        kept = [row for row in read_metrics(folder) if row["step"] <= checkpoint.step]
        run = cls(folder, config, trainer, lock, dataset.summary, validation)
        run.changes = changes
        # Nothing was written before all of the above was found sound
        remove_leftovers(folder)
        prune(folder, config.keep_checkpoints)
        write_atomically(folder / METRICS, "".join(json.dumps(row) + "\n" for row in kept).encode())
        if config != before:
            write_config(folder, config)
            run.checkpoint()  # which tells what was changed here, so that the next resumption finds no edit
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

    def record(self, metrics: Metrics) -> None:
        """Appends a step to metrics.jsonl. Raises InputError where the folder is gone or another process's."""
        self.lock.check()
        append_line(self.folder / METRICS, json.dumps(asdict(metrics)))

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

        Raises NonFiniteError, nothing saved or deleted, where weights have become NaN or infinite; InputError where the
        folder is gone or another process's.
        """
        trainer = self.trainer
        self.lock.check()
        trainer.check_finite()
        path = self.folder / CHECKPOINTS / f"step-{trainer.step:08d}.safetensors"
        save(
            path,
            trainer.model,
            trainer.diffusion,
            optimizer=trainer.optimizer,
            ema=trainer.ema,
            step=trainer.step,
            extra={CONFIG_ENTRY: self.config.to_dict(), DATA_ENTRY: self.summary.to_dict()},
            importance=trainer.importance,
        )
        prune(self.folder, self.config.keep_checkpoints)
        return path


def check_new(folder: Path) -> None:
    """Raises InputError where no run can begin: a file, a run, the remains of one, or another process at work."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; a run needs a folder, choose another --out")
    check_free(folder)
    check_no_packed_model(folder)
    if (folder / CONFIG).exists():
        raise InputError(f"{folder} already holds a run; go on with --resume {folder}, or choose another --out")
    # A run killed during creation leaves only step 0; a later checkpoint is real work and is not overwritten
    if (folder / METRICS).exists() or any(step > 0 for step, _ in checkpoints(folder)):
        raise InputError(f"{folder} holds what is left of a run without {CONFIG}; choose another --out")


def check_no_packed_model(folder: Path) -> None:
    """Raises InputError for a packed model, which holds nothing that training could go on with but weights."""
    if (folder / PACKED).exists():
        raise InputError(
            f"{folder} is a packed model, weights alone, so its training cannot go on; start a new run from them with "
            f"--init {folder}"
        )


def write_config(folder: Path, config: RunConfig) -> None:
    """Writes config.json."""
    write_atomically(folder / CONFIG, (json.dumps(config.to_dict(), indent=2) + "\n").encode())


def prune(folder: Path, number: int) -> None:
    """Deletes the oldest checkpoints past the number to keep."""
    for _, old in checkpoints(folder)[:-number]:
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
        with named(path):
            text = path.read_text(encoding="utf-8")
        return RunConfig.from_dict(json.loads(text))
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
    One row a step, in order: where two runs have written to one log, the later row.
    """
    path = folder / METRICS
    rows = {}
    with named(path):
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        try:
            row = json.loads(line)
            row = asdict((ValidatedMetrics if "validation_loss" in row else Metrics)(**row))
        except (ValueError, TypeError):
            break
        if not all(isinstance(value, int | float) for value in row.values()):
            break
        rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints of the run in folder with their steps, oldest first; other files are left alone."""
    named = ((CHECKPOINT_NAME.fullmatch(path.name), path) for path in (folder / CHECKPOINTS).glob("*"))
    return sorted((int(found[1]), path) for found, path in named if found)


def last_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The newest checkpoint of a run folder, a packed model's weights, or path itself where it is a file.

    Raises MissingDataError.
    """
    path = Path(path)
    if path.is_file():
        return path
    if (path / PACKED).is_file():
        return path / PACKED
    found = checkpoints(path)
    if not found:
        raise MissingDataError(f"no checkpoint in {path}; give a run folder, a packed model or a .safetensors file")
    return found[-1][1]


def open_checkpoint(path: str | os.PathLike[str], backend: backends.Backend | None = None) -> Checkpoint:
    """The newest checkpoint of a run folder, or the checkpoint file itself. Raises InputError as `load` does."""
    try:
        return load(last_checkpoint(path), backend)
    except DamagedFileError as error:
        if len(older := checkpoints(Path(path))[:-1]) == 0:
            raise
        raise DamagedFileError(f"{error} (delete it to go back to step {older[-1][0]})") from error
