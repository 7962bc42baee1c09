"""A run that rank 0 leads and the others follow, what they agree on between steps, and a drawing that they share."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends
from tests.tinyddpm.ranks.in_threads import run
from tests.tinyddpm.ranks.test_shared_batches import LEARNED
from tests.tinyddpm.tiny_runs import SIMPLE, arrays, assert_same, build, run_config, scramble
from tinyddpm import data
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.generation.images import Drawing
from tinyddpm.ranks import Ranks, SharedError
from tinyddpm.reporting.series import Series
from tinyddpm.training.checkpoint import Checkpoint
from tinyddpm.training.run_config import DataConfig, DiffusionConfig, RunConfig
from tinyddpm.training.run_folder import Run
from tinyddpm.training.several_ranks import Beat, follow, lead
from tinyddpm.training.trainer import Trainer

NUMPY = backends.get("numpy")


def taking_part(ranks: Ranks, folder: Path, steps: int = 8) -> tuple[Trainer, RunConfig]:
    """Rank 0 goes on with the run in folder, the others follow."""
    if ranks.rank > 0:
        return follow(ranks, NUMPY)
    with Run.resume(folder, NUMPY, steps) as own:
        lead(own, ranks)
        return own.trainer, own.config


def begin(folder: Path, learned: bool = False) -> dict[str, Any]:
    """A run of three steps, and its state."""
    config = run_config(checkpoint_every=1, steps=3)
    if learned:
        diffusion = DiffusionConfig(timesteps=4, variance="learned", loss="vlb")
        training = replace(config.training, timestep_sampling="importance")
        config = replace(config, model=LEARNED, diffusion=diffusion, training=training)
    with Run.create(folder, config, NUMPY) as own:
        for _ in own.trainer.run():
            pass
        own.checkpoint()
        return arrays(own.trainer)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("learned", [False, True], ids=["plain", "by importance"])
def test_followers_have_the_state_of_the_first(tmp_path: Path, learned: bool, size: int):
    state = begin(tmp_path / "run", learned)
    found = run(size, lambda ranks: taking_part(ranks, tmp_path / "run"))
    for trainer, config in found:
        assert_same(arrays(trainer), state)
        assert (config, trainer.ranks.size) == (found[0][1], size)
    memories = [trainer.importance for trainer, _ in found]
    assert all((memory is not None) == learned for memory in memories)
    for memory in filter(None, memories):
        np.testing.assert_array_equal(memory.losses, memories[0].losses)
        np.testing.assert_array_equal(memory.counts, memories[0].counts)


def test_another_rank_with_other_images_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    begin(tmp_path / "run")
    load, first = DataConfig.load, threading.local()

    def loaded(self: DataConfig, *arguments: Any) -> data.Dataset:
        own = load(self, *arguments)
        return own if getattr(first, "is_so", False) else data.Dataset(own.name, own.images[1:], own.labels[1:], None)

    def work(ranks: Ranks) -> None:
        first.is_so = ranks.rank < 2
        taking_part(ranks, tmp_path / "run")

    monkeypatch.setattr(DataConfig, "load", loaded)
    for error in run(3, work):
        assert isinstance(error, SharedError)
        assert str(error).startswith("rank 2 has data ")


def test_more_ranks_than_images_in_a_batch_end_all(tmp_path: Path):
    begin(tmp_path / "run")
    errors = run(5, lambda ranks: taking_part(ranks, tmp_path / "run"))
    assert {type(error) for error in errors} == {SharedError}
    assert all("5 ranks cannot share batches of 4 images" in str(error) for error in errors)


@pytest.mark.parametrize("hearing", [0, 1, 2])
def test_a_signal_to_one_rank_stops_all_after_the_same_step(tmp_path: Path, hearing: int):
    begin(tmp_path / "run")

    def work(ranks: Ranks) -> int:
        trainer, _ = taking_part(ranks, tmp_path / "run")
        beat = Beat(trainer, lambda: ranks.rank == hearing and trainer.step >= 5, checked_every=2)
        for _ in trainer.run(lambda: beat.due(ranks.rank == 0)):
            if beat.stopped():
                break
        return trainer.step

    assert run(3, work) == [5, 5, 5]


@pytest.mark.parametrize("looking", [0, 1])
def test_one_that_looks_has_all_look(tmp_path: Path, looking: int):
    begin(tmp_path / "run")

    def work(ranks: Ranks) -> list[int]:
        trainer, _ = taking_part(ranks, tmp_path / "run")
        beat, seen = Beat(trainer, lambda: False, checked_every=100), []
        for metrics in trainer.run(lambda: beat.due(ranks.rank == looking and trainer.step % 2 == 0)):
            seen.append((trainer.step, metrics.step))
        return seen

    assert run(2, work) == [[(4, 4), (6, 5), (6, 6), (8, 7), (8, 8)]] * 2


def test_weights_that_part_are_noticed_between_steps(tmp_path: Path):
    begin(tmp_path / "run")

    def work(ranks: Ranks) -> None:
        trainer, _ = taking_part(ranks, tmp_path / "run")
        beat = Beat(trainer, lambda: False, checked_every=2)
        for metrics in trainer.run(lambda: beat.due(True)):
            if metrics.step == 5 and ranks.rank == 1:
                trainer.model.params[0] += 1e-3

    for error in run(2, work):
        assert isinstance(error, SharedError)
        assert "rank 1 no longer has the weights of rank 0" in str(error)


def test_a_process_by_itself_stops_at_once_and_always_looks_when_asked(tmp_path: Path):
    begin(tmp_path / "run")
    with Run.resume(tmp_path / "run", NUMPY, 8) as own:
        signalled: list[int] = []
        beat = Beat(own.trainer, lambda: bool(signalled), checked_every=1)
        assert (beat.due(True), beat.due(False), beat.stopped()) == (True, False, False)
        signalled.append(1)
        assert beat.stopped()


def drawing() -> Drawing:
    return Drawing(Checkpoint(scramble(build(SIMPLE)), Diffusion(Schedule.cosine(20))), 2)


@pytest.mark.parametrize("kind", [".npz", ""], ids=["npz", "folder"])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_ranks_draw_what_one_draws(tmp_path: Path, size: int, kind: str):
    def drawn(ranks: Ranks) -> None:
        with Series(tmp_path / f"of-{ranks.size}{kind}", drawing(), 7, 2, ranks=ranks) as series:
            series.draw()

    drawn(Ranks())
    assert run(size, drawn) == [None] * size
    alone, shared = (tmp_path / f"of-{n}{kind}" for n in (1, size))
    if kind:
        assert shared.read_bytes() == alone.read_bytes()
    else:
        assert {p.name: p.read_bytes() for p in shared.iterdir()} == {p.name: p.read_bytes() for p in alone.iterdir()}


def test_a_shared_drawing_goes_on_after_an_end_with_another_number_of_ranks(tmp_path: Path):
    with Series(tmp_path / "alone.npz", drawing(), 7, 2) as series:
        series.draw()

    def ended(ranks: Ranks) -> None:
        with Series(tmp_path / "shared.npz", drawing(), 7, 2, ranks=ranks) as series:
            keep, kept = series.keep, []

            def broken(first: int, images: np.ndarray) -> None:
                keep(first, images)
                kept.append(first)
                if len(kept) == 2:
                    raise KeyError

            series.keep = broken  # type: ignore[method-assign]
            series.draw(lambda done, total: None)

    first, second = run(2, ended)
    assert isinstance(first, KeyError)
    assert second is None or isinstance(second, threading.BrokenBarrierError)
    assert run(3, lambda ranks: resumed(tmp_path / "shared.npz", ranks)) == [3, None, None]
    assert (tmp_path / "shared.npz").read_bytes() == (tmp_path / "alone.npz").read_bytes()


def resumed(path: Path, ranks: Ranks) -> int | None:
    """Goes on; how many images were to be drawn, as rank 0 sees it."""
    with Series(path, drawing(), 7, 2, ranks=ranks) as series:
        missing = 7 - series.kept() if ranks.rank == 0 else None
        series.draw()
    return missing


def test_other_settings_on_one_rank_are_named(tmp_path: Path):
    def drawn(ranks: Ranks) -> None:
        with Series(tmp_path / "shared.npz", drawing(), 7, 2 + (ranks.rank == 1), ranks=ranks):
            pass

    assert {str(error) for error in run(3, drawn)} == {"rank 1 has batch-size 3, rank 0 has 2; make them the same"}
