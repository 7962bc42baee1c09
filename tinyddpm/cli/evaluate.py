"""`tinyddpm evaluate`."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

import backends
from tinyddpm.checks import check_whole
from tinyddpm.cli.options import accept_data_option, device_options, show_notes, threads_option
from tinyddpm.cli.progress import sampling_bar
from tinyddpm.evaluation import loss_by_level, recognition
from tinyddpm.evaluation.loss_by_level import NoiseLevelLoss
from tinyddpm.evaluation.recognition import ClassifierScore
from tinyddpm.generation.images import STEPS_HELP, draw
from tinyddpm.training.checkpoint import Checkpoint
from tinyddpm.training.run_data import known_data, load_again
from tinyddpm.training.run_folder import open_checkpoint, read_config


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-n", "count", type=int, default=256, help="Samples for the classifier's score.")
@click.option("--steps", type=int, help=STEPS_HELP)
@click.option("--levels", type=int, default=10, help="Noise levels at which the test loss is measured.")
@click.option("--data", "name", help="Where the data are now, if not where they were in training.")
@click.option("--data-dir", help="Folder of the data set, if not that of the training.")
@accept_data_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead, with every digit.")
@device_options
@threads_option
def evaluate(
    run: Path,
    count: int,
    steps: int | None,
    levels: int,
    name: str | None,
    data_dir: str | None,
    accept_data: bool,
    as_json: bool,
    backend: Callable[[], backends.Backend],
) -> None:
    """Measure RUN: test loss at each noise level, and for digits and MNIST what a classifier says of samples.

    With --json the keys are data, step, prediction, levels (each with t, alpha_bar, loss), mean_loss, and classifier
    (null for other data: samples, recognised, recognised_test, balance, evenness, test_accuracy).
    """
    check_whole("--levels", levels)
    check_whole("-n", count)
    device, config = backend(), read_config(run)
    if steps is not None:
        check_whole("--steps", steps, 1, config.diffusion.timesteps)
    config = replace(config, data=config.data.at(name, data_dir))
    checkpoint = open_checkpoint(run, device)
    known = known_data(checkpoint)
    test = load_again(config, known, "test", accept_data)
    classified = config.data.name in recognition.CLASSIFIED
    train = load_again(config, known, "train", accept_data) if classified else None
    show_notes(test)
    rows = loss_by_level.loss_by_noise_level(checkpoint.sampling_model(), checkpoint.diffusion, test, levels)
    if not as_json:
        show_losses(checkpoint, test.name, rows)
    score = None
    if train is not None:
        with sampling_bar() as progress:
            images, _ = draw(checkpoint, count, steps, progress=progress)
        score = recognition.classifier_score(images, train, test)
        if not as_json:
            show_score(score, count, test.class_names)
    if as_json:
        click.echo(json.dumps(report(checkpoint, test.name, rows, score, count), indent=2, allow_nan=False))


def show_losses(checkpoint: Checkpoint, name: str, rows: Sequence[NoiseLevelLoss]) -> None:
    """Prints a table of the losses."""
    click.echo(f"test loss (mse of {checkpoint.diffusion.prediction}) on {name}:\n   t  alpha_bar    loss")
    for row in rows:
        click.echo(f"{row.t:4d}  {row.alpha_bar:9.6f}  {row.loss:6.4f}")
    click.echo(f"mean  {'':9}  {np.mean([row.loss for row in rows]):6.4f}")


def show_score(score: ClassifierScore, count: int, names: Sequence[str] | None) -> None:
    """Prints what the classifier says; names: of the classes, where they have any."""
    names = names or [str(label) for label in range(len(score.balance))]
    balance = ", ".join(f"{name}: {number}" for name, number in zip(names, score.balance, strict=False))
    click.echo(
        f"classifier ({score.test_accuracy:.1%} right on the test images) on {count} samples: "
        f"{score.recognised:.1%} recognised with confidence "
        f"(of the test images {score.recognised_test:.1%}); classes {balance}; "
        f"balance {score.evenness:.2f} (1: all equally often)"
    )


def report(
    checkpoint: Checkpoint, name: str, rows: Sequence[NoiseLevelLoss], score: ClassifierScore | None, count: int
) -> dict[str, Any]:
    """All that was measured, as JSON values; null for a loss that is not finite, which JSON cannot write."""

    def number(value: float) -> float | None:
        return float(value) if math.isfinite(value) else None

    return {
        "data": name,
        "step": checkpoint.step,
        "prediction": checkpoint.diffusion.prediction,
        "levels": [{"t": row.t, "alpha_bar": row.alpha_bar, "loss": number(row.loss)} for row in rows],
        "mean_loss": number(float(np.mean([row.loss for row in rows]))),
        "classifier": None if score is None else {"samples": count, **asdict(score)},
    }
