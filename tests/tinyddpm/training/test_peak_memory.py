"""Memory of a training step: steady, less with recomputation, and as predicted."""

import gc
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import backends
from backends.finite_check import arrays
from backends.numba_kernels.runtime.pool import POOL
from backends.numba_kernels.runtime.recording import ARENA
from tests.tinyddpm.networks.test_layers import counted_writes
from tests.tinyddpm.tiny_runs import CONFIGS, UNET, build, scramble
from tinyddpm import data
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.networks.unet import UNetConfig
from tinyddpm.training import peak_memory
from tinyddpm.training.trainer import TrainConfig, Trainer

NUMBA = backends.get("numba")
POOLS = (POOL, ARENA)
# Activations of a mebibyte and more, images of a few kilobytes
WIDE = UNetConfig(
    image_size=16, base_channels=32, channel_mults=(1, 2), num_res_blocks=1, attention_resolutions=(8,), dropout=0.1
)


def trainer_of(config: Any, **training: Any) -> Trainer:
    size, rng = config.size, np.random.default_rng(0)
    images = rng.integers(0, 256, (40, *size, config.in_channels)).astype(np.uint8)
    options = TrainConfig(**{"steps": 10, "batch_size": 32, "clip_norm": 1e-3} | training)
    batches = data.Batches(data.Dataset("random", images), options.batch_size, 0)
    return Trainer(build(config, NUMBA), Diffusion(Schedule.cosine(100)), batches, options)


@pytest.mark.parametrize("dropout", [0.0, 0.1])  # recorded or not
@pytest.mark.parametrize("training", [{}, {"recompute": True}, {"accumulate": 2}], ids=str)
def test_after_the_second_step_nothing_large_is_allocated(training: dict[str, Any], dropout: float) -> None:
    """No fresh array of a mebibyte, nor several that add up to one, and the pools do not grow."""
    trainer = trainer_of(replace(WIDE, dropout=dropout), **training)
    for _ in range(2):
        trainer.take_step()
    held = [pool.held for pool in POOLS]
    tracemalloc.start()
    try:
        for _ in range(3):
            gc.collect()
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            trainer.take_step()
            assert tracemalloc.get_traced_memory()[1] - before < 1 << 20
    finally:
        tracemalloc.stop()
    assert [pool.held for pool in POOLS] == held
    assert sum(held) > 16 << 20


def bytes_on(tape: list[Any], model: Any) -> int:
    """What a tape keeps alive, parameters apart, each array once however many views of it there are."""
    found: dict[int, int] = {}
    for array in arrays(tape):
        while isinstance(array.base, np.ndarray):
            array = array.base
        if not np.shares_memory(array, model.params):
            found[id(array)] = array.nbytes
    return sum(found.values())


class TestRecomputation:
    @pytest.mark.parametrize("dropout", [0.0, 0.3])
    @pytest.mark.parametrize("backend", ["numpy", "numba"])
    @pytest.mark.parametrize("config", [*CONFIGS.values(), WIDE], ids=lambda c: f"{type(c).__name__}-{c.base_channels}")
    def test_same_gradients_to_the_bit(self, config: Any, backend: str, dropout: float) -> None:
        config = replace(config, dropout=dropout)
        model = scramble(build(config, backends.get(backend)))
        diffusion, found = Diffusion(Schedule.cosine(100)), []
        shape = (3, *config.size, config.in_channels)
        x0 = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
        for model.recompute in (False, True):
            model.grads[...] = np.nan
            with counted_writes() as writes:
                loss = diffusion.training_step(model, x0, step=3)
            assert writes == dict.fromkeys(model.named_params(), 1)
            found.append((loss, model.grads.copy()))
        (plain, gradients), (again, others) = found
        assert plain == again
        assert np.isfinite(gradients).all()
        np.testing.assert_array_equal(gradients, others)

    def test_without_a_tape_nothing_changes(self) -> None:
        model = scramble(build(UNET))
        x, t = np.random.default_rng(0).standard_normal((2, 8, 8, 1)).astype(np.float32), np.array([3, 50])
        plain = model(x, t)
        model.recompute = True
        np.testing.assert_array_equal(model(x, t), plain)

    @pytest.mark.parametrize("config", [WIDE, CONFIGS["SimpleUNet"]], ids=["UNet", "SimpleUNet"])
    def test_less_is_kept(self, config: Any) -> None:
        kept = []
        for recompute in (False, True):
            model, tape = build(config), []  # type: tuple[Any, list[Any]]
            model.recompute = recompute
            model(np.zeros((4, *config.size, 1), np.float32), 0, tape=tape, dropout_key=(0, 0))
            kept.append(bytes_on(tape, model))
        assert kept[1] < 0.7 * kept[0]

    def test_the_training_config_turns_it_on(self) -> None:
        assert not trainer_of(WIDE).model.recompute
        assert trainer_of(WIDE, recompute=True).model.recompute


class TestPrediction:
    @pytest.mark.parametrize("training", [{}, {"recompute": True}, {"accumulate": 2}], ids=str)
    @pytest.mark.parametrize("config", [WIDE, replace(WIDE, dropout=0.0, num_classes=3)], ids=["dropout", "classes"])
    def test_peak_of_the_pool(self, config: Any, training: dict[str, Any]) -> None:
        """What the pools hand out at most in a step of full size is the tape and what is in flight."""
        trainer = trainer_of(config, **training)
        predicted = peak_memory.predict(trainer.model, trainer.diffusion, trainer.config)
        before = []
        for pool in POOLS:
            pool.take_back()
            before.append(pool.used)
            pool.peak = pool.used
        trainer.take_step()  # the first, for one that is recorded allocates nothing later
        taken = sum(pool.peak - used for pool, used in zip(POOLS, before, strict=True))
        assert predicted.tape + predicted.in_flight == pytest.approx(taken, rel=0.05)

    @pytest.mark.parametrize("backend", ["numpy", "numba"])
    @pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
    def test_the_tape(self, config: Any, backend: str) -> None:
        config = replace(config, dropout=0.0)
        model = build(config, backends.get(backend))
        predicted = peak_memory.predict(model, Diffusion(Schedule.cosine(100)), TrainConfig(batch_size=256))
        tape: list[Any] = []
        output = model(np.zeros((256, 8, 8, 1), np.float32), 0, tape=tape)
        # Beside the tape there are the noise, the noised images and the output
        kept = bytes_on(tape, model) + 2 * output.nbytes
        assert predicted.tape == pytest.approx(kept, rel=0.05)

    def test_the_rest(self) -> None:
        model, diffusion = build(UNET), Diffusion(Schedule.cosine(100))
        size, before = model.params.nbytes, model.params.copy()
        plain = peak_memory.predict(model, diffusion, TrainConfig())
        assert (plain.parameters, plain.gradients, plain.moments, plain.average) == (size, size, 2 * size, size)
        assert peak_memory.predict(model, diffusion, TrainConfig(accumulate=5)).gradients == 2 * size
        assert plain.base > 10_000_000
        assert plain.total == sum(vars(plain).values())
        np.testing.assert_array_equal(model.params, before)
        assert not model.recompute

    def test_it_is_linear_in_the_batch(self) -> None:
        model, diffusion = build(UNET), Diffusion(Schedule.cosine(100))
        at = {n: peak_memory.predict(model, diffusion, TrainConfig(batch_size=n)) for n in (1, 64, 127)}
        assert at[127].tape - at[64].tape == pytest.approx(at[64].tape - at[1].tape, rel=0.01)

    def test_what_the_system_tells(self) -> None:
        assert peak_memory.resident() > 10_000_000
        limit = peak_memory.available()
        assert limit is None or limit > 10_000_000
