"""`tinyddpm sample`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

import backends
from tinyddpm.checks import LARGEST_SEED, check_whole
from tinyddpm.cli.interrupts import Interrupted
from tinyddpm.cli.options import device_options, threads_option
from tinyddpm.cli.output import going_on_unread
from tinyddpm.cli.progress import sampling_bar
from tinyddpm.diffusion.schedules import SPACINGS
from tinyddpm.errors import InputError
from tinyddpm.files import check_target
from tinyddpm.generation.images import SAMPLE_BATCH, STEPS_HELP, Drawing, draw
from tinyddpm.generation.labels import captions, class_names, label_of, labels_of
from tinyddpm.ranks import together, world
from tinyddpm.reporting import pictures
from tinyddpm.reporting.series import Series
from tinyddpm.samplers import DEFAULT_SAMPLER, DEFAULT_SPACING, SAMPLERS
from tinyddpm.training.checkpoint import Checkpoint
from tinyddpm.training.run_data import check_apart
from tinyddpm.training.run_folder import open_checkpoint, read_config


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-n", "count", type=int, default=64, help="How many images.")
@click.option("--batch-size", type=int, default=SAMPLE_BATCH, show_default=True, help="Images drawn at once.")
@click.option("--steps", type=int, help=STEPS_HELP)
@click.option("--sampler", type=click.Choice(list(SAMPLERS)), default=DEFAULT_SAMPLER,
              help="Ancestral: ddpm; deterministic: of order 1 ddim, euler; of 2 heun, dpm_solver, pndm.")  # fmt: skip
@click.option("--eta", type=float, default=0.0, help="Noise of DDIM: 0 none, 1 as DDPM.")
@click.option("--keep-eps", is_flag=True,
              help="DDIM: step along the network's own noise where images are clipped (diffusers' way).")  # fmt: skip
@click.option("--clip/--no-clip", default=True, help="Limit each predicted image to [-1, 1].")
@click.option("--threshold", type=float,
              help="Dynamic thresholding: shrink images until this share, such as 0.995, lies in [-1, 1].")  # fmt: skip
@click.option("--spacing", type=click.Choice(SPACINGS), default=DEFAULT_SPACING, help="Which timesteps.")
@click.option("--seed", type=int, default=0, help="Seed of the noise.")
@click.option("--label", help="Class to draw, by name or number, for a model with classes; by default all in turn.")
@click.option("--no-labels", is_flag=True, help="Draw without labels from a model with classes.")
@click.option("--guidance", type=float, default=1.0, help="Scale of classifier-free guidance; 1: none.")
@click.option("--raw", is_flag=True, help="Use the weights themselves, not their average.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("samples.png"),
              help="A .png grid, a .gif of the denoising, a .npy array, a .npz file, or a folder of PNGs.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace a .npz, or the numbered pictures of a folder.")
@click.option("--columns", type=int, help="Of a .png or .gif grid; by default as nearly square as can be.")
@device_options
@threads_option
@going_on_unread()
def sample(
    run: Path,
    output: Path,
    count: int,
    raw: bool,
    overwrite: bool,
    backend: Callable[[], backends.Backend],
    eta: float,
    keep_eps: bool,
    label: str | None,
    no_labels: bool,
    columns: int | None,
    **options: Any,
) -> None:
    """Draw images from RUN, a run folder or a checkpoint file.

    A file that is there is replaced; a .npz, or a folder that holds pictures of this command, only with --overwrite.
    These two are for many images: interrupted, the same command goes on, and under mpiexec its ranks draw together.
    """
    check_whole("-n", count)
    check_whole("--batch-size", options["batch_size"])
    check_whole("--seed", options["seed"], 0, LARGEST_SEED)
    if options["sampler"] != "ddim" and eta != 0:
        raise InputError(f"--eta {eta} is of the sampler ddim; leave it out, or add --sampler ddim")
    if options["sampler"] != "ddim" and keep_eps:
        raise InputError("--keep-eps is of the sampler ddim; leave it out, or add --sampler ddim")
    if no_labels and label is not None:
        raise InputError(f"--label {label} and --no-labels exclude each other; give one")
    if no_labels and options["guidance"] != 1:
        raise InputError(f"--guidance {options['guidance']} is towards labels; leave it out, or --no-labels")
    suffix = output.suffix.lower()
    if suffix not in (".png", ".gif", ".npy", ".npz", ""):
        raise InputError(f"cannot write {output}; use a name in .png, .gif, .npy or .npz, or a folder's name")
    if columns is not None:
        check_whole("--columns", columns, 1, count, note="the number of images")
        if suffix not in (".png", ".gif"):
            raise InputError(f"--columns {columns} is of a grid; leave it out, or write to a name in .png or .gif")
    ranks = world()
    with together(ranks):
        if ranks.rank == 0:
            check_target(output, folder=suffix == "")
        if suffix not in (".npy", ".npz"):
            check_apart_from_data(output, run if run.is_dir() else run.absolute().parent.parent)
        checkpoint = open_checkpoint(run, backend())
        number = None if label is None else chosen_label(label, checkpoint)
    if suffix not in (".npz", "") and ranks.rank > 0:
        return  # so few are one process's
    if raw:
        checkpoint = replace(checkpoint, ema=None)
    if options["sampler"] == "ddim":
        options |= {"eta": eta, "keep_eps": keep_eps}
    options |= {"label": number, "unlabelled": no_labels}
    if suffix in (".npz", ""):
        draw_series(output, checkpoint, count, overwrite, **options)
    else:
        with sampling_bar() as progress:
            images, frames = draw(checkpoint, count, progress=progress, **options)
        labels = None if no_labels else labels_of(count, checkpoint.model.config.num_classes, number)
        write(output, suffix, images, frames, columns, captions(labels, class_names(checkpoint)))
    click.echo(f"wrote {output}")


def draw_series(
    output: Path, checkpoint: Checkpoint, count: int, overwrite: bool, *, batch_size: int, **options: Any
) -> None:
    """Draws into a .npz or a folder, going on where an earlier process ended."""
    with together(world()):
        series = Series(output, Drawing(checkpoint, **options), count, batch_size, overwrite, world())
    with series:
        if kept := series.kept():
            click.echo(f"going on after {kept:,} of {count:,} images")
        try:
            with sampling_bar() as progress:
                series.draw(progress)
        except KeyboardInterrupt as error:
            raise Interrupted(f"; {series.kept():,} of {count:,} images are kept, the same command goes on") from error


def write(
    output: Path,
    suffix: str,
    images: np.ndarray,
    frames: list[np.ndarray],
    columns: int | None,
    under: list[str] | None,
) -> None:
    """Writes the images as the suffix says.

    frames: those of the denoising; columns: of a grid, and under: its captions.
    """
    if suffix == ".png":
        pictures.save_grid(output, images, columns, under)
    elif suffix == ".gif":
        pictures.save_gif(output, frames, None if columns is None else min(columns, len(frames[0])))
    else:
        pictures.save_array(output, images)


def check_apart_from_data(output: Path, folder: Path) -> None:
    """Raises InputError where pictures would join the training images of the run in folder, if there is one."""
    try:
        config = read_config(folder)
    except InputError:
        return  # weights can be sampled without a sound config
    check_apart(config.data, output, folder)


def chosen_label(text: str, checkpoint: Checkpoint) -> int:
    """The label that --label means; says so where the text is the name of one class and the number of another."""
    label = label_of(text, checkpoint)
    if text.isdecimal() and int(text) != label:
        click.echo(f"note: --label {text} is taken as the name of class {label}", err=True)
    return label
