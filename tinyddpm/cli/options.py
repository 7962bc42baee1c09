"""Options that several commands share."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

import backends
from backends import thread_count
from tinyddpm import data
from tinyddpm.cli.settings import config_option
from tinyddpm.diffusion.objective import LOSSES, WEIGHTINGS
from tinyddpm.diffusion.process import PREDICTIONS, VARIANCES
from tinyddpm.diffusion.schedules import NAMES as SCHEDULES
from tinyddpm.errors import InputError
from tinyddpm.networks.registry import NETWORKS
from tinyddpm.networks.unet import TIME_EMBEDDINGS
from tinyddpm.ranks import MpiRanks, share_processors, world
from tinyddpm.ranks.nccl import take_device
from tinyddpm.training.presets import described_default
from tinyddpm.training.trainer import DECAYS, TIMESTEP_SAMPLINGS


class Numbers(click.ParamType):
    """Comma-separated whole numbers, such as 1,2,4; an empty string is none."""

    name = "N,N,…"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        """The numbers of a text; fails as click does for any other text."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in value.split(",")) if value else ()
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers such as 1,2,4", param, ctx)


class Sides(click.ParamType):
    """A side in pixels, such as 64, or height x width, such as 64x48."""

    name = "N or HxW"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | tuple[int, int]:
        """The side, or (height, width) where they differ; fails as click does for any other text."""
        if not isinstance(value, str):
            return value
        try:
            height, width = map(int, value.split("x")) if "x" in value else [int(value)] * 2
        except ValueError:
            self.fail(f"{value!r} is no side in pixels, such as 64, or height x width, such as 64x48", param, ctx)
        return height if height == width else (height, width)


backend_option = click.option(
    "--backend", type=click.Choice([*backends.BACKENDS, "auto"]), default="auto", help="Where to compute."
)
precision_option = click.option(
    "--precision",
    type=click.Choice(list(backends.PRECISIONS)),
    help="How products are computed on a GPU; by default tf32. See doctor.",
)
graph_option = click.option(
    "--no-graph",
    is_flag=True,
    help="On a GPU, launch each kernel from Python instead of replaying graphs, for debugging.",
)


def device_options(command: Callable[..., None]) -> Callable[..., None]:
    """--backend, --precision and --no-graph, of which the command gets `backend`: a function that gives the backend."""

    @wraps(command)
    def with_backend(backend: str, precision: str | None, no_graph: bool, **options: Any) -> None:
        command(backend=lambda: chosen_backend(backend, precision, no_graph), **options)

    decorated: Any = backend_option(precision_option(graph_option(with_backend)))
    return decorated


def chosen_backend(name: str, precision: str | None, no_graph: bool) -> backends.Backend:
    """The backend that the options say. Raises InputError for a precision that it has not, BackendUnavailable."""
    if name in ("cupy", "auto") and isinstance(ranks := world(), MpiRanks):
        take_device(ranks)
    try:
        return backends.get(name, precision, graphs=not no_graph)
    except ValueError as error:
        raise InputError(f"--precision {precision}: {error}; leave it out, or add --backend cupy") from None


def set_threads(context: click.Context, parameter: click.Parameter, value: int | None) -> None:
    """Before the command runs, so that nothing is computed with another number."""
    if value is None:
        share_processors(world())
    else:
        backends.set_threads(value, "--threads")


threads_option = click.option(
    "--threads",
    type=int,
    callback=set_threads,
    expose_value=False,
    help=f"Number of threads; by default {thread_count.ENVIRONMENT}, otherwise all processors; ranks share them.",
)


accept_data_option = click.option(
    "--accept-data",
    is_flag=True,
    help="Go on although the data of the run changed; labels keep the classes they had.",
)


def show_notes(dataset: data.Dataset) -> None:
    """What was left out of the images while loading them, on stderr."""
    for note in dataset.notes:
        click.echo(f"warning: {note}", err=True)


def configuration_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that make a run's configuration, for `train` and `doctor`; unset ones come from the preset."""
    options = [
        click.option("--data", "name", default="digits", help=f"{', '.join(data.NAMES)}, or a folder of images."),
        click.option("--data-dir", help="Folder of the named sets; by default TINYDDPM_DATA, otherwise a download."),
        click.option("--image-size", type=Sides(), help="Side, or height x width: images are padded or resized to it."),
        click.option("--color/--grey", default=None, help="Three channels or one; else as the images are."),
        click.option("--flip", is_flag=True, help="Mirror images at random."),
        click.option(
            "--model",
            "kind",
            type=click.Choice([found.option for found in NETWORKS.values()]),
            default="full",
            help="Which U-Net.",
        ),
        click.option("--base-channels", type=int, help="Channels at full resolution."),
        click.option("--channel-mults", type=Numbers(), help="Times these at each level."),
        click.option("--num-res-blocks", type=int, help="Residual blocks per level (full)."),
        click.option("--attention-resolutions", type=Numbers(), help="Sides of the levels with attention (full)."),
        click.option("--num-heads", type=int, help="Heads of each attention (full)."),
        click.option("--groups", type=int, help="Groups of each normalisation."),
        click.option("--classes", is_flag=True, help="Learn the labels, for sampling by label and guidance."),
        click.option("--time-embedding", type=click.Choice(TIME_EMBEDDINGS), help="Into each block, or once."),
        click.option("--dropout", type=float, help="In each block."),
        click.option("--schedule", type=click.Choice(SCHEDULES), default="cosine", help="Schedule of the noise."),
        click.option(
            "--zero-terminal-snr", is_flag=True, help="Rescale it to end in pure noise; with --prediction v or x0."
        ),
        click.option("--timesteps", type=int, default=1000, help="Steps of the diffusion."),
        click.option("--prediction", type=click.Choice(PREDICTIONS), default="eps", help="What the network predicts."),
        click.option(
            "--loss", type=click.Choice(LOSSES), default="mse", help="Loss of the prediction; vlb: the bound."
        ),
        click.option(
            "--variance",
            type=click.Choice(VARIANCES),
            default="fixed_small",
            help="Variance of reverse steps; learned: the network predicts it too.",
        ),
        click.option("--weighting", type=click.Choice(WEIGHTINGS), default="uniform", help="Of losses by their noise."),
        click.option("--min-snr-gamma", type=float, default=5.0, help="Of --weighting min_snr."),
        click.option(
            "--timestep-sampling",
            type=click.Choice(TIMESTEP_SAMPLINGS),
            default="uniform",
            help="How timesteps are drawn; importance: by their losses, with --loss vlb.",
        ),
        click.option("--steps", type=int, help="Optimiser steps in all."),
        click.option("--epochs", type=float, help="Instead of --steps."),
        click.option("--batch-size", type=int, help="Images a step."),
        click.option("--accumulate", type=int, help="Batches added up for one optimiser step."),
        click.option("--recompute", is_flag=True, help="Less memory for more time: keep less for the backward pass."),
        click.option("--lr", type=float, help="Highest learning rate."),
        click.option("--warmup-steps", type=int, help="Steps of rising learning rate."),
        click.option("--lr-decay", type=click.Choice(DECAYS), help="After the warm-up."),
        click.option("--weight-decay", type=float, help="Decoupled."),
        click.option("--clip-norm", type=float, help="Largest norm of the gradient."),
        click.option("--ema-decay", type=float, help="Decay of the averaged weights."),
        click.option("--seed", type=int, default=0, help="Seed of weights, data order and noise."),
        click.option("--checkpoint-every", type=int, default=500, help="In steps."),
        click.option("--keep-checkpoints", type=int, default=2, help="How many of the last."),
        click.option(
            "--validate-every", type=int, default=0, help="Steps between two looks at held-out images; 0: none."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    parameters: list[click.Option] = command.__click_params__  # type: ignore[attr-defined]
    for parameter in parameters:
        if default := described_default(parameter.name or ""):
            parameter.help = f"{parameter.help}  [{default}]"
    return config_option(command)
