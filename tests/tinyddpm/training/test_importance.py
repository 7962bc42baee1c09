"""Timesteps drawn by their losses: ten of each before any differ, then by the root of the mean square; kept by runs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.tinyddpm.tiny_runs import SIMPLE, arrays, assert_same, build, images, invoke, run_config
from tinyddpm.data import Batches
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import InputError
from tinyddpm.training.importance import Importance
from tinyddpm.training.run_config import DiffusionConfig
from tinyddpm.training.run_folder import Run, open_checkpoint
from tinyddpm.training.trainer import TrainConfig, Trainer

LEARNED = replace(SIMPLE, learned_variance=True)
BOUND = Diffusion(Schedule.cosine(6), loss="vlb", variance="learned")


def filled(T: int = 4) -> Importance:
    importance = Importance(T)
    for t in range(T):
        importance.note(np.full(10, t), np.arange(10.0) + 10 * t)
    return importance


def test_all_chances_are_equal_until_each_timestep_has_its_ten() -> None:
    importance = filled()
    importance.counts[2] = 9
    np.testing.assert_array_equal(importance.chances(), np.full(4, 0.25))


@pytest.mark.equation("Nichol & Dhariwal 2021, eq. 18")
def test_then_they_are_as_the_root_of_the_mean_square_and_a_thousandth_uniform() -> None:
    roots = np.array([np.sqrt(np.mean((np.arange(10.0) + 10 * t) ** 2)) for t in range(4)])
    np.testing.assert_allclose(filled().chances(), 0.999 * roots / roots.sum() + 0.001 / 4, rtol=1e-12)
    assert filled().chances().sum() == pytest.approx(1, rel=1e-12)


def test_the_oldest_loss_is_forgotten_and_images_of_one_timestep_count_each() -> None:
    importance = filled()
    importance.note(np.array([1, 1]), np.array([100.0, 200.0]))
    np.testing.assert_array_equal(importance.losses[1], [12, 13, 14, 15, 16, 17, 18, 19, 100, 200])
    np.testing.assert_array_equal(importance.losses[0], np.arange(10.0))
    assert np.all(importance.counts == 10)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_trainer_remembers_each_images_term_by_its_timestep(accumulate: int) -> None:
    training = TrainConfig(steps=40, batch_size=8, timestep_sampling="importance", accumulate=accumulate)
    trainer = Trainer(build(LEARNED), BOUND, Batches(images(), 8, 0), training)
    for _ in range(30):
        trainer.take_step()
        last = None if np.any(trainer.importance.counts < 10) else trainer.importance.losses[:, -1].copy()  # type: ignore[union-attr]
    assert last is not None
    chances, before = trainer.importance.chances(), trainer.importance.losses.copy()  # type: ignore[union-attr]
    assert chances.max() > 1.5 * chances.min()
    expected, whole = Importance(6, before, np.full(6, 10)), []
    for number in range(30 * accumulate, 31 * accumulate):
        drawn = BOUND.draw(trainer.model, trainer.batches.at(number)[0], step=number, chances=chances)
        losses = BOUND.learn(trainer.model, 0, *drawn, backward=False)[1:]
        expected.note(drawn.timesteps, losses * chances[drawn.timesteps])
        whole.append(losses)
    metrics = trainer.take_step()
    np.testing.assert_allclose(trainer.importance.losses, expected.losses, rtol=1e-6)  # type: ignore[union-attr]
    assert metrics.loss == pytest.approx(np.mean(whole), rel=1e-6)


def test_a_resumed_run_draws_as_one_that_was_not_interrupted(tmp_path: Path) -> None:
    plain = run_config(checkpoint_every=20)
    config = replace(
        plain,
        model=LEARNED,
        diffusion=DiffusionConfig(timesteps=5, loss="vlb", variance="learned"),
        training=replace(plain.training, steps=40, timestep_sampling="importance"),
    )
    for name, stops in (("whole", [40]), ("parted", [20, 40])):
        for number, stop in enumerate(stops):
            run = Run.resume(tmp_path / name) if number else Run.create(tmp_path / name, config)
            with run:
                while run.trainer.step < stop:
                    run.trainer.take_step()
                run.checkpoint()
    whole, parted = (open_checkpoint(tmp_path / name) for name in ("whole", "parted"))
    assert_same(arrays(parted), arrays(whole))
    assert whole.importance is not None
    assert parted.importance is not None
    assert np.all(whole.importance.counts == 10)
    np.testing.assert_array_equal(parted.importance.losses, whole.importance.losses)


def test_it_is_for_the_bound() -> None:
    training = TrainConfig(timestep_sampling="importance")
    with pytest.raises(InputError, match='timestep_sampling="importance" is for loss="vlb", got loss=\'mse\''):
        Trainer(build(LEARNED), Diffusion(Schedule.cosine(6), variance="learned"), Batches(images(), 8, 0), training)
    result = invoke("train", "--timestep-sampling", "importance", "--out", "nowhere", "--backend", "numpy")
    assert result.exit_code == 2
    assert "timestep_sampling 'importance' is for the loss 'vlb', got 'mse'" in result.stderr


def test_losses_of_another_schedule_are_refused() -> None:
    with pytest.raises(ValueError, match=r"losses are \(5, 10\) and counts \(5,\), got \(4, 10\)"):
        Importance(5, np.zeros((4, 10)), np.zeros(4, np.int64))
