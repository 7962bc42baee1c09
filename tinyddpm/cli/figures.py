"""`tinyddpm figures`."""

import time
from collections.abc import Callable
from pathlib import Path

import click

import backends
from tinyddpm.cli.configuration import run_config
from tinyddpm.cli.options import device_options, threads_option
from tinyddpm.cli.output import going_on_unread
from tinyddpm.cli.progress import sampling_bar
from tinyddpm.cli.train import train
from tinyddpm.errors import InputError
from tinyddpm.figures import registry
from tinyddpm.figures.plate import write_index
from tinyddpm.figures.recipes import recipe
from tinyddpm.figures.workshop import Workshop
from tinyddpm.files import check_target
from tinyddpm.locks import FolderLock, hold
from tinyddpm.training.run_config import RunConfig

# Seconds that another process may take to write a figure
PATIENCE = 10.0


@click.command()
@click.argument("names", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All figures.")
@click.option("--list", "listing", is_flag=True, help="Only list the figures, and the runs that they need.")
@click.option("--quick", is_flag=True, help="Small networks, few steps, and digits for data that are not at hand.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("figures"), help="Folder to write to.")
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/figures"),
              help="Folder of the trained runs: used, gone on with, or trained where missing.")  # fmt: skip
@click.option("--data-dir", help="Folder of the named sets; by default TINYDDPM_DATA, otherwise a download.")
@device_options
@threads_option
@going_on_unread()
def figures(
    names: tuple[str, ...],
    every: bool,
    listing: bool,
    quick: bool,
    output: Path,
    runs: Path,
    data_dir: str | None,
    backend: Callable[[], backends.Backend],
) -> None:
    """Draw the figures of these NAMES: each a PNG, its numbers as CSV, and a caption, all in one page, figures.md.

    Figures that need trained runs train them first, in at most two hours each; what was trained is kept and used again.
    Several processes may draw figures at the same time into one folder, and train different runs.
    """
    if every and names:
        raise InputError(f"--all and names exclude each other; leave out {', '.join(names)}, or --all")
    for name in names:
        registry.figure(name)
    chosen = tuple(dict.fromkeys(names)) or tuple(registry.FIGURES)
    if not (names or every or listing):
        raise InputError(f"give names of figures, or --all; there are {', '.join(registry.FIGURES)}")
    if listing:
        show(chosen, Workshop(quick, runs, data_dir, backends.get("numpy"), train_run, plan_run))
        return
    check_target(output, folder=True)
    workshop = Workshop(quick, runs, data_dir, backend(), train_run, plan_run, sampling_bar)
    for run in dict.fromkeys(run for name in chosen for run in registry.figure(name).runs):
        workshop.dataset(recipe(run).data, split="test")  # before hours of training for what comes earlier
    held(output).release()  # that there can be one, before hours of training
    for name in chosen:
        click.echo(f"{name}: {registry.figure(name).title}")
        plates = registry.make(name, workshop)
        with held(output):
            for plate in plates:
                click.echo(f"wrote {', '.join(map(str, plate.write(output)))}")
    with held(output):
        click.echo(f"wrote {write_index(output, tuple(registry.FIGURES))}")


def held(output: Path) -> FolderLock:
    """The lock of the folder, after a while where another process just writes a figure. Raises InputError as `hold`."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return hold(output)
        except InputError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def show(names: tuple[str, ...], workshop: Workshop) -> None:
    """Prints the figures and the state of their runs."""
    for name in names:
        figure = registry.figure(name)
        click.echo(f"{name:22} {figure.title}")
        for run in figure.runs:
            time = "" if workshop.quick else f", about {recipe(run).minutes} min on two cores in all"
            click.echo(f"{'':22}   run {workshop.folder(run)}: {workshop.state(run)}{time}")


def train_run(folder: Path, arguments: list[str]) -> None:
    """Trains the run in folder as `train` does with these arguments, on the device of this command."""
    context = click.get_current_context()
    device = context.params
    words = ["--backend", device["backend"], *arguments]
    words += [] if device["precision"] is None else ["--precision", device["precision"]]
    words += ["--no-graph"] if device["no_graph"] else []
    click.echo(f"training {folder}")
    with train.make_context("train", words, parent=context.parent) as inner:
        train.invoke(inner)


def plan_run(arguments: list[str]) -> RunConfig:
    """The config that `train` makes of these arguments."""
    with train.make_context("train", list(arguments), parent=click.get_current_context().parent) as inner:
        return run_config(dict(inner.params))[0]
