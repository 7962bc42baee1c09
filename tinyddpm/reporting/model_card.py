"""README.md of a model that others get: the metadata that the Hugging Face Hub reads, and what a run knows of it."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tinyddpm import data
from tinyddpm.data.images import printable
from tinyddpm.errors import InputError
from tinyddpm.evaluation.kept import kept_quality, read_evaluation
from tinyddpm.generation.labels import class_names
from tinyddpm.reporting.environment import read_environments, read_spent
from tinyddpm.reporting.score_table import about_counts
from tinyddpm.training.checkpoint import Checkpoint
from tinyddpm.training.edits import ENTRY as CONFIG_ENTRY
from tinyddpm.training.run_config import RunConfig
from tinyddpm.training.run_folder import read_metrics

# Where a value is not known
OPEN = "(to be filled in)"
# The Hub's word for weights whose licence nobody has said
NO_LICENCE = "unknown"
TASK = "unconditional-image-generation"
# Names of the sets on the Hub
DATASETS = {
    "mnist": "ylecun/mnist",
    "fashion-mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
}
# Steps whose mean loss is given
SMOOTHED = 50


def card(
    name: str,
    checkpoint: Checkpoint,
    config: RunConfig | None,
    *,
    metrics: Sequence[dict[str, Any]] = (),
    figures: dict[str, float] | None = None,
    seconds: str = OPEN,
    scored: str | None = None,
    weights: str = "averaged",
    licence: str = NO_LICENCE,
    library: str,
    usage: str,
    picture: str | None = None,
) -> str:
    """The text of README.md: metadata between dashes, then a table, with places for what no run knows, and usage.

    name: of the model. config: of its run, None where that is not known. metrics, figures: as of `read_metrics` and
    `measured`. seconds, scored: as of `trained` and `scored`. weights: in what form they are there. library: which
    loads them, usage: how. picture: a file of samples.
    """
    title = " ".join(printable(name).split())
    found = rows(checkpoint, config, metrics, weights) | {"seconds": seconds}
    if scored is not None:
        found["scored"] = scored
    table = "\n".join(f"| {key} | {cell(value)} |" for key, value in found.items())
    if figures:
        table += "\n" + "\n".join(f"| {key} | {value:.4f} |" for key, value in figures.items())
    else:
        table += f"\n| quality | {OPEN} |"
    shown = "" if picture is None else f"![Samples]({picture})\n\n"
    head = metadata(title, config, licence, library, figures or {})
    return f"{head}\n# {title}\n\n{shown}| | |\n| --- | --- |\n{table}\n\n{usage}"


def metadata(name: str, config: RunConfig | None, licence: str, library: str, figures: dict[str, float]) -> str:
    """The block of YAML that begins a card. Its values are written as JSON, which is YAML too."""
    title, name_of_set = (None, "") if config is None else (config.data.title, config.data.name)
    values: dict[str, Any] = {
        "license": licence,
        "library_name": library,
        "pipeline_tag": TASK,
        "tags": [TASK, "ddpm", "diffusion-models", "tinyddpm"],
    }
    if name_of_set in DATASETS:
        values["datasets"] = [DATASETS[name_of_set]]
    if figures and title is not None:
        results = {
            "task": {"type": TASK},
            "dataset": {"type": DATASETS.get(name_of_set, "imagefolder"), "name": printable(title)},
            "metrics": [{"type": key.replace(" ", "_"), "name": key, "value": value} for key, value in figures.items()],
        }
        values["model-index"] = [{"name": name, "results": [results]}]
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "---", ""])


def rows(
    checkpoint: Checkpoint, config: RunConfig | None, metrics: Sequence[dict[str, Any]], weights: str
) -> dict[str, str]:
    """What is known of a model, by name."""
    model, diffusion = checkpoint.model, checkpoint.diffusion
    size = "x".join(map(str, (*model.config.size, model.config.in_channels)))
    classes = class_names(checkpoint)
    found = {
        "network": f"{type(model).__name__}, {model.params.shape[0]:,} parameters, {weights}",
        "images": size if config is None else f"{config.data.title}, {size}",
        "classes": ", ".join(classes) if classes else "none" if model.config.num_classes is None else OPEN,
        "licence of the data": OPEN if config is None else data.LICENCES.get(config.data.name, OPEN),
        "diffusion": f"{diffusion.schedule.T} steps, predicts {diffusion.prediction}",
        "training": f"{checkpoint.step:,} steps",
    }
    if config is not None:
        end = ", rescaled to zero terminal SNR" if config.diffusion.zero_terminal_snr else ""
        found["diffusion"] = f"{config.diffusion.schedule}{end}, {found['diffusion']}"
        found["training"] += f" of {config.training.batch_size * config.training.accumulate} images"
    seen = [row["loss"] for row in metrics if row["step"] <= checkpoint.step][-SMOOTHED:]
    found["loss"] = f"{np.mean(seen):.4f} in training (mean of {len(seen)} steps)" if seen else OPEN
    held_out = [row["validation_loss_ema"] for row in metrics if "validation_loss_ema" in row]
    found["loss"] += f", {held_out[-1]:.4f} on held-out images" if held_out else ""
    return found


def cell(text: str) -> str:
    """A text that may stand in a table of Markdown."""
    line = " ".join(printable(text).split())
    return line.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def measured(run: Path, checkpoint: Checkpoint) -> dict[str, float]:
    """What is known of the averaged weights of a run at the checkpoint's step: the held-out loss, and what `evaluate`
    has kept. Empty where nothing is."""
    found: dict[str, Any] = {}
    for row in read_metrics(run):
        if row["step"] == checkpoint.step and "validation_loss_ema" in row:
            found["held-out loss"] = row["validation_loss_ema"]
    kept = read_evaluation(run)
    if kept is not None and kept["step"] == checkpoint.step:
        found["test loss"] = kept["mean_loss"]
        found["bits per dimension"] = (kept["bits"] or {}).get("total")
        scores = (kept["quality"] or {}).get("samples", {})
        found["Fréchet distance over that of real images"] = (kept["quality"] or {}).get("frechet_ratio")
        names = {"Fréchet distance": "frechet", "precision": "precision", "recall": "recall"}
        found |= {name: scores.get(key) for name, key in names.items()}
    return {name: value for name, value in found.items() if isinstance(value, int | float) and math.isfinite(value)}


def scored(run: Path, checkpoint: Checkpoint) -> str | None:
    """Which images the scores in `measured` are of; None where there are none."""
    kept = read_evaluation(run)
    score = None if kept is None or kept["step"] != checkpoint.step else kept_quality(kept)
    return None if kept is None or score is None else about_counts(score, kept["quality"]["about"])


def trained(run: Path, checkpoint: Checkpoint) -> str:
    """The seconds that a run's training took up to the checkpoint, and where, as far as they were noted."""
    spent, places = read_spent(run), read_environments(run)
    if spent is None or spent.step != checkpoint.step:
        return OPEN
    since = f" from step {spent.since:,} on" if spent.since else ""
    words = [f"{at['backend']} on {at['processor']}, {at['threads'].partition(' ')[0]} threads" for at in places]
    return f"{spent.seconds:,.0f}{since}, by {'; then '.join(dict.fromkeys(words))}" if words else OPEN


def config_in(checkpoint: Checkpoint) -> RunConfig | None:
    """The config of the run that wrote a checkpoint; None for one of another kind or version."""
    try:
        return RunConfig.from_dict(checkpoint.extra.get(CONFIG_ENTRY))
    except (InputError, TypeError, KeyError):
        return None


def public(config: RunConfig) -> RunConfig:
    """The config without this machine's places: of a folder of images, or of a model to start from, the name alone.

    A folder that is called as a named set is becomes "./NAME", as `data.load` reads it.
    """
    images = replace(config.data, data_dir=None)
    if config.data.name not in data.NAMES:
        title = config.data.title
        images = replace(images, name=f"./{title}" if title in data.NAMES else title)
    return replace(config, data=images, init=None if config.init is None else Path(config.init).name)
