"""`tinyddpm train`."""

import platform
import shlex
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

import backends
from backends.thread_count import threads
from tinyddpm.checks import check_whole
from tinyddpm.cli.configuration import diffusion_config, run_config
from tinyddpm.cli.interrupts import Interrupted
from tinyddpm.cli.options import (
    accept_data_option,
    configuration_options,
    device_options,
    show_notes,
    threads_option,
)
from tinyddpm.cli.output import going_on_unread
from tinyddpm.cli.program import going_on, told
from tinyddpm.cli.progress import sampling_bar
from tinyddpm.cli.starting_point import open_start, options_from
from tinyddpm.cli.training_loop import save_samples, train_along, train_to_end
from tinyddpm.diffusers_format import why_not
from tinyddpm.doctor import installed
from tinyddpm.errors import InputError
from tinyddpm.generation.images import STEPS_HELP, draw
from tinyddpm.networks.model import Model
from tinyddpm.networks.registry import NETWORKS, kind_of
from tinyddpm.ranks import check_alike, together, world
from tinyddpm.reporting import environment, pictures, tensorboard_log
from tinyddpm.reporting.loss_curve import save_loss_curve
from tinyddpm.reporting.tensorboard_log import TensorboardLog
from tinyddpm.training import peak_memory
from tinyddpm.training.checkpoint import Checkpoint
from tinyddpm.training.run_config import DiffusionConfig
from tinyddpm.training.run_folder import Run, check_new, checkpoints, read_config, read_metrics
from tinyddpm.training.several_ranks import follow, lead
from tinyddpm.training.starting_weights import StartingWeights


@click.command()
@configuration_options
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the new run; by default runs/DATA.")
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    help="Go on with the run in this folder (--steps: a new total; --data, --data-dir: where its data are now).",
)
@accept_data_option
@click.option(
    "--init",
    type=click.Path(path_type=Path),
    help="Start from the weights of this run, checkpoint or diffusers folder, averaged ones where it has any; the "
    "network and the diffusion are its own by default.",
)
@click.option("--sample-every", type=int, default=0, help="Steps between sample pictures while training; 0: none.")
@click.option("--samples", type=int, default=64, help="How many samples to draw at the end; 0: none.")
@click.option("--sample-steps", type=int, help=STEPS_HELP)
@click.option(
    "--log-to",
    type=click.Choice(["tensorboard"]),
    help="Write scalars and sample pictures for TensorBoard into the run's folder too; by default metrics.jsonl alone.",
)
@device_options
@threads_option
@going_on_unread()
def train(backend: Callable[[], backends.Backend], **options: Any) -> None:
    """Train a model; without options the digits of scikit-learn, in about a minute.

    Leaves a folder with config.json, metrics.jsonl, checkpoints/, samples.png, loss.png and denoising.gif, and in
    environment.jsonl the machine, versions and seconds. `tinyddpm report` shows it all on one page.

    The loss printed is the mean of the last 50 steps; metrics.jsonl has a line for each step with its own. With
    --validate-every, some lines also have validation_loss and validation_loss_ema: the loss of the weights and of
    their average on held-out images, up to 512 of the test split (of a folder every tenth image), always with the same
    noise. It is the loss that is trained: with learned variances the prediction's squared error and a thousandth of
    the bound, or the bound alone, in bits per dimension.
    """
    ranks = world()
    check_alike(ranks, described(options))
    log_to = options.pop("log_to")
    with together(ranks):
        if log_to:
            tensorboard_log.check_installed()
        device = backend()
    check_alike(ranks, {"backend": f"{device.name} {getattr(device, 'precision', '')}".strip()})
    sampling = {key: options.pop(key) for key in ("sample_every", "samples", "sample_steps")}
    check_whole("--samples", sampling["samples"], 0)
    check_whole("--sample-every", sampling["sample_every"], 0)
    with together(ranks):
        run = opened(device, sampling["sample_steps"], options) if ranks.rank == 0 else None
    if run is None:
        train_along(*follow(ranks, device))
        return
    with run:
        lead(run, ranks)
        if ranks.size > 1:
            click.echo(f"{ranks.size} ranks share each batch, {threads()} thread{'s' * (threads() > 1)} each here")
            click.echo(f"if one of them ends, all do; then {going_on(run.folder)}")
        try:
            environment.record(run.folder, device, run.trainer.step)
            with TensorboardLog(run.folder, run.trainer.step) if log_to else nullcontext() as log:
                finished = train_and_draw(run, log, **sampling)
        except OSError as error:
            raise InputError(f"{told(error)}, then {from_last_checkpoint(run)}") from error
        except KeyboardInterrupt as error:
            raise Interrupted(f"; {from_last_checkpoint(run)}") from error
    if not finished:
        click.echo(f"stopped at step {run.trainer.step}; {going_on(run.folder)}")
        sys.exit(130)
    click.echo(f"{run.folder}: {', '.join(sorted(path.name for path in run.folder.iterdir()))}")
    click.echo(f"draw more with: tinyddpm sample {shlex.quote(str(run.folder))}")


def opened(device: backends.Backend, sample_steps: int | None, options: dict[str, Any]) -> Run:
    """The run that the options begin, or go on with."""
    out, resume, init, accept = (options.pop(key) for key in ("out", "resume", "init", "accept_data"))
    if not resume:
        if accept:
            raise InputError("--accept-data is of a resumed run; leave it out, or add --resume FOLDER")
        return new_run(out, init, device, sample_steps, options)
    refuse_changes(click.get_current_context())
    check_sample_steps(sample_steps, read_config(resume).diffusion)
    name = options["name"] if given("name") else None
    run = Run.resume(resume, device, options["steps"], name=name, data_dir=options["data_dir"], accept_data=accept)
    show_notes(run.trainer.batches.dataset)
    click.echo(f"resuming {resume} at step {run.trainer.step}")
    for line in run.changes:
        click.echo(line)
    return run


def described(options: dict[str, Any]) -> dict[str, Any]:
    """What ranks that train together must have in common: versions, and the options of the command."""
    versions = {name: installed(name) for name in ("tinyddpm", "numpy", "numba")}
    return {"python": platform.python_version(), **versions, **{f"--{name}": value for name, value in options.items()}}


def from_last_checkpoint(run: Run) -> str:
    """What is left after an end in the middle, and the command that goes on from there."""
    found = checkpoints(run.folder)
    if not found:
        return f"put {run.folder} back and {going_on(run.folder)}"
    step, total = found[-1][0], run.config.training.steps
    return (
        f"{going_on(run.folder)} ({f'at step {step} of {total}' if step < total else 'the pictures alone are missing'})"
    )


def train_and_draw(
    run: Run, log: TensorboardLog | None, sample_every: int, samples: int, sample_steps: int | None
) -> bool:
    """Takes the remaining steps and leaves the pictures. False where a signal stopped it, after a checkpoint."""
    model, training, dataset = run.trainer.model, run.config.training, run.trainer.batches.dataset
    click.echo(
        f"{type(model).__name__} of {model.params.shape[0]:,} parameters on {model.backend.name}, "
        f"{run.config.data.title} {'x'.join(map(str, dataset.images.shape[1:]))}, "
        f"{training.steps} steps of {training.batch_size * training.accumulate} out of {len(dataset):,} images"
    )
    if run.config.model.num_classes is not None and dataset.class_names:
        click.echo(f"classes: {dataset.named_classes()}")
    if run.validation is not None:
        click.echo(f"held-out loss: {when(run.config.validate_every)}, {run.validation}")
    try:
        if not train_to_end(run, sample_every, min(samples, 64) or 16, sample_steps, log):
            return False
    except MemoryError as error:
        if model.backend.capacity() is None:
            raise
        raise InputError(f"not enough memory on the GPU ({error}); {what_would_fit(run)}") from error
    save_loss_curve(run.folder / "loss.png", read_metrics(run.folder), run.config.data.title)
    if samples:
        checkpoint = Checkpoint(run.trainer.model, run.trainer.diffusion, ema=run.trainer.ema)
        with sampling_bar() as progress:
            images, frames = draw(checkpoint, samples, sample_steps, seed=training.seed, progress=progress)
        save_samples(run, "samples.png", images, log)
        pictures.save_gif(run.folder / "denoising.gif", frames)
    return True


def new_run(
    out: Path | None, init: Path | None, device: backends.Backend, sample_steps: int | None, options: dict[str, Any]
) -> Run:
    """A run with the configuration that the options give; init: what it starts from, if not from fresh weights."""
    folder = out or Path("runs") / Path(options["name"]).resolve().name
    check_new(folder)
    model, own = (None, {}) if init is None else starting_point(init, device)
    options = {**options, **own}
    check_sample_steps(sample_steps, diffusion_config(options))
    config, dataset = run_config(options)
    start = None if model is None else StartingWeights(model, config.model, str(init))
    config = replace(config, init=None if init is None else str(init))
    show_notes(dataset)
    run = Run.create(folder, config, device, dataset, start)
    if start is not None:
        click.echo(start.note)
    if reason := why_not(config.model):
        click.echo(f"note: `tinyddpm export` could not write this model: {reason}")
    return run


def when(every: int) -> str:
    """How often something is done, in words."""
    return "every step" if every == 1 else f"every {every:,} steps"


def starting_point(path: Path, device: backends.Backend) -> tuple[Model, dict[str, Any]]:
    """The network to start from, and the options that it sets where neither command line nor --config does."""
    context = click.get_current_context()
    source = context.get_parameter_source
    chosen = {name for name in context.params if source(name) not in (None, ParameterSource.DEFAULT)}
    model, diffusion = open_start(path, device)
    own = options_from(model, diffusion, path, chosen)
    if own.get("kind", context.params["kind"]) != NETWORKS[str(kind_of(model))].option:
        raise InputError(f"{path} is a {kind_of(model)}; leave out --model {context.params['kind']}")
    return model, own


def given(parameter: str) -> bool:
    """Whether the command line of this process has the option of that name."""
    source = click.get_current_context().get_parameter_source(parameter)
    return source is ParameterSource.COMMANDLINE


def refuse_changes(context: click.Context) -> None:
    """Raises InputError for an option that would change a resumed run's configuration or place."""
    kept = {"steps", "resume", "backend", "precision", "no_graph", "threads", "sample_every", "samples", "sample_steps"}
    kept |= {"name", "data_dir", "accept_data", "log_to"}
    for option in context.command.params:
        if option.name not in kept and given(option.name or ""):
            raise InputError(f"a resumed run keeps its configuration and folder; leave out {option.opts[0]}")


def what_would_fit(run: Run) -> str:
    """A remedy after a device of its own, on which the backend computes, has run out of memory."""
    trainer, training = run.trainer, run.config.training
    backend = trainer.model.backend
    most = peak_memory.largest_batch(trainer.model, trainer.diffusion, training, backend.capacity() or 0)
    if most == training.batch_size:
        return f"batches of {most} images should fit, so other processes may have taken some; close them or try again"
    if most == 0:
        return "no batch would fit; use a smaller model or image"
    parts = -(-training.batch_size // most)
    return f"batches of {most} images would fit: --batch-size {most}, with --accumulate {parts} for as many in a step"


def check_sample_steps(steps: int | None, config: DiffusionConfig) -> None:
    """Raises InputError for more sampling steps than the diffusion has, before hours of training are spent."""
    if steps is not None:
        check_whole("--sample-steps", steps, 1, config.timesteps)
