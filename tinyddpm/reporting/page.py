"""The page of a run: one HTML file that needs nothing else, neither a network nor a server, and shows what is there.

`page.html` has its structure, `page.css` its looks, `page.js` what answers to pointer and keys, `curves` its plots.
"""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import backends
from tinyddpm import data
from tinyddpm.checks import check_whole
from tinyddpm.data.images import printable
from tinyddpm.errors import InputError
from tinyddpm.evaluation.kept import kept_quality, read_evaluation
from tinyddpm.evaluation.nearest_images import nearest_images
from tinyddpm.files import write_atomically
from tinyddpm.generation.images import draw
from tinyddpm.generation.labels import captions, class_names, labels_of
from tinyddpm.reporting import curves, score_table
from tinyddpm.reporting.environment import read_environments
from tinyddpm.reporting.pictures import png_bytes, to_pillow
from tinyddpm.training.checkpoint import Checkpoint
from tinyddpm.training.run_config import RunConfig
from tinyddpm.training.run_data import known_data, load_again
from tinyddpm.training.run_folder import open_checkpoint, read_config, read_metrics

# Bytes of pixels in each kind of picture: the page stays at a few megabytes whatever the images' size
MOST_BYTES = 1_000_000
SAMPLES, FRAMES = 64, 25
# Samples beside training images, and how many of these
COMPARED, NEAREST = 8, 3
# The bound and its parts, as `evaluate` names them
BITS = ("total", "error", "prior", "between", "decoder", "floor")
# Steps whose mean loss is given
SMOOTHED = 50


@dataclass(frozen=True)
class Tile:
    """A picture with what it shows in words, a caption, and how many frames stand side by side in it."""

    source: str
    words: str
    caption: str = ""
    frames: int = 1


def write_page(
    run: Path,
    output: Path,
    backend: backends.Backend,
    command: str,
    *,
    name: str | None = None,
    data_dir: str | None = None,
    count: int = SAMPLES,
    steps: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes the page of the run in a folder, whether it is finished, stopped or going on.

    command: that repeats the run. name, data_dir: where its data are now, as of `DataConfig.at`. count, steps,
    progress: of the samples, as of `draw`; fewer are drawn where images are large. What cannot be shown, as where there
    is no checkpoint or the data are gone, is told in its place. Raises InputError where there is no run, or one whose
    config this version does not know, or for numbers that `draw` refuses; OSError that names the file.
    """
    config, metrics = read_config(run), read_metrics(run)
    check_whole("count", count)
    if steps is not None:
        check_whole("steps", steps, 1, config.diffusion.timesteps)
    content: dict[str, Any] = {"title": f"{config.data.title}: {run.resolve().name}", "command": command}
    try:
        checkpoint = open_checkpoint(run, backend)
        content |= drawn(checkpoint, count, steps, progress)
        images = content.pop("images")
    except InputError as error:
        checkpoint, images = None, None
        content |= {"samples": [], "denoising": [], "why_no_samples": str(error)}
    try:
        content["nearest"] = beside_training(config, checkpoint, images, name, data_dir)
    except InputError as error:
        content |= {"nearest": [], "why_no_nearest": str(error)}
    content |= measured(read_evaluation(run)) | {
        "facts": facts(config, checkpoint, metrics),
        "plots": curves.training_plots(metrics),
        "settings": settings(config),
        "environments": read_environments(run),
    }
    write_atomically(output, rendered(content).encode("utf-8"))


def rendered(content: dict[str, Any]) -> str:
    """The page with this content. Texts are escaped, and what no HTML may hold is replaced."""
    environment = Environment(
        loader=PackageLoader("tinyddpm.reporting", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=shown,
    )
    plots = [*content["plots"], *(content[key] for key in ("level_plot", "bits_plot") if content[key])]
    return environment.get_template("page.html").render(
        content,
        all_plots=plots,
        values=Markup(curves.script_values(plots)),
        style=own_text("page.css"),
        script=own_text("page.js"),
    )


def own_text(name: str) -> Markup:
    """A file beside this one, which may stand in a page as it is."""
    return Markup(resources.files("tinyddpm.reporting").joinpath(name).read_text(encoding="utf-8"))


def shown(value: Any) -> Any:
    """A value of the page without characters that are none in HTML; None as a dash."""
    if value is None:
        return "–"
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in printable(value))


def facts(config: RunConfig, checkpoint: Checkpoint | None, metrics: Sequence[dict[str, Any]]) -> dict[str, str]:
    """What to know at first sight."""
    taken, total = metrics[-1]["step"] if metrics else 0, config.training.steps
    if checkpoint is not None:
        taken = max(taken, checkpoint.step)  # a packed model has no metrics
    losses = [row["loss"] for row in metrics][-SMOOTHED:]
    looks = [row["validation_loss_ema"] for row in metrics if "validation_loss_ema" in row]
    size = "×".join(map(str, (*config.model.size, config.model.in_channels)))
    found = {"images": f"{config.data.title}, {size}"}
    if checkpoint is not None:
        found["network"] = f"{type(checkpoint.model).__name__} of {checkpoint.model.params.shape[0]:,} parameters"
    found["training"] = f"{taken:,} of {total:,} steps" + ("" if taken >= total else ", not finished")
    if losses:
        found["loss"] = f"{np.mean(losses):.4f} (mean of {len(losses)} steps)"
    if looks:
        found["held-out loss"] = f"{looks[-1]:.4f} (averaged weights)"
    if checkpoint is not None:
        weights = "averaged weights" if checkpoint.ema is not None else "weights"
        found["samples of"] = f"the {weights} at step {checkpoint.step:,}"
    return found


def settings(config: RunConfig) -> dict[str, dict[str, Any]]:
    """All values of the config in groups, by their names."""
    values = config.to_dict()
    groups = {
        "Data": values.pop("data"),
        "Network": {"kind": values["model"]["kind"], **values.pop("model")["config"]},
        "Diffusion": values.pop("diffusion"),
        "Training": values.pop("training"),
    }
    return {**groups, "Run": values}


def measured(evaluation: dict[str, Any] | None) -> dict[str, Any]:
    """What `evaluate` has kept, as plots and rows of tables; each None or empty where it was not measured."""
    found: dict[str, Any] = {"evaluation": evaluation, "level_plot": None, "bits_plot": None, "quality_rows": []}
    if evaluation is None:
        return found
    found["level_plot"] = curves.level_plot(evaluation["levels"])
    if bits := evaluation["bits"]:
        found["bits_plot"] = curves.bits_plot(bits["ledger"])
        found["bits_rows"] = {key: f"{bits[key]:.4f}" for key in BITS if bits[key] is not None}
    if score := kept_quality(evaluation):
        found["quality_rows"] = score_table.rows(score)
        found["quality_about"] = score_table.about_counts(score, evaluation["quality"]["about"])
    return found


def drawn(
    checkpoint: Checkpoint, count: int, steps: int | None, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Samples and their denoising as tiles, and the samples themselves as "images"."""
    size = (*checkpoint.model.config.size, checkpoint.model.config.in_channels)
    count = min(count, max(1, MOST_BYTES // int(np.prod(size))))
    images, frames = draw(checkpoint, count, steps, progress=progress)
    names = captions(labels_of(count, checkpoint.model.config.num_classes), class_names(checkpoint)) or [""] * count
    chosen = np.unique(np.linspace(0, len(frames) - 1, FRAMES).round().astype(int))
    strips = np.stack([frames[i] for i in chosen], axis=2)  # (N, H, frames, W, C)
    strips = strips[: max(1, MOST_BYTES // strips[0].size)]
    return {
        "images": images,
        "samples": [
            Tile(png_source(image), f"sample {i + 1}" + (f", {text}" if text else ""), text)
            for i, (image, text) in enumerate(zip(images, names, strict=True))
        ],
        "denoising": [
            Tile(png_source(strip.reshape(size[0], -1, size[2])), f"sample {i + 1} on its way", text, len(chosen))
            for i, (strip, text) in enumerate(zip(strips, names, strict=False))
        ],
        "frame_shares": [round(100 * (int(i) + 1) / len(frames)) for i in chosen],
        "size": size,
    }


def beside_training(
    config: RunConfig, checkpoint: Checkpoint | None, images: np.ndarray | None, name: str | None, data_dir: str | None
) -> list[list[Tile]]:
    """The first samples, each followed by its nearest training images. Raises InputError where these are not there."""
    if checkpoint is None or images is None:
        return []
    there = config.data.at(name, data_dir)
    dataset: data.Dataset = load_again(replace(config, data=there), known_data(checkpoint), accept=True)
    compared, count = images[:COMPARED], min(NEAREST, len(dataset))
    indices, distances = nearest_images(compared, dataset.images, count)
    return [
        [
            Tile(png_source(compared[i]), f"sample {i + 1}", "sample"),
            *(
                Tile(
                    png_source(dataset.images[index]),
                    f"training image {index}, at a distance of {distance:.0f} from sample {i + 1}",
                    f"{distance:.0f}",
                )
                for index, distance in zip(indices[i], distances[i], strict=True)
            ),
        ]
        for i in range(len(compared))
    ]


def png_source(image: np.ndarray) -> str:
    """An image (H, W, C) uint8 as an address that holds the whole of it."""
    return f"data:image/png;base64,{base64.b64encode(png_bytes(to_pillow(image))).decode()}"
