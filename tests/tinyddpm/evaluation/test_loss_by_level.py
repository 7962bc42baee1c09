"""Losses per noise level against the formula."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import backends
from tests.tinyddpm.tiny_runs import SIMPLE, UNET, build, images, scramble
from tinyddpm import data, streams
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import InputError
from tinyddpm.evaluation.loss_by_level import BATCH, EVALUATED_IMAGES, loss_by_noise_level

NUMPY = backends.get("numpy")


class Recorder:
    """Stands in for a model: predicts by the function, and notes what it was asked."""

    def __init__(self, function: Callable[[Any, Any], Any], num_classes: int | None = None) -> None:
        self.function, self.backend = function, NUMPY
        self.config = SimpleNamespace(num_classes=num_classes)
        self.calls: list[tuple[Any, Any, Any]] = []

    def __call__(self, x: Any, t: Any, labels: Any = None) -> Any:
        self.calls.append((x, t, labels))
        return self.function(x, t)


class TestLossByNoiseLevel:
    def test_a_model_that_predicts_nothing(self) -> None:
        """The error of 0 is 1 for noise with variance 1; for the images it is their mean square."""
        dataset = images(200)
        nothing = Recorder(lambda x, t: 0 * x)
        for row in loss_by_noise_level(nothing, Diffusion(Schedule.cosine(100)), dataset, 5):  # type: ignore[arg-type]
            assert row.loss == pytest.approx(1, abs=0.05)
        mean_square = float(np.mean(data.to_unit(dataset.images).astype(np.float64) ** 2))
        for row in loss_by_noise_level(nothing, Diffusion(Schedule.cosine(100), "x0"), dataset, 5):  # type: ignore[arg-type]
            assert row.loss == pytest.approx(mean_square, rel=1e-5)

    @pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
    def test_a_model_that_knows_the_one_image(self, prediction: str) -> None:
        """All images alike, so that what was added to them can be told exactly."""
        image = images(1).images
        dataset = data.Dataset("one", image.repeat(70, axis=0))
        diffusion = Diffusion(Schedule.cosine(100), prediction)
        x0 = data.to_unit(image).astype(np.float64)

        def oracle(x: Any, t: int) -> Any:
            return diffusion.target(x0, t, diffusion.eps_from_x0(x, t, x0)) + 0 * x

        for row in loss_by_noise_level(Recorder(oracle), diffusion, dataset, 4):  # type: ignore[arg-type]
            # float32 noise is read back through 1 / sqrt(1 - alpha_bar)
            assert row.loss < 1e-8

    def test_every_number_by_hand(self) -> None:
        """Two batches of unequal size, so that a mean of means would show."""
        model, diffusion = scramble(build(UNET)), Diffusion(Schedule.cosine(40), "v")
        dataset = images(BATCH + 5)
        rows = loss_by_noise_level(model, diffusion, dataset, 3, seed=6)
        assert [row.t for row in rows] == [0, 20, 39]
        x0, labels = data.to_unit(dataset.images), dataset.labels
        for row in rows:
            assert row.alpha_bar == diffusion.schedule.alpha_bars[row.t]
            parts = [
                NUMPY.random_normal((n, 8, 8, 1), 6, streams.EVALUATION_NOISE[i], row.t)[0]
                for i, n in enumerate((BATCH, 5))
            ]
            noise = np.concatenate(parts)
            output = model(diffusion.q_sample(x0, row.t, noise), row.t, labels=labels)
            expected = np.mean((output - diffusion.target(x0, row.t, noise)) ** 2, dtype=np.float64)
            assert row.loss == pytest.approx(float(expected), rel=1e-5)

    @pytest.mark.parametrize("loss", ["mse", "vlb"])
    def test_of_a_network_that_predicts_variances_too_it_is_the_error_of_the_prediction(self, loss: str) -> None:
        """So that runs compare, whatever they were trained with."""
        both = Recorder(lambda x, t: np.concatenate([np.sin(x), 5 + 0 * x], axis=-1))
        found, wanted = (
            loss_by_noise_level(model, diffusion, images(5), 3)  # type: ignore[arg-type]
            for model, diffusion in (
                (both, Diffusion(Schedule.cosine(9), loss=loss, variance="learned")),
                (Recorder(lambda x, t: np.sin(x)), Diffusion(Schedule.cosine(9))),
            )
        )
        assert found == wanted

    def test_labels_go_to_a_model_with_classes_only(self) -> None:
        dataset = images(70)
        assert dataset.labels is not None
        for classes, labels, expected in (
            (10, dataset.labels, [*dataset.labels]),
            (10, None, None),
            (None, dataset.labels, None),
        ):
            model = Recorder(lambda x, t: x, classes)
            loss_by_noise_level(model, Diffusion(Schedule.cosine(9)), replace(dataset, labels=labels), 1)  # type: ignore[arg-type]
            seen = [call[2] for call in model.calls]
            assert len(seen) == 2
            if expected is None:
                assert seen == [None, None]
            else:
                np.testing.assert_array_equal(np.concatenate(seen), expected)

    def test_the_network_is_given_the_timesteps_of_a_shortened_schedule(self) -> None:
        model = Recorder(lambda x, t: x)
        diffusion = Diffusion(Schedule.cosine(1000).respaced(10))
        rows = loss_by_noise_level(model, diffusion, images(3), 10)  # type: ignore[arg-type]
        assert [row.t for row in rows] == list(range(10))
        assert [call[1] for call in model.calls] == [99, 199, 299, 399, 499, 599, 699, 799, 899, 999]

    def test_not_more_levels_than_steps_nor_images_than_the_limit(self) -> None:
        model = Recorder(lambda x, t: x)
        dataset = images(EVALUATED_IMAGES + 30)
        assert len(loss_by_noise_level(model, Diffusion(Schedule.cosine(3)), dataset, 10)) == 3  # type: ignore[arg-type]
        assert sum(len(call[0]) for call in model.calls) == 3 * EVALUATED_IMAGES

    def test_models_meet_the_same_noise_and_seeds_differ(self) -> None:
        models = [Recorder(lambda x, t: x) for _ in range(3)]
        for model, seed in zip(models, (0, 0, 1), strict=True):
            loss_by_noise_level(model, Diffusion(Schedule.cosine(9)), images(70), 2, seed)  # type: ignore[arg-type]
        first, second, other = ([call[0] for call in model.calls] for model in models)
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
        assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))

    @pytest.mark.parametrize("levels", [0, -1])
    def test_no_levels(self, levels: int) -> None:
        with pytest.raises(InputError, match=f"got {levels}"):
            loss_by_noise_level(build(SIMPLE), Diffusion(Schedule.cosine(9)), images(3), levels)
