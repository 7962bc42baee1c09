"""`tinyddpm report`."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import backends
from tinyddpm.checks import check_whole
from tinyddpm.cli.options import device_options, threads_option
from tinyddpm.cli.output import going_on_unread
from tinyddpm.cli.progress import sampling_bar
from tinyddpm.cli.settings import known_options, options_of
from tinyddpm.cli.train import train
from tinyddpm.errors import InputError
from tinyddpm.files import check_target
from tinyddpm.generation.images import STEPS_HELP
from tinyddpm.reporting import page
from tinyddpm.training.run_config import RunConfig
from tinyddpm.training.run_folder import read_config


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The .html file; by default report.html in RUN.")
@click.option("-n", "count", type=int, default=page.SAMPLES, help="How many samples to show, fewer of large images.")
@click.option("--steps", type=int, help=STEPS_HELP)
@click.option("--data", "name", help="Where the data are now, if not where they were in training.")
@click.option("--data-dir", help="Folder of the data set, if not that of the training.")
@device_options
@threads_option
@going_on_unread()
def report(run: Path, output: Path | None, count: int, backend: Callable[[], backends.Backend], **options: Any) -> None:
    """Write one page on RUN that any browser shows: settings, curves, samples and how they come, measurements.

    It needs nothing beside itself. RUN may be in training meanwhile; what `evaluate` has measured of it is shown, and
    what is missing is told.
    """
    check_whole("-n", count)
    output = run / "report.html" if output is None else output
    if output.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"cannot write {output}; use a name in .html")
    config = read_config(run)
    check_target(output)
    with sampling_bar() as progress:
        page.write_page(run, output, backend(), command(config), count=count, progress=progress, **options)
    click.echo(f"wrote {output}, {output.stat().st_size / 1e6:.1f} MB")


def command(config: RunConfig) -> str:
    """The command that trains such a run again; options that the data set or the network imply are written out."""
    known = known_options(click.Context(train))
    try:
        options = options_of(config, known)
    except InputError as error:
        return f"# no command builds this network: {error}"
    words = ["tinyddpm", "train"]
    for key, value in options.items():
        option = known[key]
        if isinstance(value, bool):
            words += (option.opts if value else option.secondary_opts)[:1]
        elif value != option.default:
            words += [option.opts[0], in_words(value, "x" if key == "image_size" else ",")]
    return shlex.join(words)


def in_words(value: Any, between: str) -> str:
    """A value as the command line takes it, exactly."""
    return between.join(map(str, value)) if isinstance(value, list | tuple) else str(value)
