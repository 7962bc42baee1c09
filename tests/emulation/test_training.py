"""Training on the stand-in: gradients and whole steps are those of the NumPy backend, and a step is one graph."""

import importlib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends
from backends import CupyBackend, NonFiniteError
from backends.cupy_kernels.runtime.uploads import Uploads
from benchmarks.workloads import TINY
from tests.emulation.compiler import missing
from tests.emulation.cupy.arrays import ndarray
from tests.emulation.cupy.cuda import Device
from tests.emulation.cupy.kernels import RawKernel
from tests.emulation.cupy.streams import Event, Graph, Stream
from tests.emulation.device import cupy_backend
from tests.emulation.launch import statistics
from tests.tinyddpm.tiny_runs import images, rows, run_config
from tinyddpm import EMA, Adam, Diffusion, Schedule, UNet, data
from tinyddpm.diffusion.objective import Drawn
from tinyddpm.training.checkpoint import load, save
from tinyddpm.training.run_folder import Run, checkpoints
from tinyddpm.training.trainer import Metrics, TrainConfig, Trainer

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

CONFIG = replace(TINY, num_heads=2, groups=4)
# All that a step can have: labels, dropout, clipping, decay of weights, a learning rate that changes each time
WHOLE = replace(CONFIG, num_classes=10, dropout=0.1)
TRAINING = TrainConfig(10, 2, 0.002, 3, "cosine", 0.01, 0.5, 0.9, seed=3)


@pytest.fixture
def backend() -> Iterator[CupyBackend]:
    with cupy_backend(precision="fp32") as backend:
        yield backend


def loss_and_gradients(backend: Any) -> tuple[float, np.ndarray]:
    model = UNet(CONFIG, backend, seed=1)
    x0 = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 1)).astype(np.float32)
    loss = Diffusion(Schedule.linear(100)).training_step(model, x0, step=3)
    return float(loss), np.array(backend.to_numpy(model.grads))


def test_a_training_step() -> None:
    loss, gradients = loss_and_gradients(backends.get("numpy"))
    statistics()
    with cupy_backend(precision="fp32") as backend:
        found, ours = loss_and_gradients(backend)
    assert statistics()["blocks"] > 0
    assert found == pytest.approx(loss, rel=1e-5)
    assert np.linalg.norm(ours - gradients) <= 1e-5 * np.linalg.norm(gradients)


# Whole steps


def make_trainer(
    backend: Any,
    training: TrainConfig = TRAINING,
    prediction: str = "eps",
    process: dict[str, Any] | None = None,
    **parts: Any,
) -> Trainer:
    """On random images, with random weights. process: further fields of the diffusion; parts: of the trainer."""
    process = process or {}
    config = replace(WHOLE, learned_variance=process.get("variance") == "learned")
    model = parts.pop("model", None) or UNet(config, backend, seed=1)
    if not parts:
        noise = 0.1 * np.random.default_rng(2).standard_normal(model.params.shape)
        model.params[...] = backend.asarray(noise, "float32")
    batches = data.Batches(images(), training.batch_size, training.seed, flip=True)
    diffusion = Diffusion(Schedule.cosine(100), prediction=prediction, label_dropout=0.3, **process)
    return Trainer(model, diffusion, batches, training, **parts)


def state(trainer: Trainer) -> list[np.ndarray]:
    """Parameters, average, moments."""
    arrays = (trainer.model.params, trainer.ema.params, trainer.optimizer.m, trainer.optimizer.v)
    return [np.array(trainer.model.backend.to_numpy(a)) for a in arrays]


def counts(trainer: Trainer) -> tuple[int, int, int]:
    return trainer.step, trainer.optimizer.steps, trainer.ema.updates


def assert_one_graph(trainer: Trainer) -> None:
    recorder: Any = trainer.recorder
    assert not recorder.reasons
    assert [program is not None for program in recorder.programs.values()] == [True]


def assert_close(found: list[Metrics], wanted: list[Metrics]) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.step, ours.lr) == (theirs.step, theirs.lr)
        assert ours.loss == pytest.approx(theirs.loss, rel=2e-5)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=2e-4)


def differ(found: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """The largest relative difference, by norm."""
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(found, wanted, strict=True))


LIMIT = 2e-4


@pytest.mark.parametrize(("accumulate", "prediction", "clip"), [(1, "eps", 0.4), (2, "v", 0.15)])
def test_ten_steps_replayed_are_numpys(backend: CupyBackend, accumulate: int, prediction: str, clip: float) -> None:
    training = replace(TRAINING, accumulate=accumulate, clip_norm=clip)
    ours, theirs = (make_trainer(be, training, prediction) for be in (backend, backends.get("numpy")))
    wanted = list(theirs.run())
    assert min(metrics.grad_norm for metrics in wanted) < clip < max(metrics.grad_norm for metrics in wanted)
    assert_close(list(ours.run()), wanted)
    assert differ(state(ours), state(theirs)) < LIMIT
    assert counts(ours) == counts(theirs) == (10, 10, 10)
    assert_one_graph(ours)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_without_graphs_the_same_to_the_bit(backend: CupyBackend, accumulate: int) -> None:
    training = replace(TRAINING, steps=5, accumulate=accumulate)
    ours, plain = (make_trainer(be, training) for be in (backend, CupyBackend("fp32", graphs=False)))
    assert list(ours.run()) == list(plain.run())
    for a, b in zip(state(ours), state(plain), strict=True):
        np.testing.assert_array_equal(a, b)
    assert type(plain.recorder) is backends.Recorder
    assert_one_graph(ours)


INPUTS = ("number of the step", "learning rate", "decay", *Drawn._fields)
BOUND = {"variance": "learned", "loss": "vlb"}


@pytest.mark.parametrize("what", INPUTS)
def test_what_a_replay_does_not_read_again_is_noticed(
    backend: CupyBackend, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Each of the inputs held as it was in the capture: the comparison above would fail."""
    training = replace(TRAINING, steps=6)
    draw = Diffusion.draw
    shared = lambda *args, step, **more: draw(*args, step=step, **{**more, "first": 3 * step})  # noqa: E731
    monkeypatch.setattr(Diffusion, "draw", shared)
    # A loss has weights or a bound where the process asks for them
    asked: dict[str, Any] = {"weights": {"weighting": "min_snr"}, "bound": BOUND}.get(what, {})
    devices = CupyBackend("fp32", graphs=False), backend
    plain, ours = (make_trainer(device, training, process=asked) for device in devices)
    given_names = [name for name in Drawn._fields if name not in ("weights", "bound") or name == what]
    send, first = Uploads.send, []

    def hold(self: Uploads, given: list[np.ndarray]) -> None:
        given = [a.copy() for a in given]
        first.append(given)
        if what in given_names:
            place = 1 + given_names.index(what)
            given[place] = first[0][place]
        else:
            place = INPUTS.index(what)
            given[0][place] = first[0][0][place]
        send(self, given)

    monkeypatch.setattr(Uploads, "send", hold)
    wanted, found = list(plain.run()), list(ours.run())
    assert len(first) == 5
    assert_close(found[:2], wanted[:2])
    assert differ(state(ours), state(plain)) > LIMIT


# What Python does in a step


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """How often a kernel or a graph was launched, a copy made, and the device waited for."""
    found: Counter[str] = Counter()
    watched = {
        "kernels": (RawKernel, "__call__"),
        "graphs": (Graph, "launch"),
        "uploads": (ndarray, "set"),
        "reads": (ndarray, "get"),
        "numbers": (ndarray, "item"),
        "device": (Device, "synchronize"),
        "streams": (Stream, "synchronize"),
        "events": (Event, "synchronize"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, (kind, method) in watched.items():
            patch.setattr(kind, method, counting(found, name, getattr(kind, method)))
        yield found


def counting(found: Counter[str], name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kw: Any) -> Any:
        found[name] += 1
        return method(*args, **kw)

    return call


def test_a_step_is_one_launch_and_nothing_is_read_unless_asked(backend: CupyBackend) -> None:
    trainer = make_trainer(backend)
    for _ in range(2):
        trainer.launch()  # as it is, captured
    with counted() as found:
        for _ in range(5):
            trainer.launch()
    # The event is that of the pinned memory's last copy but one
    assert found == {"graphs": 5, "uploads": 5, "events": 5}
    with counted() as found:
        seen = list(trainer.read())
    assert [metrics.step for metrics in seen] == [1, 2, 3, 4, 5, 6, 7]
    assert found == {"reads": 7}


def test_numbers_are_read_where_they_are_due(backend: CupyBackend) -> None:
    one, all_ = make_trainer(backend), make_trainer(backend)
    ahead = [(metrics, one.step) for metrics in one.run(due=lambda: one.step in (3, 4))]
    assert [metrics for metrics, _ in ahead] == list(all_.run())
    assert [step for _, step in ahead] == [3, 3, 3, 4, *[10] * 6]


def test_the_command_reads_where_something_is_done_with_it(
    backend: CupyBackend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = importlib.import_module("tinyddpm.cli.training_loop")
    monkeypatch.setattr(command, "LOOK_EVERY", math.inf)
    config = run_config(replace(CONFIG, dropout=0.1), steps=40, checkpoint_every=7, keep=9, batch_size=2)
    runs = [Run.create(tmp_path / name, config, backend) for name in ("often", "seldom")]
    for metrics in runs[0].trainer.run():
        runs[0].record(metrics)
    read, when = Trainer.read, []

    def noted(self: Trainer) -> Iterator[Metrics]:
        when.append(self.step)
        return read(self)

    monkeypatch.setattr(Trainer, "read", noted)
    assert command.train_to_end(runs[1], 15, 1, 2)
    assert when == [step for step in range(1, 41) if step % 2 == 0 or step % 7 == 0 or step % 15 == 0]
    assert rows(runs[1].folder) == rows(runs[0].folder)
    assert [step for step, _ in checkpoints(runs[1].folder)] == [0, 7, 14, 21, 28, 35, 40]


# Copies that come late


def test_a_batch_that_is_not_waited_for_is_noticed(backend: CupyBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the tests above would fail if a graph ran before its batch is there."""
    trainer = make_trainer(backend)
    trainer.take_step()
    monkeypatch.setattr(Stream, "wait_event", lambda self, event: None)
    with pytest.raises(NonFiniteError, match="step 2: "):
        list(trainer.run())


def test_a_batch_may_be_overwritten_once_it_is_launched(backend: CupyBackend) -> None:
    ours, plain = make_trainer(backend), make_trainer(CupyBackend("fp32", graphs=False))
    at, x0 = ours.batches.at, np.empty((2, 8, 8, 1), np.float32)

    def same_place(number: int) -> Any:
        x0[...], labels = at(number)
        return x0, labels

    ours.batches.at = same_place  # type: ignore[method-assign]
    for _ in range(6):
        ours.launch()
        x0[...] = np.nan
    assert list(ours.read()) == [plain.take_step() for _ in range(6)]


# Trouble, and a second start


@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_step_that_is_not_finite_moves_nothing_nor_do_those_after_it(backend: CupyBackend, step: int) -> None:
    """Told when it is read, and the run goes on as if it had not been."""
    ours, plain = make_trainer(backend), make_trainer(backend)
    at = ours.batches.at

    def poisoned(number: int) -> Any:
        x0, labels = at(number)
        if number == step - 1:
            x0[0, 1, 2, 0] = np.inf
        return x0, labels

    ours.batches.at = poisoned  # type: ignore[method-assign]
    for _ in range(6):
        ours.launch()
    seen = []
    with pytest.raises(NonFiniteError, match=f"^step {step}: operation .* check the data"):
        seen.extend(ours.read())
    wanted = [plain.take_step() for _ in range(step - 1)]
    assert seen == [] or seen == wanted
    assert counts(ours) == counts(plain) == (step - 1,) * 3
    for a, b in zip(state(ours), state(plain), strict=True):
        np.testing.assert_array_equal(a, b)
    ours.batches.at = at  # type: ignore[method-assign]
    assert list(ours.run()) == list(plain.run())


def test_six_steps_are_three_and_three(backend: CupyBackend, tmp_path: Path) -> None:
    training = replace(TRAINING, steps=6)
    whole, first = make_trainer(backend, training), make_trainer(backend, training)
    wanted, seen = list(whole.run()), [first.take_step() for _ in range(3)]
    save(tmp_path / "c", first.model, first.diffusion, optimizer=first.optimizer, ema=first.ema, step=first.step)
    kept: Any = load(tmp_path / "c", backend)
    second = make_trainer(backend, training, model=kept.model, optimizer=kept.optimizer, ema=kept.ema, step=kept.step)
    assert seen + list(second.run()) == wanted
    for a, b in zip(state(second), state(whole), strict=True):
        np.testing.assert_array_equal(a, b)
    assert_one_graph(second)


def test_arrays_and_rates_that_are_exchanged_count_from_then_on(backend: CupyBackend) -> None:
    trainers = [make_trainer(be) for be in (backend, CupyBackend("fp32", graphs=False))]
    seen: list[list[Metrics]] = []
    for trainer in trainers:
        metrics = [trainer.take_step() for _ in range(3)]
        trainer.optimizer.m = 0.5 * trainer.optimizer.m
        metrics += [trainer.take_step() for _ in range(3)]
        trainer.optimizer.beta1 = 0.5
        metrics += [trainer.take_step() for _ in range(3)]
        seen.append(metrics)
    assert seen[0] == seen[1]
    for a, b in zip(*map(state, trainers), strict=True):
        np.testing.assert_array_equal(a, b)


class Slower(Adam):
    """Asks something else than arrays what to do."""

    def move(self, grads: Any, step: Any, lr: Any, *rest: Any) -> None:
        super().move(grads, step, lr * (0.5 if self.steps > 3 else 1.0), *rest)


class Other(Diffusion):
    """As recordable as its reader believes."""


@pytest.mark.parametrize("what", ["optimizer", "diffusion", "float64"])
def test_what_is_not_ours_is_called_each_time(backend: CupyBackend, what: str) -> None:
    def made(be: Any) -> Trainer:
        model = UNet(WHOLE, be, seed=1, dtype="float64" if what == "float64" else "float32")
        noise = 0.1 * np.random.default_rng(2).standard_normal(model.params.shape)
        model.params[...] = be.asarray(noise, model.params.dtype)
        optimizer = Slower(model.params, backend=be) if what == "optimizer" else None
        trainer = make_trainer(be, model=model, optimizer=optimizer, ema=EMA(model.params, 0.9, backend=be))
        if what == "diffusion":
            trainer.diffusion = Other(Schedule.cosine(100), label_dropout=0.3)
        return trainer

    ours, plain = made(backend), made(CupyBackend("fp32", graphs=False))
    assert [ours.take_step() for _ in range(6)] == [plain.take_step() for _ in range(6)]
    recorder: Any = ours.recorder
    assert len(recorder.reasons) == 1
