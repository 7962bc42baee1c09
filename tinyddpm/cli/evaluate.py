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
from tinyddpm.errors import InputError
from tinyddpm.evaluation import likelihood, loss_by_level, recognition
from tinyddpm.evaluation.likelihood import Bound
from tinyddpm.evaluation.loss_by_level import NoiseLevelLoss
from tinyddpm.evaluation.recognition import ClassifierScore
from tinyddpm.generation.images import STEPS_HELP, draw
from tinyddpm.reporting.ledger import save_ledger
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
@click.option("--bits", is_flag=True, help="Also the bound on the likelihood, in bits per dimension.")
@click.option("--bits-images", type=int, default=256, help="Test images for --bits.")
@click.option("--bits-terms", type=int, default=40, help="Timesteps of each for --bits, in strata; T: all, exactly.")
@click.option("--ledger", type=click.Path(path_type=Path), help="With --bits: a PNG of the bound's terms over t.")
@accept_data_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead, with every digit.")
@device_options
@threads_option
def evaluate(
    run: Path,
    count: int,
    steps: int | None,
    levels: int,
    bits: bool,
    bits_images: int,
    bits_terms: int,
    ledger: Path | None,
    name: str | None,
    data_dir: str | None,
    accept_data: bool,
    as_json: bool,
    backend: Callable[[], backends.Backend],
) -> None:
    """Measure RUN: test loss at each noise level, and for digits and MNIST what a classifier says of samples.

    With --json the keys are data, step, prediction, levels (each with t, alpha_bar, loss), mean_loss, and classifier
    (null for other data: samples, recognised, recognised_test, balance, evenness, test_accuracy), and bits (null
    without --bits: images, total, error, prior, between, decoder, floor, and ledger, the mean of one term from first
    to last).
    """
    check_whole("--levels", levels)
    check_whole("-n", count)
    check_whole("--bits-images", bits_images)
    check_whole("--bits-terms", bits_terms)
    if ledger is not None and not bits:
        raise InputError("--ledger draws what --bits measures; add --bits, or leave it out")
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
    bound = None
    if bits:
        bound = likelihood.bound(checkpoint.sampling_model(), checkpoint.diffusion, test, bits_images, bits_terms)
        if ledger is not None:
            save_ledger(ledger, bound, test.name)
        if not as_json:
            show_bound(bound)
    score = None
    if train is not None:
        with sampling_bar() as progress:
            images, _ = draw(checkpoint, count, steps, progress=progress)
        score = recognition.classifier_score(images, train, test)
        if not as_json:
            show_score(score, count, test.class_names)
    if as_json:
        click.echo(json.dumps(report(checkpoint, test.name, rows, score, count, bound), indent=2, allow_nan=False))


def show_losses(checkpoint: Checkpoint, name: str, rows: Sequence[NoiseLevelLoss]) -> None:
    """Prints a table of the losses."""
    click.echo(f"test loss (mse of {checkpoint.diffusion.prediction}) on {name}:\n   t  alpha_bar    loss")
    for row in rows:
        click.echo(f"{row.t:4d}  {row.alpha_bar:9.6f}  {row.loss:6.4f}")
    click.echo(f"mean  {'':9}  {np.mean([row.loss for row in rows]):6.4f}")


def show_bound(bound: Bound) -> None:
    """Prints the bound and its parts."""
    parts = ", ".join(f"{name} {value:.4f}" for name, value in bound.parts.items())
    click.echo(
        f"at most {bound.total:.4f} ± {bound.error:.4f} bits per dimension on {len(bound.each)} images: {parts}; "
        f"a perfect network would still pay {bound.floor:.4f}"
    )


def bits_report(bound: Bound) -> dict[str, Any]:
    """The bound as JSON values."""
    return {
        "images": len(bound.each),
        "total": bound.total,
        "error": bound.error if math.isfinite(bound.error) else None,
        **bound.parts,
        "floor": bound.floor,
        "ledger": [{"first": first, "last": last, "bits": mean} for first, last, mean in bound.ledger],
    }


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
    checkpoint: Checkpoint,
    name: str,
    rows: Sequence[NoiseLevelLoss],
    score: ClassifierScore | None,
    count: int,
    bound: Bound | None,
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
        "bits": None if bound is None else bits_report(bound),
    }
