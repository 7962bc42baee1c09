"""`tinyddpm export`."""

import re
from dataclasses import replace
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
from tinyddpm.reporting import model_card
from tinyddpm.training.run_folder import open_checkpoint, read_metrics

USAGE = """```python
from diffusers import DDPMPipeline

DDPMPipeline.from_pretrained("{name}")(num_inference_steps=50).images[0]
```
"""
USAGE_OF_CLASSES = """```python
from diffusers import UNet2DModel

unet = UNet2DModel.from_pretrained("{name}", subfolder="unet")  # unet(x, t, class_labels=labels)
```
"""


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
@click.option("--license", "licence", default=model_card.NO_LICENCE, help="Of the weights, by the Hub's short name.")
@going_on_unread()
def export(run: Path, folder: Path, raw: bool, label: int | str | None, licence: str) -> None:
    """Write RUN as a Hugging Face diffusers FOLDER, for `DDPMPipeline.from_pretrained`.

    `DDPMPipeline` passes no labels: a model with classes works there with --label alone. Without it the folder's
    UNet2DModel takes class_labels. README.md is a card with the metadata that the Hugging Face Hub reads; figures in it
    are those of the whole model, at this step: `tinyddpm evaluate` keeps them in RUN.
    """
    check_new_folder(folder)
    if not re.fullmatch("[a-z0-9][a-z0-9.-]*", licence):
        raise InputError(f"--license {licence!r} is no short name of a licence, such as mit, cc-by-4.0 or unknown")
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
    whole = run.is_dir() and not raw and label is None
    config = model_card.config_in(checkpoint)
    readme = model_card.card(
        folder.name,
        replace(checkpoint, model=model, optimizer=None, ema=None),
        None if config is None else model_card.public(config),
        metrics=read_metrics(run) if run.is_dir() else (),
        figures=model_card.measured(run, checkpoint) if whole else {},
        scored=model_card.scored(run, checkpoint) if whole else None,
        seconds=model_card.trained(run, checkpoint) if run.is_dir() else model_card.OPEN,
        weights="averaged" if checkpoint.ema is not None and not raw else "as trained",
        licence=licence,
        library="diffusers",
        usage=(USAGE if classes is None else USAGE_OF_CLASSES).format(name=folder.name),
    )
    save_diffusers(folder, model, checkpoint.diffusion, names, readme)
    click.echo(f"wrote {folder}")
    if classes is not None:
        click.echo(
            f"the model takes labels, and DDPMPipeline passes none: call its unet(x, t, class_labels=labels) by hand, "
            f"labels in 0 … {classes - 1} or {classes} for none, or export it for one label with --label"
        )
