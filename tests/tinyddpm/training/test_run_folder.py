"""Run folders: what is in them, what resuming one refuses, and how many checkpoints stay."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends
from backends import NonFiniteError
from tests.tinyddpm.tiny_runs import SIMPLE, UNET, arrays, assert_same, images, rows, run_config, tree
from tinyddpm import data
from tinyddpm.errors import DamagedFileError, InputError, MissingDataError
from tinyddpm.locks import NAME
from tinyddpm.training.checkpoint import load, save
from tinyddpm.training.run_config import DataConfig, DiffusionConfig, RunConfig
from tinyddpm.training.run_folder import Run, checkpoints, last_checkpoint, open_checkpoint, read_config, read_metrics
from tinyddpm.training.trainer import Metrics

NUMPY = backends.get("numpy")


@pytest.fixture(autouse=True)
def small_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random images in place of the digits, which take longer to read than the steps here."""
    monkeypatch.setattr(data, "load", lambda *_, **__: images())


def create(folder: Path, steps: int | None = None, **config: Any) -> Run:
    """A new run, taken some steps on (to its end by default), as the command line does."""
    return advance(Run.create(folder, run_config(**config), NUMPY), steps)


def advance(run: Run, steps: int | None = None) -> Run:
    for _ in range(run.config.training.steps - run.trainer.step if steps is None else steps):
        run.record(run.trainer.take_step())
        if run.due():
            run.checkpoint()
    return run


class TestFolder:
    def test_what_a_run_leaves(self, tmp_path: Path) -> None:
        run = create(tmp_path / "new" / "run", steps=6)
        run.close()
        assert sorted(tree(run.folder)) == [
            "checkpoints",
            "checkpoints/step-00000004.safetensors",
            "checkpoints/step-00000006.safetensors",
            "config.json",
            "metrics.jsonl",
        ]
        assert read_config(run.folder) == run.config
        assert [row["step"] for row in rows(run.folder)] == [1, 2, 3, 4, 5, 6]
        assert set(rows(run.folder)[0]) == {"step", "loss", "grad_norm", "lr"}
        assert read_metrics(run.folder) == rows(run.folder)
        assert_same(arrays(open_checkpoint(run.folder, NUMPY)), arrays(run.trainer))

    def test_it_can_be_sampled_and_resumed_before_its_first_step(self, tmp_path: Path) -> None:
        run = create(tmp_path / "run", steps=0)
        run.close()
        assert set(tree(run.folder)) == {"checkpoints", "checkpoints/step-00000000.safetensors", "config.json"}
        assert_same(arrays(Run.resume(run.folder, NUMPY).trainer), arrays(run.trainer))

    def test_the_seed_makes_the_weights(self, tmp_path: Path) -> None:
        runs = [create(tmp_path / str(i), steps=0, seed=seed) for i, seed in enumerate([5, 5, 2**64 - 1])]
        first, same, other = (run.trainer.model.params for run in runs)
        assert np.array_equal(first, same)
        assert not np.array_equal(first, other)
        advance(runs[2], 1)

    def test_images_loaded_already_are_taken(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        dataset = images(5)
        monkeypatch.setattr(data, "load", None)
        run = Run.create(tmp_path / "run", run_config(), NUMPY, dataset)
        assert run.trainer.batches.dataset is dataset

    @pytest.mark.parametrize(
        ("model", "words"),
        [
            (replace(SIMPLE, in_channels=3), "the images are 8x8x1, the model takes 8x8x3"),
            (replace(SIMPLE, image_size=(8, 16)), "the images are 8x8x1, the model takes 8x16x1"),
        ],
    )
    def test_images_that_do_not_fit_the_model(self, tmp_path: Path, model: Any, words: str) -> None:
        with pytest.raises(InputError, match=words):
            Run.create(tmp_path / "run", run_config(model), NUMPY)
        assert tree(tmp_path) == {}

    def test_a_folder_in_use_is_left_as_it_is(self, tmp_path: Path) -> None:
        run = create(tmp_path / "run", steps=4)
        (tmp_path / "file").write_bytes(b"mine")
        before = tree(tmp_path)
        with pytest.raises(InputError, match=f"{run.folder} already holds a run; go on with --resume"):
            Run.create(run.folder, run_config(), NUMPY)
        with pytest.raises(InputError, match="file is a file; a run needs a folder"):
            Run.create(tmp_path / "file", run_config(), NUMPY)
        assert tree(tmp_path) == before

    def test_a_run_is_locked_until_it_is_closed_or_forgotten(self, tmp_path: Path) -> None:
        run = create(tmp_path / "run", steps=2)
        assert (run.folder / NAME).exists()
        with Run.resume(run.folder, NUMPY) as second:
            advance(second, 1)
            assert (run.folder / NAME).exists()
        assert (run.folder / NAME).exists()
        run.close()
        assert not (run.folder / NAME).exists()
        run = Run.resume(run.folder, NUMPY)
        assert (run.folder / NAME).exists()
        folder = run.folder
        del run
        assert not (folder / NAME).exists()

    def test_a_refusal_leaves_no_lock(self, tmp_path: Path) -> None:
        run = create(tmp_path / "run", steps=2)
        run.close()
        before = tree(tmp_path)
        with pytest.raises(InputError):
            Run.resume(run.folder, NUMPY, steps=1)
        with pytest.raises(InputError):
            Run.create(run.folder, run_config(), NUMPY)
        assert tree(tmp_path) == before

    @pytest.mark.parametrize("left", ["metrics.jsonl", "checkpoints/step-00000004.safetensors"])
    def test_remains_of_a_run_are_not_taken_for_the_new_one(self, tmp_path: Path, left: str) -> None:
        (tmp_path / left).parent.mkdir(exist_ok=True)
        (tmp_path / left).write_bytes(b"precious")
        before = tree(tmp_path)
        with pytest.raises(InputError, match=r"holds what is left of a run without config\.json"):
            Run.create(tmp_path, run_config(), NUMPY)
        assert tree(tmp_path) == before

    def test_a_folder_with_other_things_in_it_is_fine(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        create(tmp_path, steps=2)
        assert (tmp_path / "notes.txt").read_text() == "mine"


class TestCheckpoints:
    @pytest.mark.parametrize(
        ("every", "keep", "expected"),
        [(1, 1, [7]), (1, 3, [5, 6, 7]), (2, 2, [6, 7]), (3, 9, [0, 3, 6, 7]), (9, 1, [7])],
    )
    def test_how_many_stay(self, tmp_path: Path, every: int, keep: int, expected: list[int]) -> None:
        run = create(tmp_path, checkpoint_every=every, keep=keep, steps=7)
        advance(run, 7 - run.trainer.step)
        assert [step for step, _ in checkpoints(tmp_path)] == expected
        for step, path in checkpoints(tmp_path):
            assert load(path, NUMPY).step == step

    def test_other_files_are_neither_taken_nor_deleted(self, tmp_path: Path) -> None:
        run = create(tmp_path, steps=2, keep=1)
        content = last_checkpoint(tmp_path).read_bytes()
        others = ("step-00000009 (copy).safetensors", "step-best.safetensors", "zzz.safetensors", "step-00000009.txt")
        for name in others:
            (tmp_path / "checkpoints" / name).write_bytes(content)
        advance(run, 2)
        names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
        assert names == {*others, "step-00000004.safetensors"}
        assert last_checkpoint(tmp_path).name == "step-00000004.safetensors"

    def test_order_is_by_number(self, tmp_path: Path) -> None:
        (tmp_path / "checkpoints").mkdir()
        for step in (99_999_999, 100_000_000, 5):
            (tmp_path / "checkpoints" / f"step-{step:08d}.safetensors").write_bytes(b"")
        assert [step for step, _ in checkpoints(tmp_path)] == [5, 99_999_999, 100_000_000]

    def test_a_failed_save_deletes_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run = create(tmp_path, steps=2, keep=1)
        before = tree(tmp_path / "checkpoints")
        run.trainer.take_step()

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            run.checkpoint()
        assert tree(tmp_path / "checkpoints") == before

    def test_weights_that_are_not_finite_are_not_saved(self, tmp_path: Path) -> None:
        run = create(tmp_path, steps=4, keep=1)
        before = tree(tmp_path)
        run.trainer.take_step()
        run.trainer.model.params[7] = np.nan
        with pytest.raises(NonFiniteError, match="after step 5 the weights hold NaN"):
            run.checkpoint()
        assert tree(tmp_path) == before

    def test_nan_in_training_keeps_the_last_good_one(self, tmp_path: Path) -> None:
        run = create(tmp_path, steps=4, keep=2)
        before, good = tree(tmp_path), arrays(run.trainer)
        run.trainer.model.params[0] = np.inf
        with pytest.raises(NonFiniteError):
            advance(run, 1)
        assert tree(tmp_path) == before
        assert_same(arrays(Run.resume(tmp_path, NUMPY).trainer), good)


class TestOpening:
    def test_a_folder_or_a_file(self, tmp_path: Path) -> None:
        create(tmp_path, steps=4)
        older, newer = (path for _, path in checkpoints(tmp_path))
        assert last_checkpoint(tmp_path) == newer
        assert last_checkpoint(str(older)) == older
        assert open_checkpoint(older, NUMPY).step == 2
        assert open_checkpoint(str(tmp_path), NUMPY).step == 4

    @pytest.mark.parametrize("name", ["missing", "empty", "empty/checkpoints"])
    def test_nothing_there(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
        with pytest.raises(MissingDataError, match=f"no checkpoint in {tmp_path / name}; give a run folder, a"):
            open_checkpoint(tmp_path / name, NUMPY)

    def test_damaged_newest_one_names_the_one_before(self, tmp_path: Path) -> None:
        create(tmp_path, steps=4)
        _, path = checkpoints(tmp_path)[-1]
        path.write_bytes(path.read_bytes()[:-1])
        before = tree(tmp_path)
        for opened in (open_checkpoint, Run.resume):
            with pytest.raises(DamagedFileError, match=rf"{path.name} is damaged .*\(delete it to go back to step 2\)"):
                opened(tmp_path, NUMPY)
        assert tree(tmp_path) == before
        path.unlink()
        assert Run.resume(tmp_path, NUMPY).trainer.step == 2

    def test_damaged_only_one(self, tmp_path: Path) -> None:
        create(tmp_path, steps=4, keep=1)
        _, path = checkpoints(tmp_path)[-1]
        path.write_bytes(b"")
        for place in (tmp_path, path):
            with pytest.raises(DamagedFileError) as caught:
                open_checkpoint(place, NUMPY)
            assert "go back" not in str(caught.value)


class TestResume:
    def test_steps_after_the_checkpoint_are_taken_off_the_log(self, tmp_path: Path) -> None:
        create(tmp_path, steps=5)
        assert len(rows(tmp_path)) == 5
        run = Run.resume(tmp_path, NUMPY)
        assert run.trainer.step == 4
        assert len(rows(tmp_path)) == 4

    @pytest.mark.parametrize(
        "line",
        [
            '{"step": 5, "lo',
            "\xff\xfe\x00",
            "[]",
            "{}",
            "7",
            '{"step": "5", "loss": 1, "grad_norm": 1, "lr": 1}',
            "null",
        ],
    )
    def test_a_last_line_that_is_none(self, tmp_path: Path, line: str) -> None:
        run = create(tmp_path, steps=4)
        before = (tmp_path / "metrics.jsonl").read_bytes()
        with open(tmp_path / "metrics.jsonl", "ab") as file:
            file.write(line.encode("latin-1"))
        assert len(read_metrics(tmp_path)) == 4
        assert_same(arrays(Run.resume(tmp_path, NUMPY).trainer), arrays(run.trainer))
        assert (tmp_path / "metrics.jsonl").read_bytes() == before

    def test_rows_after_a_line_that_is_none_are_not_read(self, tmp_path: Path) -> None:
        """They belong to steps that a resumed run takes again."""
        create(tmp_path, steps=4)
        path = tmp_path / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines()
        for broken in ("{", '{"step": "3", "loss": 1, "grad_norm": 1, "lr": 1}'):
            path.write_text("\n".join([*lines[:2], broken, *lines[2:], ""]), encoding="utf-8")
            assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]

    def test_a_log_that_two_have_written_has_one_row_a_step(self, tmp_path: Path) -> None:
        """As folders may be from before there was a lock: the later row counts."""
        create(tmp_path, steps=4)
        first = rows(tmp_path)
        second = [{**row, "loss": 2.0 + row["step"]} for row in first]
        mixed = [row for pair in zip(first, second, strict=True) for row in pair] + first[:1]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mixed))
        assert read_metrics(tmp_path) == [first[0], *second[1:]]
        Run.resume(tmp_path, NUMPY)
        assert rows(tmp_path) == [first[0], *second[1:]]

    def test_a_log_that_is_gone(self, tmp_path: Path) -> None:
        create(tmp_path, steps=4)
        (tmp_path / "metrics.jsonl").unlink()
        assert read_metrics(tmp_path) == []
        advance(Run.resume(tmp_path, NUMPY), 1)
        assert [row["step"] for row in rows(tmp_path)] == [5]

    def test_leftovers_of_killed_writers_go(self, tmp_path: Path) -> None:
        create(tmp_path, steps=4)
        before = tree(tmp_path)
        for name in (".config.json.12.partial", "checkpoints/.step-00000006.safetensors.7.partial"):
            (tmp_path / name).write_bytes(b"half")
        Run.resume(tmp_path, NUMPY)
        assert tree(tmp_path) == before

    def test_a_new_total_is_kept_in_the_config(self, tmp_path: Path) -> None:
        create(tmp_path, steps=4)
        run = Run.resume(tmp_path, NUMPY, steps=9)
        noted = {"changed_at": 4, "changed_lr": run_config().training.learning_rate(3)}
        assert read_config(tmp_path) == run.config == run_config(steps=9, **noted)
        assert run.trainer.config.steps == 9
        advance(run)
        assert run.trainer.step == 9

    @pytest.mark.parametrize("steps", [3, 0, -1, 2.5])
    def test_a_total_that_cannot_be(self, tmp_path: Path, steps: Any) -> None:
        create(tmp_path, steps=4)
        before = tree(tmp_path)
        with pytest.raises(InputError, match=f"got {steps}"):
            Run.resume(tmp_path, NUMPY, steps=steps)
        assert tree(tmp_path) == before

    @pytest.mark.parametrize("optimizer", [True, False])
    def test_a_checkpoint_to_sample_from_only(self, tmp_path: Path, optimizer: bool) -> None:
        run = create(tmp_path, steps=4)
        trainer = run.trainer
        kept = {"optimizer": trainer.optimizer} if optimizer else {"ema": trainer.ema}
        save(last_checkpoint(tmp_path), trainer.model, trainer.diffusion, step=4, **kept)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="holds no optimiser state, so training cannot go on"):
            Run.resume(tmp_path, NUMPY)

    def test_a_checkpoint_of_another_model(self, tmp_path: Path) -> None:
        create(tmp_path / "a", steps=2)
        create(tmp_path / "b", steps=4, model=UNET)
        last_checkpoint(tmp_path / "b").rename(tmp_path / "a" / "checkpoints" / "step-00000004.safetensors")
        with pytest.raises(InputError, match=r"step-00000004\.safetensors is of another model than .*config\.json"):
            Run.resume(tmp_path / "a", NUMPY)

    def test_no_run(self, tmp_path: Path) -> None:
        for folder in (tmp_path, tmp_path / "missing"):
            with pytest.raises(MissingDataError, match=rf"{folder} holds no run \(no config\.json\)"):
                Run.resume(folder, NUMPY)
        assert tree(tmp_path) == {}


class TestConfig:
    @pytest.mark.parametrize("model", [SIMPLE, UNET])
    def test_there_and_back_through_json(self, model: Any) -> None:
        config = RunConfig(
            DataConfig("mnist", 16, True, "somewhere", True),
            model,
            DiffusionConfig("linear", 200, "v", "huber", "fixed_large", zero_terminal_snr=True),
            run_config(steps=9, clip_norm=math.inf).training,
            7,
            3,
        )
        assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000, b"config"])
    def test_no_json(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(DamagedFileError, match=r"config\.json is not valid JSON"):
            read_config(tmp_path)

    @pytest.mark.parametrize(
        ("place", "value", "words"),
        [
            ([], None, "lacks or misplaces"),
            ([], [], "lacks or misplaces"),
            (["data"], None, "None"),
            (["data", "name"], 5, "name must be a text, got 5"),
            (["data", "name"], None, "name must be a text, got None"),
            (["data", "data_dir"], ["x"], "data_dir must be a text"),
            (["data", "flip"], 1, "flip must be True or False, got 1"),
            (["data", "color"], "yes", "color must be True or False, got 'yes'"),
            (["data", "split"], "test", "does not know ['split']"),
            (["model"], 3, "lacks or misplaces"),
            (["model", "kind"], "Net", "kind of model must be one of UNet, SimpleUNet, got 'Net'"),
            (["model", "config", "groups"], 3, "groups=3 does not divide"),
            (["diffusion", "timesteps"], 0, "timesteps must be a whole number of at least 1, got 0"),
            (["diffusion", "schedule"], "stairs", "schedule must be one of"),
            (["diffusion", "schedule"], ["cosine"], "schedule must be one of"),
            (["training", "lr"], "fast", "got 'fast'"),
            (["training", "steps"], 1e3, "got 1000.0"),
            (["checkpoint_every"], 0, "checkpoint_every must be a whole number of at least 1, got 0"),
            (["keep_checkpoints"], None, "keep_checkpoints must be a whole number"),
        ],
    )
    def test_wrong_values(self, tmp_path: Path, place: list[str], value: Any, words: str) -> None:
        values: Any = {"config": run_config().to_dict()}
        *outer, last = ["config", *place]
        inner = values
        for key in outer:
            inner = inner[key]
        inner[last] = value
        (tmp_path / "config.json").write_text(json.dumps(values["config"]))
        with pytest.raises(InputError) as caught:
            read_config(tmp_path)
        assert words in str(caught.value)
        assert str(tmp_path / "config.json") in str(caught.value)

    @pytest.mark.parametrize("missing", ["data", "model", "diffusion", "training", "checkpoint_every"])
    def test_missing_values(self, tmp_path: Path, missing: str) -> None:
        values = run_config().to_dict()
        del values[missing]
        (tmp_path / "config.json").write_text(json.dumps(values))
        with pytest.raises(InputError, match=f"lacks or misplaces '{missing}'"):
            read_config(tmp_path)


def test_log_keeps_every_digit(tmp_path: Path) -> None:
    run = create(tmp_path, steps=0)
    metrics = Metrics(1, 1 / 3, 2**0.5, 1e-17)
    run.record(metrics)
    assert Metrics(**read_metrics(tmp_path)[0]) == metrics
