"""Small trained models: a run's averaged weights in float16, its config, samples, and a card that tells of them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

import backends
from tinyddpm.checks import check_whole
from tinyddpm.diffusers_format.folder import check_new_folder, write_folder
from tinyddpm.errors import InputError
from tinyddpm.generation.images import draw
from tinyddpm.generation.labels import captions, class_names, labels_of
from tinyddpm.reporting.model_card import card, measured, public, scored, trained
from tinyddpm.reporting.pictures import grid_bytes
from tinyddpm.training.checkpoint import PACKED, as_bytes
from tinyddpm.training.edits import ENTRY as CONFIG_ENTRY
from tinyddpm.training.run_data import ENTRY as DATA_ENTRY
from tinyddpm.training.run_folder import CONFIG, open_checkpoint, read_config, read_metrics

# Bytes of weights: what a repository can hold a few of
LARGEST = 8_000_000
USAGE = """```
tinyddpm sample {name} -n 64 -o grid.png       # draws from it, here where its folder is
tinyddpm train --config {name} --out RUN       # trained it
tinyddpm train --init {name} --out RUN         # starts from its weights
```
"""


def pack(
    run: Path,
    folder: Path,
    count: int = 64,
    steps: int | None = None,
    backend: backends.Backend | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes the packed model of a run folder: model.safetensors, config.json, samples.png and README.md.

    folder: new or empty; it appears complete or not at all. count, steps, progress: of the samples, as of `draw`, which
    are drawn from the rounded weights. Raises InputError as the readers and `draw` do, and for weights of more than
    8 MB.
    """
    check_new_folder(folder)
    check_whole("count", count)
    config, checkpoint = public(read_config(run)), open_checkpoint(run, backend)
    model = checkpoint.sampling_model()
    extra = {key: value for key, value in checkpoint.extra.items() if key == DATA_ENTRY}
    extra[CONFIG_ENTRY] = config.to_dict()
    weights = as_bytes(model, checkpoint.diffusion, step=checkpoint.step, extra=extra, half=True)
    if len(weights) > LARGEST:
        raise InputError(
            f"the weights of {run} take {len(weights) / 1e6:.1f} MB in float16; a packed model has at most "
            f"{LARGEST / 1e6:g} MB, so train a smaller network"
        )
    rounded = model.backend.to_numpy(model.params).astype(np.float16).astype(np.float32)
    packed = replace(checkpoint, model=model.with_params(model.backend.asarray(rounded)), optimizer=None, ema=None)
    images, _ = draw(packed, count, steps, progress=progress)
    names = captions(labels_of(count, config.model.num_classes), class_names(packed))
    content = {
        PACKED: weights,
        CONFIG: (json.dumps(config.to_dict(), indent=2) + "\n").encode(),
        "samples.png": grid_bytes(images, captions=names),
        "README.md": card(
            folder.name,
            packed,
            config,
            metrics=read_metrics(run),
            figures=measured(run, checkpoint),
            seconds=trained(run, checkpoint),
            scored=scored(run, checkpoint),
            weights="averaged, in float16",
            library="tinyddpm",
            usage=USAGE.format(name=folder.name),
            picture="samples.png",
        ).encode(),
    }
    write_folder(folder, content)
