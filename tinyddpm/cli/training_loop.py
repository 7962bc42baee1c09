"""The steps of `tinyddpm train`, with what they print and leave: on rank 0, and on the others, which do neither."""

import sys
import time

import click
import numpy as np
from tqdm import tqdm

from tinyddpm.cli.compile_notice import NOTICE
from tinyddpm.cli.interrupts import stop_signals
from tinyddpm.cli.pace import Pace, duration
from tinyddpm.cli.progress import tell
from tinyddpm.generation.images import draw
from tinyddpm.generation.labels import captions, labels_of
from tinyddpm.reporting import environment, pictures
from tinyddpm.reporting.tensorboard_log import TensorboardLog
from tinyddpm.training.checkpoint import Checkpoint
from tinyddpm.training.run_config import RunConfig
from tinyddpm.training.run_folder import Run, read_metrics
from tinyddpm.training.several_ranks import Beat
from tinyddpm.training.trainer import Trainer

# Seconds between two looks at the loss of a device, at most
LOOK_EVERY = 0.5
# Steps whose mean loss is printed: that of one jumps with the timesteps drawn
SMOOTHED = 50


def train_to_end(
    run: Run, sample_every: int, count: int, sample_steps: int | None, log: TensorboardLog | None = None
) -> bool:
    """Takes the remaining steps under a progress bar. False where a signal stopped it, after a checkpoint."""
    trainer, total = run.trainer, run.config.training.steps
    recent = [row["loss"] for row in read_metrics(run.folder)][-SMOOTHED:]
    often = max(1, total // 20)
    # No bar in a log file: a line now and then instead
    bar = tqdm(total=total, initial=trainer.step, unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True)
    pace = Pace(total, trainer.step)
    watch = environment.Stopwatch(run.folder, trainer.step)
    pace.take_out(-NOTICE.seconds)  # kernels compiled so far, which are told together with the next ones
    with stop_signals() as signalled, bar:
        looked = time.monotonic()
        beat = Beat(trainer, signalled, run.config.checkpoint_every)
        stopped = beat.stopped

        def due() -> bool:
            """Whether to read what was measured: always, or on a device, which need not wait then, where it is used."""
            used = run.due() or signalled() or trainer.step % often == 0 or run.validation_due()
            pictured = sample_every and trainer.step % sample_every == 0
            late = not trainer.model.backend.asynchronous or time.monotonic() > looked + LOOK_EVERY
            return beat.due(bool(used or pictured or late))

        for metrics in trainer.run(due):
            looked = time.monotonic()
            pace.take_out(NOTICE.finish())  # compiling happens once, and says nothing of the steps to come
            pace.note(metrics.step)
            recent = [*recent, metrics.loss][-SMOOTHED:]
            smoothed = f"loss {np.mean(recent):.4f} (mean of {len(recent)})"
            bar.update()
            bar.set_postfix_str(smoothed, refresh=False)
            if estimate := pace.estimate():
                tell(estimate)
            if bar.disable and (metrics.step % often == 0 or metrics.step == total):
                click.echo(
                    f"step {metrics.step}/{total}  {smoothed}  {pace.rate:.2f} steps/s  {duration(pace.left)} left"
                )
            if metrics.step == trainer.step and run.validation_due():
                metrics = run.validated(metrics)
                tell(f"step {metrics.step}/{total}  {metrics}")
            run.record(metrics)
            if log is not None:
                log.scalars(metrics)
            if metrics.step < trainer.step:
                continue  # of several that were read at once
            saved = run.due() or stopped()
            if saved:
                run.checkpoint()
                watch.note(trainer.step)
                if log is not None:
                    log.flush()
            if sample_every and metrics.step % sample_every == 0:
                checkpoint = Checkpoint(trainer.model, trainer.diffusion, ema=trainer.ema)
                images, _ = draw(checkpoint, count, sample_steps, seed=run.config.training.seed)
                save_samples(run, f"samples-{metrics.step:08d}.png", images, log)
            if stopped():
                # The signal may have come after the step's checkpoint was left out
                if not saved:
                    run.checkpoint()
                    watch.note(trainer.step)
                return trainer.step >= total
    return True


def save_samples(run: Run, name: str, images: np.ndarray, log: TensorboardLog | None) -> None:
    """A grid of samples in the run's folder, with their classes if the model has any, and in the log."""
    labels = labels_of(len(images), run.config.model.num_classes)
    texts = captions(labels, run.trainer.batches.dataset.class_names)
    pictures.save_grid(run.folder / name, images, captions=texts)
    if log is not None:
        log.picture(run.folder / name, run.trainer.step)


def train_along(trainer: Trainer, config: RunConfig) -> None:
    """Takes the steps that rank 0 takes, on another rank, which neither prints nor writes. Ends the process where a
    signal stopped them."""
    with stop_signals() as signalled:
        beat = Beat(trainer, signalled, config.checkpoint_every)
        for _ in trainer.run(beat.due):
            if beat.stopped():
                break
    if trainer.step < config.training.steps:
        sys.exit(130)
