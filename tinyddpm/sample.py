"""Drawing finished images from a checkpoint."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinyddpm import data, samplers
from tinyddpm.checkpoint import Checkpoint
from tinyddpm.errors import InputError
from tinyddpm.guidance import classifier_free

SAMPLERS: dict[str, Callable[..., Iterator[samplers.State]]] = {"ddim": samplers.ddim, "ddpm": samplers.ddpm}
SAMPLE_BATCH = 64
GIF_FRAMES = 40
GIF_IMAGES = 16


def draw(
    checkpoint: Checkpoint,
    count: int,
    steps: int,
    *,
    sampler: str = "ddim",
    seed: int = 0,
    label: int | None = None,
    guidance: float = 1.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **more: Any,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Samples (count, H, W, C) uint8, and of up to 16 of them the frames of how they came about.

    Drawn in batches of 64; batch i has the seed `seed + i`. A model with classes draws every label in turn, or
    `label` alone, at the given guidance scale. progress is called with the steps done and all to do; more goes
    to the sampler. Raises InputError for a label the model does not know, or what the sampler refuses.
    """
    model = checkpoint.sampling_model()
    config, be = model.config, model.backend
    classes = config.num_classes
    if label is not None and (classes is None or not 0 <= label < classes):
        accepted = "none (the model was trained without classes)" if classes is None else f"0 … {classes - 1}"
        raise InputError(f"{label} is not a label of this model; accepted: {accepted}")
    predictor = model if guidance == 1.0 else classifier_free(model, guidance)
    batches, frames = [], []
    starts = range(0, count, SAMPLE_BATCH)
    done, total = 0, len(starts) * steps
    for number, first in enumerate(starts):
        n = min(SAMPLE_BATCH, count - first)
        labels = None
        if classes is not None:
            labels = np.full(n, label) if label is not None else np.arange(first, first + n) % classes
        shape = (n, *config.size, config.in_channels)
        states = SAMPLERS[sampler](
            predictor, checkpoint.diffusion, shape, steps=steps, seed=seed + number, labels=labels, **more
        )
        for i, state in enumerate(states):
            done += 1
            progress(done, total)
            if first == 0 and (i % max(1, steps // GIF_FRAMES) == 0 or i == steps - 1):
                frames.append(data.to_uint8(be.to_numpy(state.x[:GIF_IMAGES])))
        batches.append(data.to_uint8(be.to_numpy(state.x)))
    return np.concatenate(batches), frames
