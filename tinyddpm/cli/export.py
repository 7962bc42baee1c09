"""`tinyddpm export`."""

from pathlib import Path
from typing import Any

import click

import backends
from tinyddpm.cli.output import going_on_unread
from tinyddpm.diffusers_format import for_label, save_diffusers
from tinyddpm.diffusers_format.folder import check_new_folder
from tinyddpm.errors import InputError
from tinyddpm.generation.labels import class_names
from tinyddpm.networks.unet import UNet
from tinyddpm.training.run_folder import open_checkpoint


class Label(click.ParamType):
    """A label's number, or "none"."""

    name = "N or none"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | str:
        """The number, or "none"; fails as click does for any other text."""
        if value == "none":
            return value
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a label's number nor none", param, ctx)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--raw", is_flag=True, help="Export the weights themselves, not their average.")
@click.option(
    "--label",
    type=Label(),
    help="For a model with classes: export what it computes for this label, or for no label (none).",
)
@going_on_unread()
def export(run: Path, folder: Path, raw: bool, label: int | str | None) -> None:
    """Write RUN as a Hugging Face diffusers FOLDER, for `DDPMPipeline.from_pretrained`.

    `DDPMPipeline` passes no labels: a model with classes works there with --label alone. Without it the folder's
    UNet2DModel takes class_labels.
    """
    check_new_folder(folder)
    checkpoint = open_checkpoint(run, backends.get("numpy"))
    model = checkpoint.model if raw else checkpoint.sampling_model()
    classes = model.config.num_classes
    if label is not None and isinstance(model, UNet):
        if classes is None or not (label == "none" or 0 <= int(label) < classes):
            accepted = (
                "none (the model was trained without classes)" if classes is None else f"0 … {classes - 1}, or none"
            )
            raise InputError(f"--label {label} is not a label of this model; accepted: {accepted}")
        model, classes = for_label(model, None if label == "none" else int(label)), None
    names = class_names(checkpoint) if classes is not None else None
    save_diffusers(folder, model, checkpoint.diffusion, names)
    click.echo(f"wrote {folder}")
    if classes is not None:
        click.echo(
            f"the model takes labels, and DDPMPipeline passes none: call its unet(x, t, class_labels=labels) by hand, "
            f"labels in 0 … {classes - 1} or {classes} for none, or export it for one label with --label"
        )
