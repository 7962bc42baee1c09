"""`tinyddpm sample`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

import backends
from tinyddpm import pictures
from tinyddpm.cli.errors import one_line_errors
from tinyddpm.cli.options import backend_option
from tinyddpm.cli.progress import sampling_bar
from tinyddpm.config import check_whole
from tinyddpm.errors import InputError
from tinyddpm.runs import open_checkpoint
from tinyddpm.sample import SAMPLERS, draw


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-n", "count", type=int, default=64, help="How many images.")
@click.option("--steps", type=int, default=50, help="Steps of the sampler.")
@click.option("--sampler", type=click.Choice(list(SAMPLERS)), default="ddim")
@click.option("--eta", type=float, default=0.0, help="Noise of DDIM: 0 none, 1 as DDPM.")
@click.option("--clip/--no-clip", default=True, help="Limit each predicted image to [-1, 1].")
@click.option("--spacing", default="trailing", help="Which timesteps: leading, trailing or linspace.")
@click.option("--seed", type=int, default=0)
@click.option("--label", type=int, help="Of a model with classes; else all in turn.")
@click.option("--guidance", type=float, default=1.0, help="Scale of classifier-free guidance; 1: none.")
@click.option("--raw", is_flag=True, help="Use the weights themselves, not their average.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("samples.png"),
              help="A .png grid, a .gif of the denoising, a .npy array, or a folder for one PNG each.")  # fmt: skip
@backend_option
@one_line_errors
def sample(run: Path, output: Path, count: int, raw: bool, backend: str, eta: float, **options: Any) -> None:
    """Draw images from RUN, a run folder or a checkpoint file."""
    check_whole("-n", count)
    check_whole("--seed", options["seed"], 0)
    suffix = output.suffix.lower()
    if suffix not in (".png", ".gif", ".npy", ""):
        raise InputError(f"cannot write {output}; use a name in .png, .gif or .npy, or a folder's name")
    checkpoint = open_checkpoint(run, backends.get(backend))
    if raw:
        checkpoint = replace(checkpoint, ema=None)
    more = {"eta": eta} if options["sampler"] == "ddim" else {}
    with sampling_bar() as progress:
        images, frames = draw(checkpoint, count, options.pop("steps"), progress=progress, **options, **more)
    if suffix == ".png":
        pictures.save_grid(output, images)
    elif suffix == ".gif":
        pictures.save_gif(output, frames)
    elif suffix == ".npy":
        pictures.save_array(output, images)
    else:
        pictures.save_each(output, images)
    click.echo(f"wrote {output}")
