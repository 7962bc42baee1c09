"""Several ranks train as one process does: losses, weights, averages, what importance remembers, and NaN."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import backends
from backends import NonFiniteError
from tests.tinyddpm.ranks.in_threads import run
from tests.tinyddpm.tiny_runs import SIMPLE, UNET, arrays, assert_same, images
from tinyddpm import data
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import InputError
from tinyddpm.networks.registry import build_network
from tinyddpm.ranks import Ranks
from tinyddpm.training.trainer import Metrics, TrainConfig, Trainer

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
LEARNED = replace(UNET, learned_variance=True)
# Seven images: no number of ranks above one divides them
TRAINING = TrainConfig(steps=5, batch_size=7, warmup_steps=1, lr=3e-3, ema_decay=0.9, seed=3)
CASES: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "classes, dropout, flips": (UNET, {}, {}),
    "two batches a step": (UNET, {}, {"accumulate": 2}),
    "no classes, huber": (SIMPLE, {"loss": "huber"}, {}),
    "min-SNR": (UNET, {"weighting": "min_snr", "prediction": "v"}, {}),
    "learned variance": (LEARNED, {"variance": "learned"}, {}),
    "learned variance, min-SNR": (LEARNED, {"variance": "learned", "weighting": "min_snr"}, {}),
    "the bound, by importance": (
        LEARNED,
        {"variance": "learned", "loss": "vlb"},
        {"timestep_sampling": "importance", "accumulate": 2, "steps": 9},
    ),
}


def trainer(name: str, dtype: str, ranks: Ranks | None = None, backend: str = "numpy") -> Trainer:
    config, diffusion, training = CASES[name]
    settings = replace(TRAINING, **training)
    # So few timesteps that importance has seen each ten times before the end
    schedule = Schedule.cosine(5 if "importance" in name else 50)
    model = build_network(config, backend=backends.get(backend), dtype=dtype)
    batches = data.Batches(images(), settings.batch_size, settings.seed, flip=True)
    return Trainer(model, Diffusion(schedule, **diffusion), batches, settings, ranks=ranks)


def trained(name: str, dtype: str, size: int, backend: str = "numpy") -> list[tuple[list[Metrics], Trainer]]:
    """Metrics and trainer of each rank."""

    def work(ranks: Ranks) -> tuple[list[Metrics], Trainer]:
        own = trainer(name, dtype, ranks, backend)
        metrics = list(own.run())
        own.check_same()
        return metrics, own

    found = run(size, work)
    for result in found:
        if isinstance(result, Exception):
            raise AssertionError(str(result)) from result
    return found


def numbers(metrics: list[Metrics]) -> np.ndarray:
    return np.array([(m.step, m.loss, m.grad_norm, m.lr) for m in metrics])


@pytest.mark.parametrize("size", [2, 3, 4, 7])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CASES)
def test_any_number_of_ranks_trains_as_one_does(name: str, dtype: str, size: int):
    (((expected, alone),), found) = trained(name, dtype, 1), trained(name, dtype, size)
    tolerance = TOLERANCE[dtype]
    for metrics, own in found:
        np.testing.assert_allclose(numbers(metrics), numbers(expected), rtol=tolerance)
        for value, reference in ((own.model.params, alone.model.params), (own.ema.params, alone.ema.params)):
            np.testing.assert_allclose(value, reference, rtol=0, atol=tolerance * float(np.abs(reference).max()))
        assert_same(arrays(own), arrays(found[0][1]))
        if alone.importance is not None and own.importance is not None:
            np.testing.assert_array_equal(own.importance.counts, alone.importance.counts)
            np.testing.assert_allclose(own.importance.losses, alone.importance.losses, rtol=100 * tolerance)
    if alone.importance is not None:
        assert alone.importance.counts.min() == 10, "chances never differed"


def test_a_fixed_number_of_ranks_gives_the_same_bits():
    (_, first), (_, second) = (trained("classes, dropout, flips", "float32", 3)[1] for _ in range(2))
    assert_same(arrays(first), arrays(second))


def test_kernels_that_are_replayed_share_too():
    ((expected, alone),) = trained("learned variance", "float32", 1, "numba")
    # Threads of one process would replay in the same memory, so the ranks take turns: one by one, each with what the
    # others would have told it
    for size in (2, 3):
        shares = [trainer("learned variance", "float32", backend="numba") for _ in range(size)]
        assert {own.model.params.tobytes() for own in shares} == {shares[0].model.params.tobytes()}
        for step in range(TRAINING.steps):
            drawn = []
            for rank, own in enumerate(shares):
                own.ranks = Lone(rank, size)
                drawn.append(own.learn(*own.draw()))
            total = sum(own.gradient.astype(np.float64) for own in shares)
            loss = sum(float(measured[0]) for measured in drawn)
            assert loss == pytest.approx(expected[step].loss, rel=1e-5)
            for own, measured in zip(shares, drawn, strict=True):
                own.gradient[...], measured[0] = total, loss
                lr = own.config.learning_rate(step)
                assert own.move(np.array([step + 1, lr, own.ema.decay_now()]), measured)[1] == pytest.approx(
                    expected[step].grad_norm, rel=1e-5
                )
                own.step, own.ema.updates = step + 1, own.ema.updates + 1
        limit = 1e-5 * float(np.abs(alone.model.params).max())
        np.testing.assert_allclose(shares[-1].model.params, alone.model.params, rtol=0, atol=limit)


class Lone(Ranks):
    """A rank that nobody speaks with."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@settings(max_examples=30, deadline=None)
@given(step=st.integers(0, 40), batch=st.integers(1, 50), size=st.integers(1, 9), flip=st.booleans())
def test_rows_of_a_batch_are_those_of_the_whole(step: int, batch: int, size: int, flip: bool):
    batches = data.Batches(images(), batch, 5, flip)
    x0, labels = batches.at(step)
    parts = [batches.at(step, Lone(rank, size).share(batch)) for rank in range(min(size, batch))]
    if size <= batch:
        np.testing.assert_array_equal(np.concatenate([part for part, _ in parts]), x0)
        np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), labels)


def test_more_ranks_than_images_in_a_batch_are_refused():
    found = run(8, lambda ranks: trainer("no classes, huber", "float32", ranks))
    message = "8 ranks cannot share batches of 7 images; take larger ones, or as many ranks"
    assert [(type(e), str(e)) for e in found] == [(InputError, message)] * 8


@pytest.mark.parametrize("place", [0, 6], ids=["in the share of the first", "in the share of the last"])
def test_what_is_not_finite_in_one_share_stops_all_before_anything_moved(place: int):
    def work(ranks: Ranks) -> tuple[str, dict[str, Any], dict[str, Any]]:
        own = trainer("no classes, huber", "float32", ranks)
        own.take_step()
        before, draw = arrays(own), own.draw

        def broken() -> list[Any]:
            drawn, share = draw(), ranks.share(7)
            if own.step == 1 and share.start <= place < share.stop:
                drawn[0] = drawn[0].copy()
                drawn[0][place - share.start] = np.inf
            return drawn

        own.draw = broken  # type: ignore[method-assign]
        with pytest.raises(NonFiniteError) as caught:
            own.take_step()
        return str(caught.value), before, arrays(own)

    found = run(3, work)
    assert len({text for text, _, _ in found}) == 1
    assert found[0][0].startswith("step 2: ")
    assert "global_norm" not in found[0][0], "the operation that met it first is not named"
    for _, before, after in found:
        assert_same(after, before)


def test_a_copy_goes_on_by_itself():
    import copy

    def work(ranks: Ranks) -> int:
        return copy.deepcopy(trainer("no classes, huber", "float32", Lone(ranks.rank, 2))).ranks.size

    assert run(2, work) == [1, 1]
