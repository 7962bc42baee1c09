"""The Numba backend records whole networks: the same to the bit, for whatever a configuration can be."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import backends
from tests.tinyddpm.tiny_runs import SIMPLE, UNET, build, images, scramble
from tinyddpm.data import Batches
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.networks.unet import UNet
from tinyddpm.training.trainer import TrainConfig, Trainer

NUMBA = backends.get("numba")
VARIATIONS = {
    "as it is": {},
    "labels": {"num_classes": 3},
    "time once": {"time_embedding": "input"},
    "time in each block": {"time_embedding": "resblock"},
    "colour, 24 channels": {"in_channels": 3, "base_channels": 24},
    "not square": {"image_size": (8, 12)},
}
CONFIGS = {
    f"{type(kind).__name__}, {name}": replace(kind, **{"dropout": 0.0, "num_classes": None} | fields)
    for kind in (UNET, SIMPLE)
    for name, fields in VARIATIONS.items()
}


def steps_of(model: Any, rng: np.random.Generator, n: int, loss: str) -> list[np.ndarray]:
    """A prediction, a training step's loss, and its gradients."""
    shape = (n, *model.config.size, model.config.in_channels)
    x = rng.uniform(-1, 1, shape).astype(np.float32)
    labels = None if model.config.num_classes is None else rng.integers(0, 4, n)
    model.params[...] = 0.1 * rng.standard_normal(model.params.shape)
    model.grads[...] = np.nan
    diffusion, found = Diffusion(Schedule.cosine(100), loss=loss), [model(x, rng.integers(0, 100, n), labels)]
    found.append(np.asarray(diffusion.training_step(model, x, step=n, labels=labels)))
    return [*found, model.grads.copy()]


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_as_without_a_recording(config: Any, recompute: bool) -> None:
    model, plain = scramble(build(config, NUMBA)), build(config, NUMBA)
    plain.recorder = backends.Recorder()
    model.recompute = plain.recompute = recompute
    for seed in range(4):
        n, loss = 2 + seed % 2, ("mse", "huber")[seed // 2]
        found, wanted = (steps_of(m, np.random.default_rng(seed), n, loss) for m in (model, plain))
        for ours, theirs in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(ours, theirs)
            assert np.isfinite(ours).all()
    programs = model.recorder.programs
    assert len(programs) == 6  # a prediction and two losses, of two and of three images
    assert all(programs.values())


def test_losses_are_told_apart_by_their_numbers_too() -> None:
    model = scramble(build(replace(UNET, dropout=0.0, num_classes=None), NUMBA))
    x = np.random.default_rng(0).uniform(-1, 1, (2, *model.config.size, 1)).astype(np.float32)
    for delta in (0.1, 2.0, 0.1):
        diffusion = Diffusion(Schedule.cosine(100), loss="huber", huber_delta=delta)
        found = diffusion.training_step(model, x, step=1), model.grads.copy()
        plain = model.with_params(model.params)
        plain.recorder = backends.Recorder()
        assert found[0] == diffusion.training_step(plain, x, step=1)
        np.testing.assert_array_equal(found[1], plain.grads)


@pytest.mark.parametrize(("loss", "sampling"), [("mse", "uniform"), ("vlb", "importance")])
def test_so_are_steps_with_learned_variances(loss: str, sampling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By importance too, whose draws follow from the losses of the steps before."""
    diffusion = Diffusion(Schedule.cosine(3), prediction="v", loss=loss, variance="learned")
    training = TrainConfig(steps=10, batch_size=8, timestep_sampling=sampling)

    def trainer() -> Trainer:
        model = scramble(build(replace(SIMPLE, learned_variance=True), NUMBA))
        return Trainer(model, diffusion, Batches(images(), 8, 0), training)

    recorded = trainer()
    found = [recorded.take_step() for _ in range(10)]
    programs = [program for recorder in (recorded.recorder, recorded.model.recorder)
                for program in getattr(recorder, "programs", {}).values()]  # fmt: skip
    assert programs
    assert all(programs)
    monkeypatch.setattr(type(NUMBA), "recorder", lambda *state: backends.Recorder())
    plain = trainer()
    assert not hasattr(plain.recorder, "programs")
    assert found == [plain.take_step() for _ in range(10)]
    np.testing.assert_array_equal(recorded.model.params, plain.model.params)
    if recorded.importance is not None:
        assert np.ptp(recorded.importance.chances()) > 0.01


def test_with_dropout_only_predictions_are() -> None:
    model = scramble(build(replace(UNET, dropout=0.1), NUMBA))
    steps_of(model, np.random.default_rng(0), 2, "mse")
    ((name, *_),) = model.recorder.programs
    assert name == ("prediction", False)


class Scaled(UNet):
    """Python, that is not run again, says by how much."""

    scale = 1.0

    def forward(self, x: Any, *rest: Any) -> Any:
        return super().forward(x if self.scale == 1 else x[..., ::-1], *rest)


class Same(UNet):
    recordable = True


def test_a_network_of_ones_own_is_recorded_only_if_it_says_so() -> None:
    config, rng = replace(UNET, dropout=0.0, num_classes=None), np.random.default_rng(0)
    config = replace(config, in_channels=3)
    x = rng.standard_normal((2, *config.size, 3)).astype(np.float32)
    model = scramble(Scaled(config, backend=NUMBA))
    before = [model(x, 5) for _ in range(2)]
    model.scale = 2.0
    assert not np.array_equal(model(x, 5), before[1])
    assert not model.recorder.programs  # type: ignore[attr-defined]
    model = Same(config, backend=NUMBA)
    model(x, 5)
    assert len(model.recorder.programs) == 1  # type: ignore[attr-defined]


class Noted(backends.Recorder):
    """Calls the functions, and keeps the names that they were given."""

    def __init__(self) -> None:
        self.names: list[Any] = []

    def run(self, name: Any, function: Any, *inputs: Any) -> Any:
        self.names.append(name)
        return function(*inputs)


class Noting(backends.NumpyBackend):
    """A backend whose recorders are one `Noted`."""

    def __init__(self) -> None:
        super().__init__()
        self.noted = Noted()

    def recorder(self, params: Any, grads: Any, *state: Any) -> backends.Recorder:
        return self.noted


DIFFUSION = Diffusion(Schedule.cosine(50), loss="huber")
TRAINING = TrainConfig(steps=2, batch_size=2, warmup_steps=0)


def name_of_a_step(diffusion: Diffusion, training: TrainConfig, **rates: float) -> Any:
    """What a trainer calls its step towards a recorder; rates: of its optimiser."""
    backend = Noting()
    trainer = Trainer(build(SIMPLE, backend), diffusion, Batches(images(), 2, 0), training)
    vars(trainer.optimizer).update(rates)
    trainer.take_step()
    trainer.take_step()
    # Those of the network, within them, are not of the whole step
    first, second = (name for name in backend.noted.names if name[0][0] == "training step")
    assert first == second
    return first


def test_steps_of_a_trainer_are_told_apart_by_all_that_no_array_holds() -> None:
    """A graph of one is not launched for another."""
    names = [
        name_of_a_step(DIFFUSION, TRAINING),
        *(
            name_of_a_step(replace(DIFFUSION, **change), TRAINING)
            for change in ({"prediction": "v"}, {"loss": "l1"}, {"huber_delta": 0.5})
        ),
        *(
            name_of_a_step(DIFFUSION, replace(TRAINING, **change))
            for change in ({"seed": 1}, {"clip_norm": 0.5}, {"accumulate": 2, "steps": 3}, {"recompute": True})
        ),
        *(name_of_a_step(DIFFUSION, TRAINING, **{rate: 0.5}) for rate in ("beta1", "beta2", "eps", "weight_decay")),
    ]
    assert len(set(names)) == len(names)
    assert names[0] == name_of_a_step(DIFFUSION, TRAINING)


def test_so_are_training_steps_without_a_trainer() -> None:
    backend = Noting()
    model, x0 = build(SIMPLE, backend), np.zeros((2, 8, 8, 1), np.float32)
    for diffusion, seed in (
        (DIFFUSION, 0),
        (DIFFUSION, 1),
        *((replace(DIFFUSION, **change), 0) for change in ({"prediction": "v"}, {"loss": "l1"}, {"huber_delta": 0.5})),
    ):
        diffusion.training_step(model, x0, step=0, seed=seed)
        model.recompute = True
        diffusion.training_step(model, x0, step=0, seed=seed)
        model.recompute = False
    whole = [name for name in backend.noted.names if name[0] == "training step"]
    assert len(whole) == len(set(whole)) == 10
