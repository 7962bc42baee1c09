"""The training loop: what a step is, its learning rate, its batches, and where it stops."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import backends
from backends import NonFiniteError
from tests.tinyddpm.tiny_runs import (
    CONFIGS,
    SIMPLE,
    UNET,
    arrays,
    assert_same,
    build,
    images,
    make_trainer,
    scramble,
    spied,
)
from tinyddpm import data
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import InputError
from tinyddpm.training.optimizers import EMA, Adam
from tinyddpm.training.trainer import Metrics, TrainConfig, Trainer

NUMPY = backends.get("numpy")


class TestConfig:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(
                (name, value)
                for name in ("steps", "batch_size", "accumulate")
                for value in (0, -1, 2.0, "3", True, None)
            ),
            ("steps", 2**32),
            ("warmup_steps", -1),
            ("seed", -1),
            ("seed", 2**64),
            ("seed", 0.5),
            *(("lr", value) for value in (0, -1e-3, 1.5, math.nan, math.inf, "1e-3", None)),
            *(("clip_norm", value) for value in (0, -1.0, math.nan)),
            *(("weight_decay", value) for value in (-0.1, math.inf, math.nan)),
            *(("ema_decay", value) for value in (-0.1, 1, 1.0, math.nan)),
            ("lr_decay", "linear"),
            ("lr_decay", None),
        ],
    )
    def test_values_outside_their_range(self, name: str, value: Any) -> None:
        with pytest.raises(InputError) as caught:
            TrainConfig(**{name: value})
        assert name in str(caught.value)
        assert repr(value) in str(caught.value)

    def test_ends_of_the_ranges(self) -> None:
        TrainConfig(seed=2**64 - 1, steps=2**32 - 1, lr=1, clip_norm=math.inf, ema_decay=0, warmup_steps=0)

    def test_more_batches_than_random_numbers_are_counted_for(self) -> None:
        TrainConfig(steps=2**30, accumulate=3)
        with pytest.raises(InputError, match="steps must be a whole number in 1 … 858993459, got 1073741824"):
            TrainConfig(steps=2**30, accumulate=5)

    def test_there_and_back_through_json(self) -> None:
        config = TrainConfig(7, 3, 0.5, 2, "constant", 0.1, 2.0, 0.9, 4, 11)
        assert TrainConfig.from_dict(config.to_dict()) == config

    @pytest.mark.parametrize("values", [{"stepz": 3}, [], None, {"steps": 3.0}])
    def test_json_that_is_no_config(self, values: Any) -> None:
        with pytest.raises(InputError):
            TrainConfig.from_dict(values)


class TestLearningRate:
    @pytest.mark.equation("Loshchilov & Hutter 2017, eq. 5")
    def test_warm_up_then_cosine_to_zero(self) -> None:
        config = TrainConfig(steps=12, warmup_steps=4, lr=0.8)
        rates = [config.learning_rate(step) for step in range(12)]
        np.testing.assert_allclose(rates[:4], [0.2, 0.4, 0.6, 0.8], rtol=1e-15)
        np.testing.assert_allclose(rates[4:], [0.4 * (1 + math.cos(math.pi * k / 8)) for k in range(8)], rtol=1e-15)
        assert config.learning_rate(12) == 0
        assert config.learning_rate(1000) == 0

    def test_constant(self) -> None:
        config = TrainConfig(steps=5, warmup_steps=2, lr=0.5, lr_decay="constant")
        assert [config.learning_rate(step) for step in range(7)] == [0.25, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]

    def test_no_warm_up(self) -> None:
        assert TrainConfig(steps=5, warmup_steps=0, lr=0.5).learning_rate(0) == 0.5

    def test_warm_up_longer_than_the_run(self) -> None:
        config = TrainConfig(steps=3, warmup_steps=10, lr=1.0)
        np.testing.assert_allclose([config.learning_rate(step) for step in range(3)], [0.1, 0.2, 0.3])


class TestSteps:
    @pytest.mark.equation("Pascanu et al. 2013, algorithm 1")
    @pytest.mark.parametrize("accumulate", [1, 3])
    @pytest.mark.parametrize("kind", CONFIGS)
    def test_against_the_loop_written_out(self, kind: str, accumulate: int) -> None:
        """Algorithm 1, gradients averaged and clipped, Adam, EMA: every number to the bit."""
        training = TrainConfig(5, 4, 0.01, 2, "cosine", 0.1, 0.02, 0.9, accumulate, seed=7)
        trainer = make_trainer(CONFIGS[kind], training)
        metrics = list(trainer.run())

        model = build(CONFIGS[kind])
        diffusion, batches = Diffusion(Schedule.cosine(100)), data.Batches(images(), 4, seed=7, flip=True)
        optimizer, ema = Adam(model.params, weight_decay=0.1), EMA(model.params, 0.9)
        for step in range(5):
            losses, gradients = [], []
            for number in range(step * accumulate, (step + 1) * accumulate):
                x0, labels = batches.at(number)
                chosen = labels if kind == "UNet" else None
                losses.append(diffusion.training_step(model, x0, step=number, seed=7, labels=chosen))
                gradients.append(model.grads.copy())
            gradient = gradients[0] if accumulate == 1 else sum(gradients) * (1 / accumulate)
            norm = float(np.sqrt(np.sum(gradient * gradient)))
            clipped = gradient * (0.02 / norm)
            assert norm > 0.02
            assert np.linalg.norm(clipped) == pytest.approx(0.02, rel=1e-5)
            optimizer.step(clipped, training.learning_rate(step))
            ema.update(model.params)
            assert metrics[step] == Metrics(step + 1, sum(losses) / accumulate, norm, training.learning_rate(step))
        expected = Trainer(model, diffusion, batches, training, optimizer, ema, 5)
        optimizer.lr = training.lr
        assert_same(arrays(trainer), arrays(expected))

    @pytest.mark.parametrize("accumulate", [1, 3])
    def test_every_batch_once_and_in_order(self, accumulate: int) -> None:
        trainer = make_trainer(SIMPLE, TrainConfig(steps=4, batch_size=2, accumulate=accumulate))
        seen = spied(trainer)
        assert [metrics.step for metrics in trainer.run()] == [1, 2, 3, 4]
        assert seen == list(range(4 * accumulate))
        assert list(trainer.run()) == []

    def test_it_is_a_generator_that_can_be_left_and_taken_up(self) -> None:
        trainer, other = (make_trainer(SIMPLE, TrainConfig(steps=4, batch_size=2)) for _ in range(2))
        first = next(trainer.run())
        assert first.step == trainer.step == 1
        assert [first, *trainer.run()] == list(other.run())
        assert_same(arrays(trainer), arrays(other))

    def test_average_starts_as_a_copy_and_follows(self) -> None:
        trainer = make_trainer(SIMPLE, TrainConfig(steps=1, batch_size=2, ema_decay=0.999))
        before = trainer.model.params.copy()
        assert np.array_equal(trainer.ema.params, before)
        trainer.take_step()
        assert not np.array_equal(trainer.model.params, before)
        # Warmed up: the first decay is 1 / 10
        np.testing.assert_allclose(trainer.ema.params, 0.1 * before + 0.9 * trainer.model.params, rtol=1e-4, atol=1e-7)

    def test_labels_reach_a_model_with_classes_and_no_other(self) -> None:
        training = TrainConfig(steps=1, batch_size=4)
        metrics = {}
        for config in (UNET, replace(UNET, num_classes=None)):
            for labels in (images().labels, None):
                dataset = replace(images(), labels=labels)
                batches = data.Batches(dataset, 4, 0)
                trainer = Trainer(scramble(build(config)), Diffusion(Schedule.cosine(100)), batches, training)
                metrics[config.num_classes, labels is None] = trainer.take_step().grad_norm
        assert metrics[10, False] != metrics[10, True]
        assert metrics[None, False] == metrics[None, True]

    def test_one_image_is_learned(self) -> None:
        trainer = make_trainer(
            SIMPLE, TrainConfig(steps=60, batch_size=8, lr=0.02, warmup_steps=5), flip=False, count=1
        )
        losses = [metrics.loss for metrics in trainer.run()]
        assert losses[0] == pytest.approx(1, abs=0.2)
        assert np.mean(losses[-10:]) < 0.6


def assert_stops(trainer: Trainer, *words: str) -> None:
    """The next step raises NonFiniteError with these words, and changes nothing."""
    before = arrays(trainer)
    with pytest.raises(NonFiniteError) as caught:
        trainer.take_step()
    message = str(caught.value)
    assert message.startswith(f"step {trainer.step + 1}: operation ")
    assert "\n" not in message
    for word in words:
        assert word in message, message
    assert_same(arrays(trainer), before)


@pytest.fixture
def trainer() -> Trainer:
    """Two steps on, of ten."""
    trainer = make_trainer(SIMPLE, TrainConfig(steps=10, batch_size=4, accumulate=2))
    for _ in range(2):
        trainer.take_step()
    return trainer


class OwnLoss(Diffusion):
    def training_step(self, *args: Any, **kwargs: Any) -> float:
        return 2 * super().training_step(*args, **kwargs)


class OwnStep(Adam):
    def step(self, *args: Any, **kwargs: Any) -> None:
        super().step(*args, **kwargs)


class TestSubclasses:
    """A method that the trainer does not call is no silent nothing."""

    def test_a_diffusion_or_an_optimizer_with_a_step_of_its_own(self) -> None:
        model, batches, config = build(UNET), data.Batches(images(), 2, 0), TrainConfig(steps=1, batch_size=2)
        schedule = Schedule.cosine(50)
        with pytest.raises(InputError, match=r"OwnLoss replaces Diffusion\.training_step, .* replace draw or learn"):
            Trainer(model, OwnLoss(schedule), batches, config)
        with pytest.raises(InputError, match=r"OwnStep replaces Adam\.step, .* replace move"):
            Trainer(model, Diffusion(schedule), batches, config, OwnStep(model.params))


class TestNonFinite:
    @pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize(
        ("name", "operation"),
        [("conv_in.weight", "conv2d"), ("time.linear1.bias", "linear"), ("conv_out.bias", "conv2d")],
    )
    def test_poisoned_weight(self, trainer: Trainer, name: str, operation: str, poison: float) -> None:
        trainer.model.named_params()[name].reshape(-1)[0] = poison
        assert_stops(trainer, f"operation {operation} ", "already not finite", f"parameter {name}", "lower lr")

    @pytest.mark.parametrize("poison", [np.nan, np.inf])
    @pytest.mark.parametrize("part", [0, 1])
    def test_poisoned_batch(self, trainer: Trainer, part: int, poison: float) -> None:
        at = trainer.batches.at

        def poisoned(number: int) -> Any:
            x0, labels = at(number)
            if number == 4 + part:
                x0[1, 2, 3, 0] = poison
            return x0, labels

        trainer.batches.at = poisoned  # type: ignore[method-assign]
        assert_stops(trainer, "operation conv2d ", "already not finite", "check the data")

    def test_weights_so_large_that_an_operation_overflows(self, trainer: Trainer) -> None:
        trainer.model.named_params()["conv_in.weight"][...] = 3e38
        assert_stops(trainer, "operation conv2d ", "from finite arguments", "lower lr")

    def test_only_the_gradient_is_not_finite(self, trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
        backward = NUMPY.conv2d_backward

        def broken(dy: Any, ctx: Any) -> Any:
            dx, dw, *db = backward(dy, ctx)
            dw = dw.copy()
            dw[..., 0] = np.inf
            return dx, dw, *db

        monkeypatch.setattr(NUMPY, "conv2d_backward", broken)
        assert_stops(trainer, "operation conv2d_backward ", "from finite arguments")

    def test_gradient_whose_norm_overflows(self, trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
        backward = NUMPY.mse_loss_backward
        monkeypatch.setattr(NUMPY, "mse_loss_backward", lambda dy, ctx: (1e30 * backward(dy, ctx)[0],))
        assert_stops(trainer, "operation global_norm ", "too large")

    def test_exploding_learning_rate(self, trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(TrainConfig, "learning_rate", lambda self, step: 1e37)
        with pytest.raises(NonFiniteError, match=r"step \d+: operation "):
            list(trainer.run())
        assert trainer.step < 10
        assert np.isfinite(trainer.model.params).all()
        trainer.check_finite()

    def test_update_that_overflows_is_found_before_it_is_saved(self, trainer: Trainer) -> None:
        trainer.check_finite()
        trainer.ema.params[3] = np.nan
        with pytest.raises(NonFiniteError, match="after step 2 the averaged weights hold NaN or infinity; lower lr"):
            trainer.check_finite()
        trainer.model.params[3] = np.inf
        with pytest.raises(NonFiniteError, match="after step 2 the weights hold"):
            trainer.check_finite()

    def test_the_run_goes_on_once_the_poison_is_gone(self, trainer: Trainer) -> None:
        """Nothing of the failed step stays: what follows is the run that never failed."""
        other = make_trainer(SIMPLE, trainer.config)
        expected = list(other.run())
        bias = trainer.model.named_params()["conv_in.bias"]
        kept, bias[0] = bias[0].copy(), np.nan
        assert_stops(trainer)
        bias[0] = kept
        assert list(trainer.run()) == expected[2:]
        assert_same(arrays(trainer), arrays(other))
