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
from tinyddpm import data
from tinyddpm.checks import LARGEST_SEED, check_whole
from tinyddpm.cli.options import accept_data_option, device_options, show_notes, threads_option
from tinyddpm.cli.progress import sampling_bar
from tinyddpm.errors import InputError
from tinyddpm.evaluation import kept, likelihood, loss_by_level, quality
from tinyddpm.evaluation.classifier import Classifier
from tinyddpm.evaluation.likelihood import Bound
from tinyddpm.evaluation.loss_by_level import NoiseLevelLoss
from tinyddpm.evaluation.nearest_images import beside_nearest, nearest_images
from tinyddpm.evaluation.quality import Quality
from tinyddpm.files import check_target
from tinyddpm.generation.images import STEPS_HELP, Drawing, draw
from tinyddpm.generation.sample_file import Samples, joined, load_samples, save_samples
from tinyddpm.reporting import pictures
from tinyddpm.reporting.ledger import save_ledger
from tinyddpm.reporting.score_table import table
from tinyddpm.samplers import DEFAULT_SAMPLER, SAMPLERS
from tinyddpm.training.checkpoint import Checkpoint
from tinyddpm.training.run_config import RunConfig
from tinyddpm.training.run_data import check_apart, known_data, load_again
from tinyddpm.training.run_folder import open_checkpoint, read_config

DRAWN = 256
# Options that are not called as their parameters
NAMES = {"count": "-n", "no_labels": "--no-labels"}
# Samples in the picture of --nearest, and training images beside each
SHOWN = 16
NEAREST = 3


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-n", "count", type=int, help=f"Samples to draw for the scores; by default {DRAWN}.")
@click.option("--steps", type=int, help=STEPS_HELP)
@click.option("--sampler", type=click.Choice(list(SAMPLERS)), help=f"By default {DEFAULT_SAMPLER}.")
@click.option("--guidance", type=float, help="Scale of classifier-free guidance; by default 1, none.")
@click.option("--no-labels", is_flag=True, help="Draw without labels from a model with classes; else all in turn.")
@click.option("--seed", type=int, help="Seed of the samples' noise; by default 0.")
@click.option("--save", type=click.Path(path_type=Path), help="Keep the samples in this .npz file.")
@click.option("--samples", "files", type=click.Path(path_type=Path), multiple=True,
              help="Score the samples of this .npz file instead of drawing; may be given several times.")  # fmt: skip
@click.option("--nearest", type=click.Path(path_type=Path),
              help="A .png of samples, each beside the training images nearest to it.")  # fmt: skip
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
    save: Path | None,
    files: tuple[Path, ...],
    nearest: Path | None,
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
    **options: Any,
) -> None:
    """Measure RUN: test loss at each noise level, and samples in the features of a classifier beside real images.

    The test loss is the squared error of the prediction, whatever loss RUN was trained with, so that runs compare.
    What was measured is kept in RUN, as evaluation.json, and shown by `tinyddpm report`.
    Digits, MNIST and Fashion-MNIST have a classifier; of other data there are losses only. With --json the keys are
    data, step, prediction, levels (each with t, alpha_bar, loss), mean_loss, and quality (null for other data: about,
    samples, real, real_draws, frechet_ratio, frechet_bias, sample_shares, real_shares), and bits (null without --bits:
    images, total, error, prior, between, decoder, floor, and ledger, the mean of one term from first to last).
    """
    check_whole("--levels", levels)
    check_whole("--bits-images", bits_images)
    check_whole("--bits-terms", bits_terms)
    if ledger is not None and not bits:
        raise InputError("--ledger draws what --bits measures; add --bits, or leave it out")
    device, config = backend(), read_config(run)
    check_drawing(files, save, options, config)
    for output, suffix in ((save, ".npz"), (nearest, ".png")):
        if output is not None:
            if output.suffix.lower() != suffix:
                raise InputError(f"cannot write {output}; use a name in {suffix}")
            check_target(output)
    config = replace(config, data=config.data.at(name, data_dir))
    if nearest is not None:
        check_apart(config.data, nearest, run if run.is_dir() else run.absolute().parent.parent)
    given = joined([load_samples(file) for file in files]) if files else None
    checkpoint = open_checkpoint(run, device)
    known = known_data(checkpoint)
    test = load_again(config, known, "test", accept_data)
    classifier, reason = found_classifier(test, device)
    wanted = classifier is not None or nearest is not None or save is not None
    train = load_again(config, known, "train", accept_data) if wanted else None
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
    score, samples = None, given
    if train is not None:
        samples = samples or drawn(checkpoint, options)
        if save is not None:
            save_samples(save, samples)
        if nearest is not None:
            save_nearest(nearest, samples.images, train)
        if classifier is not None:
            score = quality.quality(classifier, samples.images, train, test, samples.labels)
    found = report(checkpoint, test.name, rows, samples, score, bound)
    try:
        kept.keep(run, found)
    except (InputError, OSError) as error:
        click.echo(f"note: not kept for `tinyddpm report`: {error}", err=True)
    if as_json:
        click.echo(json.dumps(found, indent=2, allow_nan=False))
    elif score is not None and samples is not None:
        click.echo(table(score, samples.about, test.class_names))
    else:
        click.echo(f"no scores of samples: {reason}")


def found_classifier(images: data.Dataset, be: backends.Backend) -> tuple[Classifier | None, str]:
    """The classifier of these images; None, and why, where there is none."""
    try:
        return quality.classifier_for(images, be), ""
    except InputError as error:
        return None, str(error)


def check_drawing(files: Sequence[Path], save: Path | None, options: dict[str, Any], config: RunConfig) -> None:
    """Raises InputError for options of drawing out of their range, or beside samples that are already drawn."""
    given = [NAMES.get(name, f"--{name}") for name, value in options.items() if value not in (None, False)]
    given += ["--save"] if save else []
    if files and given:
        raise InputError(f"{', '.join(given)} is of samples to be drawn; leave it out beside --samples")
    limits = {"count": (1, None), "steps": (1, config.diffusion.timesteps), "seed": (0, LARGEST_SEED)}
    for option, (least, most) in limits.items():
        if options[option] is not None:
            check_whole(NAMES.get(option, f"--{option}"), options[option], least, most)
    labelled = config.model.num_classes is not None and not options["no_labels"]
    if options["guidance"] not in (None, 1.0) and not labelled:
        raise InputError(
            f"--guidance {options['guidance']} is towards labels, and these samples have none; leave it out"
        )


def drawn(checkpoint: Checkpoint, options: dict[str, Any]) -> Samples:
    """Samples as the options say, and how they were drawn."""
    chosen = {name: value for name, value in options.items() if value is not None}
    count, chosen["unlabelled"] = chosen.pop("count", DRAWN), chosen.pop("no_labels")
    drawing = Drawing(checkpoint, **chosen)
    with sampling_bar() as progress:
        images, _ = draw(checkpoint, count, progress=progress, **chosen)
    return Samples(images, drawing.labels(count), drawing.about)


def save_nearest(path: Path, samples: np.ndarray, train: data.Dataset) -> None:
    """Writes a picture of the first samples, each with the training images nearest to it and their distances."""
    shown = samples[:SHOWN]
    count = min(NEAREST, len(train))
    indices, distances = nearest_images(shown, train.images, count)
    under = [text for row in distances for text in ("sample", *(f"{distance:.0f}" for distance in row))]
    columns = (1 + count) * (2 if len(shown) > 1 else 1)
    pictures.save_grid(path, beside_nearest(shown, train.images, indices), columns, under)


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


def report(
    checkpoint: Checkpoint,
    name: str,
    rows: Sequence[NoiseLevelLoss],
    samples: Samples | None,
    score: Quality | None,
    bound: Bound | None,
) -> dict[str, Any]:
    """All that was measured, as JSON values; null for a loss that is not finite, which JSON cannot write."""

    def number(value: float) -> float | None:
        return float(value) if math.isfinite(value) else None

    scores = None
    if score is not None and samples is not None:
        scores = {"about": samples.about, "frechet_ratio": score.frechet_ratio, **asdict(score)}
    return {
        "data": name,
        "step": checkpoint.step,
        "prediction": checkpoint.diffusion.prediction,
        "levels": [{"t": row.t, "alpha_bar": row.alpha_bar, "loss": number(row.loss)} for row in rows],
        "mean_loss": number(float(np.mean([row.loss for row in rows]))),
        "quality": scores,
        "bits": None if bound is None else bits_report(bound),
    }
