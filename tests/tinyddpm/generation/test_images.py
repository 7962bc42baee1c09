"""Drawing images from a checkpoint: which weights, labels, seeds and frames."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.tinyddpm.tiny_runs import SIMPLE, UNET, build, scramble
from tinyddpm import data, samplers
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import InputError
from tinyddpm.generation.images import draw
from tinyddpm.samplers import DEFAULT_SAMPLER, SAMPLERS
from tinyddpm.training.checkpoint import Checkpoint
from tinyddpm.training.optimizers import EMA


def checkpoint(config: Any = SIMPLE, steps: int = 20, ema: bool = True) -> Checkpoint:
    """A model with random weights and, as its average, others."""
    model = scramble(build(config), seed=1)
    other = scramble(build(config), seed=2)
    return Checkpoint(model, Diffusion(Schedule.cosine(steps)), ema=EMA(other.params) if ema else None)


def sampled(model: Any, diffusion: Diffusion, n: int, sampler: str = DEFAULT_SAMPLER, **more: Any) -> np.ndarray:
    """What the sampler itself gives, as bytes."""
    return data.to_uint8(samplers.last(SAMPLERS[sampler](model, diffusion, (n, 8, 8, 1), **more)).x)


class TestDraw:
    @pytest.mark.parametrize("sampler", SAMPLERS)
    @pytest.mark.parametrize("clip", [True, False])
    def test_it_is_the_sampler_over_the_averaged_weights(self, sampler: str, clip: bool) -> None:
        source = checkpoint()
        images, frames = draw(source, 3, 5, sampler=sampler, seed=4, clip=clip, spacing="linspace")
        averaged = build(SIMPLE, params=source.ema.params)  # type: ignore[union-attr]
        more = {"steps": 5, "seed": 4, "clip": clip, "spacing": "linspace"}
        assert images.dtype == np.uint8
        np.testing.assert_array_equal(images, sampled(averaged, source.diffusion, 3, sampler, **more))
        np.testing.assert_array_equal(frames[-1], images)
        raw, _ = draw(replace(source, ema=None), 3, 5, sampler=sampler, seed=4, clip=clip, spacing="linspace")
        np.testing.assert_array_equal(raw, sampled(source.model, source.diffusion, 3, sampler, **more))
        assert not np.array_equal(raw, images)

    def test_more_than_a_batch(self) -> None:
        source = checkpoint()
        images, frames = draw(source, 130, 2, seed=7)
        assert images.shape == (130, 8, 8, 1)
        assert [len(frame) for frame in frames] == [16, 16]
        averaged = build(SIMPLE, params=source.ema.params)  # type: ignore[union-attr]
        for first, n in [(0, 64), (64, 64), (128, 2)]:
            alone = sampled(averaged, source.diffusion, n, steps=2, seed=7, first=first)
            np.testing.assert_array_equal(images[first : first + n], alone)

    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_no_two_seeds_share_an_image(self, sampler: str) -> None:
        source = checkpoint()
        seeds = (0, 1, 2, 63, 64, 2**64 - 2, 2**64 - 1)
        drawn = np.concatenate([draw(source, 65, 2, seed=seed, sampler=sampler)[0] for seed in seeds])
        assert len({image.tobytes() for image in drawn}) == len(drawn)

    def test_seed_and_eta_matter(self) -> None:
        source = checkpoint()
        images = [
            draw(source, 2, 5, **more)[0]
            for more in ({}, {"seed": 0}, {"seed": 1}, {"sampler": "ddim"}, {"sampler": "ddim", "eta": 1.0})
        ]
        assert np.array_equal(images[0], images[1])
        assert not np.array_equal(images[0], images[2])
        assert not np.array_equal(images[3], images[4])

    def test_oblong_and_colour(self) -> None:
        config = replace(SIMPLE, image_size=(4, 8), in_channels=3)
        assert draw(checkpoint(config), 2, 2)[0].shape == (2, 4, 8, 3)

    @pytest.mark.parametrize(("length", "walked"), [(20, 20), (200, 50)])
    def test_steps_by_default(self, length: int, walked: int) -> None:
        seen: list[tuple[int, int]] = []
        _, frames = draw(checkpoint(steps=length), 1, progress=lambda *step: seen.append(step))
        assert seen == [(i + 1, walked) for i in range(walked)]
        assert len(frames) == walked

    def test_progress_counts_all_batches(self) -> None:
        seen: list[tuple[int, int]] = []
        draw(checkpoint(), 70, 3, progress=lambda *step: seen.append(step))
        assert seen == [(i + 1, 6) for i in range(6)]

    @pytest.mark.parametrize(("steps", "count"), [(1, 1), (79, 79), (80, 41), (200, 41)])
    def test_frames_are_thinned_and_end_with_the_image(self, steps: int, count: int) -> None:
        images, frames = draw(checkpoint(steps=200), 20, steps)
        assert len(frames) == count
        assert {frame.shape for frame in frames} == {(16, 8, 8, 1)}
        np.testing.assert_array_equal(frames[-1], images[:16])


class TestLabels:
    def labels_of(self, monkeypatch: pytest.MonkeyPatch, *arguments: Any, **more: Any) -> list[list[int] | None]:
        """The labels that each batch's sampler was given."""
        seen: list[list[int] | None] = []

        def ddpm(model: Any, diffusion: Diffusion, shape: Any, *, labels: Any, **rest: Any) -> Any:
            seen.append(None if labels is None else labels.tolist())
            return samplers.ddpm(model, diffusion, shape, labels=labels, **rest)

        monkeypatch.setitem(SAMPLERS, "ddpm", ddpm)
        draw(*arguments, **more)
        return seen

    def test_all_in_turn_across_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = self.labels_of(monkeypatch, checkpoint(UNET), 70, 1)
        assert [len(labels or ()) for labels in seen] == [64, 6]
        assert [label for labels in seen for label in labels or []] == [i % 10 for i in range(70)]

    @pytest.mark.parametrize("label", [0, 9])
    def test_one_alone(self, monkeypatch: pytest.MonkeyPatch, label: int) -> None:
        assert self.labels_of(monkeypatch, checkpoint(UNET), 3, 1, label=label) == [[label] * 3]

    def test_none_for_a_model_without_classes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.labels_of(monkeypatch, checkpoint(SIMPLE), 3, 1) == [None]

    def test_guidance_moves_away_from_the_unconditional(self) -> None:
        source = checkpoint(UNET, ema=False)
        model, diffusion = source.model, source.diffusion
        labels = np.full(2, 3)

        def guided(x: Any, t: Any, labels: Any = None) -> Any:
            conditional, unconditional = model(x, t, labels=labels), model(x, t)
            return unconditional + 4.0 * (conditional - unconditional)

        plain, strong = (draw(source, 2, 3, label=3, guidance=scale)[0] for scale in (1.0, 4.0))
        np.testing.assert_array_equal(plain, sampled(model, diffusion, 2, steps=3, labels=labels))
        expected = sampled(guided, diffusion, 2, steps=3, labels=labels)
        np.testing.assert_array_equal(strong, expected)
        assert not np.array_equal(plain, strong)


@pytest.mark.parametrize(
    ("config", "more", "words"),
    [
        (SIMPLE, {"count": 0}, "count must be a whole number of at least 1, got 0"),
        (SIMPLE, {"count": -3}, "got -3"),
        (SIMPLE, {"count": 2.0}, "got 2.0"),
        (SIMPLE, {"seed": -1}, "got -1"),
        (SIMPLE, {"seed": 2**64}, f"got {2**64}"),
        (SIMPLE, {"steps": 0}, "got 0"),
        (SIMPLE, {"steps": 21}, "1 … 20 (the schedule's length), got 21"),
        (SIMPLE, {"sampler": "plms"}, "one of ddpm, ddim, euler, heun, dpm_solver, pndm, got 'plms'"),
        (SIMPLE, {"spacing": "wide"}, "'wide'"),
        (SIMPLE, {"threshold": 1.5}, "threshold must be a number in (0, 1], got 1.5"),
        (SIMPLE, {"sampler": "ddim", "eta": float("nan")}, "nan"),
        (SIMPLE, {"sampler": "ddim", "eta": -0.5}, "-0.5"),
        (SIMPLE, {"label": 3}, "3 is not a label of this model; accepted: none"),
        (UNET, {"label": 10}, "10 is not a label of this model; accepted: 0 … 9"),
        (UNET, {"label": -1}, "-1 is not a label"),
        (SIMPLE, {"guidance": 3.0}, "guidance 3.0 needs a model with classes"),
        (SIMPLE, {"guidance": float("nan")}, "guidance nan"),
        (UNET, {"guidance": float("nan")}, "nan"),
        (UNET, {"guidance": float("inf")}, "inf"),
    ],
)
def test_what_is_refused(config: Any, more: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        draw(checkpoint(config), **{"count": 2, "steps": 2} | more)
    assert words in str(caught.value)


def test_weights_that_lead_to_nan_are_an_error_not_a_picture() -> None:
    source = checkpoint(ema=False)
    source.model.params[...] = np.nan
    with pytest.raises(InputError, match="NaN"):
        draw(source, 2, 2, clip=False)
