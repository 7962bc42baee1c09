"""`tinyddpm pack`."""

from collections.abc import Callable
from pathlib import Path

import click

import backends
from tinyddpm.cli.options import device_options, threads_option
from tinyddpm.cli.output import going_on_unread
from tinyddpm.cli.progress import sampling_bar
from tinyddpm.diffusers_format.folder import check_new_folder
from tinyddpm.generation.images import STEPS_HELP
from tinyddpm.reporting import packed_model


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-n", "count", type=int, default=64, help="How many samples to show.")
@click.option("--steps", type=int, help=STEPS_HELP)
@device_options
@threads_option
@going_on_unread()
def pack(run: Path, folder: Path, count: int, steps: int | None, backend: Callable[[], backends.Backend]) -> None:
    """Write a small FOLDER of a RUN's averaged weights in float16, to sample and to start from.

    With them go config.json, samples.png and README.md, a card in which what no run knows is to be filled in. The
    folder is taken where a run is read: by `sample`, `evaluate`, `export`, and by `train` as weights to start from.
    """
    check_new_folder(folder)
    with sampling_bar() as progress:
        packed_model.pack(run, folder, count, steps, backend(), progress)
    size = sum(path.stat().st_size for path in folder.iterdir())
    click.echo(f"wrote {folder}, {size / 1e6:.1f} MB; fill in what README.md leaves open")
