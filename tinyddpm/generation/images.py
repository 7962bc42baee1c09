"""Drawing finished images from a checkpoint."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from backends import Array
from tinyddpm import data
from tinyddpm.checks import LARGEST_SEED, as_whole, check_choice, check_kind, check_number, check_whole, told
from tinyddpm.errors import InputError
from tinyddpm.generation.labels import labels_of
from tinyddpm.samplers import DEFAULT_SAMPLER, DEFAULT_SPACING, DEFAULT_STEPS, SAMPLERS, State
from tinyddpm.samplers.guidance import classifier_free
from tinyddpm.training.checkpoint import Checkpoint

SAMPLE_BATCH = 64
STEPS_HELP = f"Steps of the sampler; by default {DEFAULT_STEPS}, or all where there are fewer."
GIF_FRAMES = 40
GIF_IMAGES = 16


def default_steps(checkpoint: Checkpoint) -> int:
    """The steps of a sampler that were not chosen."""
    return min(DEFAULT_STEPS, checkpoint.diffusion.schedule.T)


class Drawing:
    """How images are drawn from a checkpoint, checked. What an image shows depends on its number and on nothing that is
    drawn beside it, but for the last bits of sums, which matrix products round by how many images they take at once.

    sampler, steps (by default 50, or all where there are fewer), spacing, seed, more: of the sampler. A model with
    classes draws every label in turn, or `label` alone, at the given guidance scale; or none, if `unlabelled`. Raises
    InputError for a label that the model does not know, and for numbers out of range.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        steps: int | None = None,
        *,
        sampler: str = DEFAULT_SAMPLER,
        spacing: str = DEFAULT_SPACING,
        seed: int = 0,
        label: int | None = None,
        unlabelled: bool = False,
        guidance: float = 1.0,
        **more: Any,
    ) -> None:
        self.checkpoint = check_kind("checkpoint", checkpoint, Checkpoint, "td.load(path)")
        self.seed = check_whole("seed", seed, 0, LARGEST_SEED)
        self.sampler = check_choice("sampler", sampler, tuple(SAMPLERS))
        steps = default_steps(checkpoint) if steps is None else steps
        self.steps = check_whole("steps", steps, 1, checkpoint.diffusion.schedule.T, "the schedule's length")
        self.spacing, self.unlabelled = spacing, unlabelled
        model = checkpoint.sampling_model()
        self.model, self.classes, self.label, self.more = model, model.config.num_classes, as_whole(label), more
        classes = self.classes
        if label is not None and (classes is None or self.label is None or not 0 <= self.label < classes):
            accepted = "none (the model was trained without classes)" if classes is None else f"0 … {classes - 1}"
            raise InputError(f"{told(label)} is not a label of this model; accepted: {accepted}")
        if classes is None and guidance != 1.0:
            raise InputError(
                f"guidance {guidance} needs a model with classes; train with labels, as --classes does, or leave it out"
            )
        infinity = float("inf")
        self.guidance = check_number("guidance", guidance, -infinity, infinity, low_open=True, high_open=True)
        self.predictor = model if guidance == 1.0 else classifier_free(model, guidance)

    @property
    def size(self) -> tuple[int, ...]:
        """(H, W, C) of an image."""
        return (*self.model.config.size, self.model.config.in_channels)

    @property
    def about(self) -> str:
        """How the images are drawn, in words."""
        words = [f"step {self.checkpoint.step}", self.sampler, f"{self.steps} steps"]
        words += ["no labels" if self.labels(1) is None else f"guidance {self.guidance:g}"]
        words += [] if self.label is None else [f"label {self.label}"]
        return ", ".join([*words, f"seed {self.seed}"])

    def labels(self, count: int) -> np.ndarray | None:
        """The labels of images 0 … count - 1; None without classes, or if unlabelled."""
        return None if self.unlabelled else labels_of(count, self.classes, self.label)

    def states(self, first: int, n: int) -> Iterator[State]:
        """The sampler over images first … first + n - 1."""
        labels = self.labels(first + n)
        return SAMPLERS[self.sampler](
            self.predictor,
            self.checkpoint.diffusion,
            (n, *self.size),
            steps=self.steps,
            spacing=self.spacing,
            seed=self.seed,
            first=first,
            labels=None if labels is None else labels[first:],
            **self.more,
        )

    def to_uint8(self, x: Array) -> np.ndarray:
        """Images of a state as bytes."""
        return data.to_uint8(self.model.backend.to_numpy(x))


def draw(
    checkpoint: Checkpoint,
    count: int,
    steps: int | None = None,
    *,
    batch_size: int = SAMPLE_BATCH,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Any,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Samples (count, H, W, C) uint8, and frames (16 or fewer, H, W, C) of the denoising of the first 16.

    Drawn in batches as `Drawing` says, whose options these are. progress is called with the steps done and all to do.
    Raises InputError as `Drawing` does, or what the sampler refuses.
    """
    drawing = Drawing(checkpoint, steps, **options)
    count, batch_size = check_whole("count", count), check_whole("batch_size", batch_size)
    batches, frames = [], []
    starts, steps = range(0, count, batch_size), drawing.steps
    done, total = 0, len(starts) * steps
    for first in starts:
        for i, state in enumerate(drawing.states(first, min(batch_size, count - first))):
            done += 1
            progress(done, total)
            if first == 0 and (i % max(1, steps // GIF_FRAMES) == 0 or i == steps - 1):
                frames.append(drawing.to_uint8(state.x[:GIF_IMAGES]))
        batches.append(drawing.to_uint8(state.x))
    return np.concatenate(batches), frames
