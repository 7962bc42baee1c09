"""Drawing finished images from a checkpoint."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyddpm import data
from tinyddpm.checks import LARGEST_SEED, as_whole, check_choice, check_kind, check_number, check_whole, told
from tinyddpm.errors import InputError
from tinyddpm.generation.labels import labels_of
from tinyddpm.samplers import DEFAULT_SAMPLER, DEFAULT_SPACING, DEFAULT_STEPS, SAMPLERS
from tinyddpm.samplers.guidance import classifier_free
from tinyddpm.training.checkpoint import Checkpoint

SAMPLE_BATCH = 64
STEPS_HELP = f"Steps of the sampler; by default {DEFAULT_STEPS}, or all where there are fewer."
GIF_FRAMES = 40
GIF_IMAGES = 16


def default_steps(checkpoint: Checkpoint) -> int:
    """The steps of a sampler that were not chosen."""
    return min(DEFAULT_STEPS, checkpoint.diffusion.schedule.T)


def draw(
    checkpoint: Checkpoint,
    count: int,
    steps: int | None = None,
    *,
    sampler: str = DEFAULT_SAMPLER,
    spacing: str = DEFAULT_SPACING,
    seed: int = 0,
    label: int | None = None,
    unlabelled: bool = False,
    guidance: float = 1.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **more: Any,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Samples (count, H, W, C) uint8, and frames (16 or fewer, H, W, C) of the denoising of the first 16.

    Drawn in batches of 64; the noise of an image goes by its number, and two seeds share none. A model with classes
    draws every label in turn, or `label` alone, at the given guidance scale; or none, if `unlabelled`. steps: by
    default 50, or all where there are fewer. progress is called with the steps done and all to do; more goes to the
    sampler. Raises InputError for a label that the model does not know, or what the sampler refuses.
    """
    check_kind("checkpoint", checkpoint, Checkpoint, "td.load(path)")
    count = check_whole("count", count)
    seed = check_whole("seed", seed, 0, LARGEST_SEED)
    check_choice("sampler", sampler, tuple(SAMPLERS))
    steps = default_steps(checkpoint) if steps is None else steps
    steps = check_whole("steps", steps, 1, checkpoint.diffusion.schedule.T, "the schedule's length")
    model = checkpoint.sampling_model()
    config, be = model.config, model.backend
    classes = config.num_classes
    number = as_whole(label)
    if label is not None and (classes is None or number is None or not 0 <= number < classes):
        accepted = "none (the model was trained without classes)" if classes is None else f"0 … {classes - 1}"
        raise InputError(f"{told(label)} is not a label of this model; accepted: {accepted}")
    if classes is None and guidance != 1.0:
        raise InputError(
            f"guidance {guidance} needs a model with classes; train with labels, as --classes does, or leave it out"
        )
    infinity = float("inf")
    guidance = check_number("guidance", guidance, -infinity, infinity, low_open=True, high_open=True)
    predictor = model if guidance == 1.0 else classifier_free(model, guidance)
    all_labels = None if unlabelled else labels_of(count, classes, number)
    batches, frames = [], []
    starts = range(0, count, SAMPLE_BATCH)
    done, total = 0, len(starts) * steps
    for first in starts:
        n = min(SAMPLE_BATCH, count - first)
        labels = None if all_labels is None else all_labels[first : first + n]
        shape = (n, *config.size, config.in_channels)
        states = SAMPLERS[sampler](
            predictor,
            checkpoint.diffusion,
            shape,
            steps=steps,
            spacing=spacing,
            seed=seed,
            first=first,
            labels=labels,
            **more,
        )
        for i, state in enumerate(states):
            done += 1
            progress(done, total)
            if first == 0 and (i % max(1, steps // GIF_FRAMES) == 0 or i == steps - 1):
                frames.append(data.to_uint8(be.to_numpy(state.x[:GIF_IMAGES])))
        batches.append(data.to_uint8(be.to_numpy(state.x)))
    return np.concatenate(batches), frames
