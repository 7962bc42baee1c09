"""`tinyddpm export`."""

from pathlib import Path

import click

import backends
from tinyddpm.diffusers_format import save_diffusers
from tinyddpm.generation.labels import class_names
from tinyddpm.training.run_folder import open_checkpoint


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--raw", is_flag=True, help="Export the weights themselves, not their average.")
def export(run: Path, folder: Path, raw: bool) -> None:
    """Write RUN as a Hugging Face diffusers FOLDER, for `DDPMPipeline.from_pretrained`."""
    checkpoint = open_checkpoint(run, backends.get("numpy"))
    model = checkpoint.model if raw else checkpoint.sampling_model()
    save_diffusers(folder, model, checkpoint.diffusion, class_names(checkpoint))
    click.echo(f"wrote {folder}")
