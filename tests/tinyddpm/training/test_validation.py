"""The loss on held-out images: which images, which noise, and the same numbers however a run was stopped."""

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import backends
from tests.tinyddpm.test_streams import Noting
from tests.tinyddpm.tiny_runs import (
    QUICK,
    SIMPLE,
    SIMPLE_OPTIONS,
    UNET,
    UNET_OPTIONS,
    build,
    images,
    invoke,
    outcome,
    rows,
    run_config,
    scramble,
    succeed,
    tree,
)
from tests.tinyddpm.training.test_resume import at_step
from tinyddpm import data, streams
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import InputError
from tinyddpm.evaluation import likelihood
from tinyddpm.training.run_config import DataConfig, RunConfig
from tinyddpm.training.run_folder import Run, open_checkpoint, read_config, read_metrics
from tinyddpm.training.trainer import Metrics, Trainer
from tinyddpm.training.validation import BATCH, MOST_IMAGES, ValidatedMetrics, Validation, hold_out, spread_timesteps

__all__ = ["at_step"]

NUMPY = backends.get("numpy")
DIFFUSION = Diffusion(Schedule.cosine(50))
LEARNED = replace(SIMPLE, learned_variance=True)


def validation(count: int = 23, **diffusion: Any) -> Validation:
    return Validation(images(count), replace(DIFFUSION, **diffusion), "random")


class TestLoss:
    @pytest.mark.parametrize("loss", ["mse", "l1", "huber"])
    @pytest.mark.parametrize("prediction", ["eps", "v"])
    def test_of_a_network_that_predicts_zero(self, loss: str, prediction: str) -> None:
        """Written out: the loss of zeros is a mean over the targets alone."""
        looked = validation(70, loss=loss, prediction=prediction)
        total, t = [], spread_timesteps(50, 70)
        for number, part in enumerate((slice(0, BATCH), slice(BATCH, 70))):
            x0 = data.to_unit(looked.dataset.images[part])
            noise, _ = NUMPY.random_normal(x0.shape, 0, streams.VALIDATION_NOISE, number)
            target = np.abs(looked.diffusion.target(x0, t[part], noise)).astype(np.float64)
            if loss == "mse":
                total.append(target**2)
            else:
                total.append(target if loss == "l1" else np.where(target < 1, target**2 / 2, target - 0.5))
        expected = np.concatenate(total).mean()
        assert looked.loss(build(SIMPLE)) == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize(("loss", "simple", "bound"), [("mse", 1.0, 0.001), ("vlb", 0.0, 1.0)])
    def test_with_learned_variances_it_is_the_loss_that_is_trained(
        self, loss: str, simple: float, bound: float
    ) -> None:
        looked, model = validation(20, loss=loss, variance="learned"), scramble(build(LEARNED))
        x0, t = data.to_unit(looked.dataset.images), spread_timesteps(50, 20)
        noise, _ = NUMPY.random_normal(x0.shape, 0, streams.VALIDATION_NOISE, 0)
        output = model(looked.diffusion.q_sample(x0, t, noise), t)
        squares = np.mean((output[..., :1] - noise) ** 2, dtype=np.float64)
        bits = likelihood.term_bits(model, looked.diffusion, x0, t, noise, clip=False)
        assert looked.loss(model) == pytest.approx(simple * squares + bound * 50 * np.mean(bits), rel=1e-4)

    def test_the_same_at_every_call_and_for_every_seed(self) -> None:
        model = scramble(build(UNET, seed=1))
        seen = validation().loss(model)
        assert seen == validation().loss(model) == validation().loss(scramble(build(UNET, seed=2)))
        assert seen != validation().loss(scramble(build(UNET, seed=1), seed=1))

    def test_labels_are_given(self) -> None:
        model = scramble(build(UNET))
        unlabelled = Validation(replace(images(), labels=None), DIFFUSION, "random")
        assert validation().loss(model) != unlabelled.loss(model)

    def test_neither_weights_nor_gradients_change(self) -> None:
        model = scramble(build(UNET))
        model.grads[...] = 7
        before = model.params.copy()
        validation().measure(Metrics(1, 1.0, 1.0, 1.0), model, model.params.copy())
        assert (model.params == before).all()
        assert (model.grads == 7).all()

    def test_weights_and_their_average(self) -> None:
        model, other = (scramble(build(UNET), seed=seed) for seed in (0, 1))
        looked, metrics = validation(), Metrics(7, 1.0, 2.0, 3.0)
        seen = looked.measure(metrics, model, other.params)
        assert seen == ValidatedMetrics(7, 1.0, 2.0, 3.0, looked.loss(model), looked.loss(other))
        assert seen.validation_loss != seen.validation_loss_ema

    def test_timesteps_cover_the_schedule(self) -> None:
        for T, n in ((1000, 512), (50, 100), (1000, 7), (5, 1)):
            t = spread_timesteps(T, n)
            assert t.dtype == np.int64
            assert sorted(t) == [(2 * i + 1) * T // (2 * n) for i in range(n)]
            assert n < 3 or list(t) != sorted(t)

    def test_its_random_numbers_are_its_own(self) -> None:
        """What training draws in many steps, no look at the held-out images draws again."""
        noting = Noting()
        model = build(SIMPLE, noting)
        looked = validation(3 * BATCH)
        noting.drawn.clear()
        looked.loss(model)
        mine = set(noting.drawn)
        assert len(mine) == len(noting.drawn) == 3 * BATCH
        noting.drawn.clear()
        for step in range(5):
            DIFFUSION.training_step(model, data.to_unit(images(4).images), step=step)
        assert noting.drawn
        assert not mine & set(noting.drawn)

    def test_images_are_spread_over_a_large_set(self) -> None:
        many = data.Dataset("sorted", np.zeros((5000, 1, 1, 1), np.uint8), np.arange(5000) // 500)
        looked = Validation(many, DIFFUSION, "sorted")
        assert len(looked.dataset) == MOST_IMAGES
        assert looked.dataset.labels is not None
        assert set(np.bincount(looked.dataset.labels)) == {51, 52}


class TestHeldOut:
    def photos(self, folder: Path, count: int) -> DataConfig:
        folder.mkdir()
        for i in range(count):
            Image.new("L", (8, 8), 7 * i).save(folder / f"{i:02d}.png")
        return DataConfig(str(folder))

    def test_a_test_split(self) -> None:
        config = DataConfig("digits")
        dataset = config.load()
        train, held, source = hold_out(config, dataset)
        assert train is dataset
        assert (len(held), source) == (256, "of the test split")

    @pytest.mark.parametrize(
        ("count", "held"), [(2, [1]), (3, [2]), (9, [8]), (10, [9]), (11, [9]), (19, [9]), (20, [9, 19])]
    )
    def test_a_small_folder_gives_up_every_tenth(self, tmp_path: Path, count: int, held: list[int]) -> None:
        config = self.photos(tmp_path / "photos", count)
        train, test, _ = hold_out(config, config.load())
        assert list(test.images[:, 0, 0, 0]) == [7 * i for i in held]
        assert list(train.images[:, 0, 0, 0]) == [7 * i for i in range(count) if i not in held]

    def test_one_image_is_too_few(self, tmp_path: Path) -> None:
        config = self.photos(tmp_path / "photos", 1)
        with pytest.raises(InputError, match="has one image, so none can be held out; leave out --validate-every"):
            hold_out(config, config.load())

    def test_held_out_images_are_not_trained_on(self, tmp_path: Path) -> None:
        self.photos(tmp_path / "photos", 12)
        options = ["--data", tmp_path / "photos", "--image-size", 8, *SIMPLE_OPTIONS, *QUICK, "--steps", 2]
        run = tmp_path / "run"
        out = succeed("train", *options, "--validate-every", 1, "--out", run)
        assert "held-out loss: every step, on 1 image held out of the 12, not trained on\n" in out
        for resumed in (Run.resume(run, NUMPY), Run.resume(run, NUMPY, steps=4)):
            seen = {int(image[0, 0, 0]) for image in resumed.trainer.batches.dataset.images}
            assert seen == {7 * i for i in range(12) if i != 9}


LOOKING = ["--validate-every", "3", "--lr", "0.05", "--checkpoint-every", "4"]


def arrays(folder: Path) -> dict[str, bytes]:
    """The arrays of all checkpoints in a folder, without what is said of them, such as the config."""
    return {name: whole[8 + int.from_bytes(whole[:8], "little") :] for name, whole in tree(folder).items()}


class TestRuns:
    @pytest.mark.parametrize("options", [SIMPLE_OPTIONS, [*UNET_OPTIONS, "--dropout", "0.1"]], ids=["simple", "UNet"])
    def test_printed_logged_and_drawn(self, tmp_path: Path, options: list[str]) -> None:
        looked, plain = tmp_path / "looked", tmp_path / "plain"
        common = [*options, *QUICK, "--lr", "0.05", "--checkpoint-every", "4", "--steps", 7]
        out = succeed("train", *common, "--validate-every", "3", "--out", looked)
        succeed("train", *common, "--out", plain)
        assert sorted(path.name for path in looked.iterdir()) == sorted(path.name for path in plain.iterdir())
        kept = rows(looked)
        assert [row["step"] for row in kept] == list(range(1, 8))
        with_loss = [row for row in kept if "validation_loss" in row]
        assert [row["step"] for row in with_loss] == [3, 6, 7]
        for row in with_loss:
            losses = f"{row['validation_loss']:.4f}, of the averaged weights {row['validation_loss_ema']:.4f}"
            assert f"step {row['step']}/7  held-out loss {losses}\n" in out
        assert read_metrics(looked) == kept
        # Looking changes nothing of the training
        own = ("step", "loss", "grad_norm", "lr")
        assert [{key: row[key] for key in own} for row in kept] == rows(plain)
        assert arrays(looked / "checkpoints") == arrays(plain / "checkpoints")
        assert (looked / "loss.png").read_bytes() != (plain / "loss.png").read_bytes()
        # The last numbers are those of what the run leaves
        checkpoint, config = open_checkpoint(looked, NUMPY), read_config(looked)
        seen = Validation(config.data.load("test"), checkpoint.diffusion, "")
        assert seen.loss(checkpoint.model) == kept[-1]["validation_loss"]
        assert seen.loss(checkpoint.sampling_model()) == kept[-1]["validation_loss_ema"]

    def test_a_stopped_run_gives_the_same_numbers(self, tmp_path: Path, at_step: Callable[..., None]) -> None:
        common = [*UNET_OPTIONS, *QUICK, *LOOKING, "--steps", 11]
        whole, parts = tmp_path / "whole", tmp_path / "parts"
        succeed("train", *common, "--out", whole)
        at_step(3, signal.SIGINT)
        assert invoke("train", *common, "--out", parts).exit_code == 130
        assert "validation_loss" in rows(parts)[-1]
        for step in (7, 9):  # between two looks; then thrown back to the checkpoint before the one in step 9
            at_step(step, *[signal.SIGINT] * (1 + (step == 9)))
            result = invoke("train", "--resume", parts, "--backend", "numpy", "--samples", 0)
            assert result.exit_code == 130
            assert "held-out loss: every 3 steps, on 256 images of the test split, not trained on\n" in result.stdout
        succeed("train", "--resume", parts, "--backend", "numpy", "--samples", 0)
        assert outcome(parts) == outcome(whole)

    def test_the_printed_mean_goes_on_after_a_stop(self, tmp_path: Path, at_step: Callable[..., None]) -> None:
        run = tmp_path / "run"
        at_step(4, signal.SIGINT)
        invoke("train", *SIMPLE_OPTIONS, *QUICK, "--steps", 5, "--out", run)
        out = succeed("train", "--resume", run, "--backend", "numpy", "--samples", 0)
        mean = np.mean([row["loss"] for row in rows(run)])
        assert f"step 5/5  loss {mean:.4f} (mean of 5)  " in out

    def test_an_older_config_looks_at_nothing(self, tmp_path: Path) -> None:
        values = run_config().to_dict()
        del values["validate_every"], values["init"]
        assert RunConfig.from_dict(json.loads(json.dumps(values))) == run_config()

    def test_a_loss_that_is_not_finite_stops_the_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Validation, "loss", lambda self, model: float("inf"))
        run = tmp_path / "run"
        result = invoke("train", *SIMPLE_OPTIONS, *QUICK, *LOOKING, "--steps", 4, "--out", run)
        assert result.exit_code == 1
        assert "after step 3 the loss on held-out images is not finite; lower lr" in result.stderr

    def test_looks_that_were_not_asked_for(self, tmp_path: Path) -> None:
        run = Run.create(tmp_path, run_config(), NUMPY)
        assert not run.validation_due()
        with pytest.raises(InputError, match="validate_every is 0"):
            run.validated(Metrics(1, 1.0, 1.0, 1.0))

    @pytest.mark.parametrize("every", [-1, 2.5, True, "3"])
    def test_a_number_that_it_cannot_be(self, every: Any) -> None:
        with pytest.raises(InputError, match="validate_every must be a whole number of at least 0"):
            replace(run_config(), validate_every=every)

    def test_looks_come_in_step_with_a_device(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A trainer may run ahead of what it has told; at a look it has not."""
        monkeypatch.setattr(backends.NumpyBackend, "asynchronous", True)
        ahead = []
        validated = Run.validated

        def noting(run: Run, metrics: Metrics) -> Any:
            ahead.append(run.trainer.step - metrics.step)
            return validated(run, metrics)

        monkeypatch.setattr(Run, "validated", noting)
        succeed("train", *SIMPLE_OPTIONS, *QUICK, *LOOKING, "--steps", 60, "--out", tmp_path / "run")
        assert ahead == [0] * 20
        assert isinstance(Run.resume(tmp_path / "run", NUMPY).trainer, Trainer)
