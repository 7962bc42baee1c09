"""Every figure of the registry, drawn in its quick form: the picture, its numbers, its caption."""

import csv
import time
from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tinyddpm.figures.tiny import draw, tiny_recipes
from tests.tinyddpm.tiny_runs import invoke, succeed
from tinyddpm import data
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import NAMES, Schedule
from tinyddpm.errors import InputError, MissingDataError
from tinyddpm.evaluation.convergence import ORDERS, Measurement
from tinyddpm.evaluation.likelihood import floor_of
from tinyddpm.evaluation.quality import classifier_for, quality
from tinyddpm.figures.forward_process import compared_schedules, destroyed
from tinyddpm.figures.quality_figures import SAMPLER_STEPS, SCALES, SOLVERS
from tinyddpm.figures.recipes import RECIPES
from tinyddpm.figures.registry import FIGURES
from tinyddpm.figures.solvers import slope
from tinyddpm.generation.images import Drawing
from tinyddpm.generation.sample_file import load_samples
from tinyddpm.locks import NAME as LOCK
from tinyddpm.locks import hold
from tinyddpm.samplers import SAMPLERS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all figures and their runs."""
    folder = tmp_path_factory.mktemp("all")
    draw(folder, "--all")
    return folder


def plates(folder: Path, name: str) -> list[Path]:
    """The pictures of a figure."""
    return [path for path in (folder / "figures").glob(f"{name}*.png") if owner(path.stem) == name]


def owner(stem: str) -> str:
    return max((name for name in FIGURES if stem == name or stem.startswith(f"{name}-")), key=len)


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_a_picture_numbers_and_a_caption(made: Path, name: str) -> None:
    found = plates(made, name)
    assert found
    for path in found:
        picture = Image.open(path)
        assert 600 < picture.width <= 1400
        assert path.stat().st_size < 400_000
        assert np.asarray(picture.convert("L")).std() > 5  # not blank
        rows = table(path.with_suffix(".csv"))
        assert rows
        caption = path.with_suffix(".txt").read_text()
        assert len(caption) > 80
        assert caption.strip().endswith((".", ")"))
        assert "nan" not in caption
        assert caption.strip() in (made / "figures" / "figures.md").read_text()


@pytest.mark.parametrize("name", [name for name in FIGURES if FIGURES[name].runs])
def test_captions_say_that_digits_stand_in_and_give_numbers(made: Path, name: str) -> None:
    (path,) = plates(made, name)
    caption = path.with_suffix(".txt").read_text()
    assert "Digits of scikit-learn, in place of" in caption
    assert any(character.isdigit() for character in caption)


def test_nothing_else_is_left(made: Path) -> None:
    suffixes = {path.suffix for path in (made / "figures").iterdir()}
    assert suffixes == {".png", ".csv", ".txt", ".md"}


def test_schedules_are_in_the_table_as_they_are(made: Path) -> None:
    rows = table(made / "figures" / "schedules.csv")
    assert {row["schedule"] for row in rows} == compared_schedules().keys() > set(NAMES)
    for name, schedule in compared_schedules().items():
        own = [row for row in rows if row["schedule"] == name]
        assert [int(row["t"]) for row in own] == list(range(1000))
        for column, expected in (("beta", schedule.betas), ("alpha_bar", schedule.alpha_bars)):
            np.testing.assert_allclose([float(row[column]) for row in own], expected, rtol=1e-5)
        np.testing.assert_allclose([float(row["snr"]) for row in own], schedule.snr, rtol=1e-5)


def test_destruction_goes_from_the_image_to_noise() -> None:
    dataset = data.load("digits")
    images, rows = destroyed(dataset, 3)
    assert images.shape == (20, 8, 8, 1)
    assert np.abs(images[0].astype(int) - dataset.images[3]).max() <= 12  # at t = 0 a hundredth is noise
    for first in (0, 10):
        own = rows[first : first + 10]
        assert [row[1] for row in own] == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]
        assert own[0][4] > 0.99
        assert abs(own[-1][4]) < 0.4
        schedule = Schedule.by_name(own[0][0], 1000)
        for _, t, alpha_bar, snr, _ in own:
            assert alpha_bar == schedule.alpha_bars[t]
            assert snr == pytest.approx(alpha_bar / (1 - alpha_bar))


def test_the_table_of_samples_is_of_the_samples(made: Path) -> None:
    rows = table(made / "figures" / "fashion-linear.csv")
    (kept,) = (made / "runs" / "quick-digits" / "fashion-linear" / "drawn").glob("*_20-in-*.npz")
    images = data.to_unit(load_samples(kept).images)
    assert len(rows) == len(images) == 20
    assert [int(row["label"]) for row in rows] == [i % 10 for i in range(20)]
    np.testing.assert_allclose([float(row["mean"]) for row in rows], images.mean(axis=(1, 2, 3)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        [float(row["standard_deviation"]) for row in rows], images.std(axis=(1, 2, 3)), rtol=1e-4
    )


def test_curves_have_a_row_for_each_kept_checkpoint(made: Path) -> None:
    for name, runs in (("simple-against-full", 2), ("embedding", 2), ("losses", 3)):
        rows = table(made / "figures" / f"{name}.csv")
        kept = RECIPES["full"].kept
        assert [int(row["step"]) for row in rows] == [2 * (i + 1) for i in range(kept)] * runs
        assert len({row["run"] for row in rows}) == runs
        assert all(0 < float(row["test_loss"]) < 2 and float(row["seconds"]) > 0 for row in rows)
    # One run in all three
    same = [
        [row["test_loss"] for row in table(made / "figures" / f"{name}.csv")[: RECIPES["full"].kept]]
        for name in ("simple-against-full", "embedding", "losses")
    ]
    assert same[0] == same[1] == same[2]


def test_scores_of_guided_samples_are_those_of_their_quality(made: Path) -> None:
    rows = table(made / "figures" / "guidance.csv")
    assert [float(row["scale"]) for row in rows] == list(SCALES)
    kept = (made / "runs" / "quick-digits" / "mnist" / "drawn").glob("*_80-in-10_guidance-2.0_*.npz")
    images = load_samples(next(kept)).images
    train, test = data.load("digits"), data.load("digits", split="test")
    found = quality(classifier_for(train), images, train, test, np.arange(80) % 10)
    row = rows[SCALES.index(2.0)]
    assert float(row["frechet"]) == pytest.approx(found.samples.frechet, rel=1e-3)
    assert float(row["real_frechet"]) == pytest.approx(found.real.frechet, rel=1e-3)
    assert float(row["precision"]) == pytest.approx(found.samples.precision, abs=0.02)
    assert float(row["recall"]) == pytest.approx(found.samples.recall, abs=0.02)
    assert float(row["accuracy"]) == pytest.approx(found.sample_shares.accuracy, abs=0.02)


def test_every_sampler_is_measured_in_every_number_of_steps(made: Path) -> None:
    rows = table(made / "figures" / "samplers.csv")
    assert [(row["run"], int(row["steps"]), row["sampler"]) for row in rows] == [
        (run, steps, name) for run in ("mnist", "fashion-mnist") for steps in (5, 10, 20) for name in SOLVERS
    ]
    assert len({row["real_frechet"] for row in rows}) == 1  # digits, in place of both
    assert all(float(row["frechet"]) > 0 and row["images"] == "80" for row in rows)


def test_steps_and_samplers_are_those_of_the_full_form() -> None:
    assert list(SAMPLER_STEPS) == [5, 10, 20, 50, 100, 250, 1000]
    assert {*SOLVERS, "euler"} == SAMPLERS.keys()
    for steps, names in SAMPLER_STEPS.items():
        assert {*names} <= {*SOLVERS}
        assert names == SOLVERS or steps > 100


def test_the_terms_of_the_bound_add_up_above_the_floors(made: Path) -> None:
    rows = table(made / "figures" / "likelihood.csv")
    terms = [row for row in rows if row["part"] in ("decoder", "between")]
    assert [row["part"] for row in rows] == [
        "decoder", *["between"] * (len(terms) - 1), "prior", "floor of linear", "floor of cosine"
    ]  # fmt: skip
    assert terms[0]["last_step"] == "1"
    assert terms[-1]["last_step"] == "1000"
    for before, after in pairwise(terms):
        assert int(after["first_step"]) == int(before["last_step"]) + 1
    prior, linear, cosine = (float(row["bits_so_far"]) for row in rows[len(terms) :])
    each, sizes = (
        np.array([float(row["bits_each"]) for row in terms]),
        [int(row["last_step"]) - int(row["first_step"]) + 1 for row in terms],
    )
    np.testing.assert_allclose([float(row["bits_so_far"]) for row in terms], prior + np.cumsum(each * sizes), rtol=1e-4)
    assert 0 < prior < cosine < linear
    assert float(terms[-1]["bits_so_far"]) > cosine
    test = data.load("digits", split="test")
    x0 = data.to_unit(test.take(np.arange(16) * len(test) // 16).images)
    assert cosine == pytest.approx(floor_of(Diffusion(Schedule.cosine(1000)), x0), rel=1e-5)


def test_solvers_converge_as_the_figure_says(made: Path) -> None:
    rows = table(made / "figures" / "convergence.csv")
    assert {row["sampler"] for row in rows} == ORDERS.keys()
    for name in ORDERS:
        errors = [float(row["error"]) for row in rows if row["sampler"] == name]
        assert errors == sorted(errors, reverse=True)


def test_a_slope_is_an_order() -> None:
    assert slope([Measurement("one", n, n, 3.0 / n**2) for n in (10, 20, 40, 80)]) == pytest.approx(2)


def test_figures_of_the_same_runs_train_nothing_again(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (made / "runs").rglob("*.safetensors")}
    printed = draw(made, "losses", "losses")
    assert "training" not in printed
    assert printed.count("wrote") == 2  # the plate and the index
    assert {path: path.stat().st_mtime_ns for path in (made / "runs").rglob("*.safetensors")} == before


def test_what_is_drawn_again_is_the_same(made: Path) -> None:
    names = ("destruction", "unet", "linear-against-cosine", "fashion-linear")
    before = {path: path.read_bytes() for name in names for path in plates(made, name)}
    draw(made, *names)
    assert {path: path.read_bytes() for path in before} == before


def test_a_partial_run_is_gone_on_with(made: Path, tmp_path: Path) -> None:
    draw(tmp_path, "fashion-linear")
    folder = tmp_path / "runs" / "quick-digits" / "fashion-linear"
    finished = {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}
    for path in sorted((folder / "checkpoints").iterdir())[-2:]:
        path.unlink()
    for path in (folder / "drawn").iterdir():
        path.unlink()
    picture = (tmp_path / "figures" / "fashion-linear.png").read_bytes()
    with tiny_recipes():
        listed = succeed("figures", "fashion-linear", "--list", "--quick", "--runs", tmp_path / "runs")
    assert "at step 6 of 10" in listed
    assert f"resuming {folder} at step 6" in draw(tmp_path, "fashion-linear")
    assert {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()} == finished
    assert (tmp_path / "figures" / "fashion-linear.png").read_bytes() == picture


def test_a_run_that_was_made_longer_is_used_as_it_is(made: Path, tmp_path: Path) -> None:
    draw(tmp_path, "fashion-linear")
    folder = tmp_path / "runs" / "quick-digits" / "fashion-linear"
    succeed("train", "--resume", folder, "--steps", "12", "--samples", "0", "--backend", "numpy")
    before = (tmp_path / "figures" / "fashion-linear.csv").read_bytes()
    assert "training" not in draw(tmp_path, "fashion-linear")
    assert (tmp_path / "figures" / "fashion-linear.csv").read_bytes() == before


def test_samples_that_were_interrupted_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states, drawn = Drawing.states, []

    def stopping(self: Drawing, first: int, n: int) -> Any:
        if self.guidance == 2 and first > 0 and not drawn.count(None):
            drawn.append(None)
            raise InputError("stopped")
        drawn.append((self.guidance, first))
        return states(self, first, n)

    monkeypatch.setattr(Drawing, "states", stopping)
    places = ("-o", tmp_path / "figures", "--runs", tmp_path / "runs", "--backend", "numpy")
    assert refused("guidance", "--quick", *places) == "error: stopped"
    before, drawn[:] = drawn.index(None), [None]
    assert before == 2 * SCALES.index(2.0) + 1
    draw(tmp_path, "guidance")
    left = SCALES[SCALES.index(2.0) + 1 :]
    assert drawn == [None, (2.0, 64), *((scale, first) for scale in left for first in (0, 64))]


def test_two_may_draw_into_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fork: Callable[..., Any]
) -> None:
    """The other process has it only while it writes; for longer, it is told of."""
    folder = tmp_path / "figures"
    process = fork(hold_for, folder, 1.0)
    while not (folder / LOCK).exists():
        time.sleep(0.01)
    assert "wrote" in draw(tmp_path, "destruction")
    process.join(60)
    monkeypatch.setattr(import_module("tinyddpm.cli.figures"), "PATIENCE", 0.0)
    process = fork(hold_for, folder, 60.0)
    while not (folder / LOCK).exists():
        time.sleep(0.01)
    assert f"{folder} is in use: process {process.pid}" in refused("destruction", "--quick", "-o", folder)
    process.kill()


def hold_for(folder: Path, seconds: float) -> None:
    with hold(folder):
        time.sleep(seconds)


def refused(*words: object) -> str:
    """The one line with which a command is refused."""
    with tiny_recipes():
        result = invoke("figures", *words)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    return line


def test_a_checkpoint_that_was_not_kept_is_missed_by_name(tmp_path: Path) -> None:
    draw(tmp_path, "fashion-linear")
    folder = tmp_path / "runs" / "quick-digits" / "fashion-linear"
    succeed("train", "--resume", folder, "--steps", "12", "--samples", "0", "--backend", "numpy")
    (folder / "checkpoints" / "step-00000010.safetensors").unlink()
    before = (tmp_path / "figures" / "figures.md").read_bytes()
    line = refused("fashion-linear", "--quick", "-o", tmp_path / "figures", "--runs", tmp_path / "runs")
    assert f"{folder} has no checkpoint of step 10 (only 0, 2, 4, 6, 8, 12)" in line
    assert (tmp_path / "figures" / "figures.md").read_bytes() == before


def test_a_run_of_other_data_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path, "fashion-linear")
    digits = data.load("digits")
    monkeypatch.setattr(data, "load", lambda *_, **__: digits)
    quick = tmp_path / "runs" / "quick-digits"
    quick.rename(tmp_path / "runs" / "full")
    line = refused("fashion-linear", "-o", tmp_path / "other", "--runs", tmp_path / "runs" / "full")
    assert "is a run on digits, not fashion-mnist; choose another --runs" in line
    assert not (tmp_path / "other").exists()


def test_nor_is_a_run_of_other_options(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "quick-digits" / "mnist"
    with tiny_recipes():
        words = RECIPES["mnist"].arguments(quick=True, stand_in=True)
    words[words.index("learned")] = "fixed_small"
    succeed("train", *words, "--out", folder, "--samples", 0, "--backend", "numpy")
    line = refused("likelihood", "--quick", "-o", tmp_path / "other", "--runs", tmp_path / "runs")
    assert f"{folder} is a run with model.learned_variance False, not True; choose another --runs, or move it" in line
    assert not (tmp_path / "other").exists()


def test_a_run_that_was_trained_apart_is_used_as_it_is(tmp_path: Path) -> None:
    """Kept, looked at and made longer in other ways than the recipe's."""
    folder = tmp_path / "runs" / "quick-digits" / "mnist"
    with tiny_recipes():
        words = RECIPES["mnist"].arguments(quick=True, stand_in=True)
    more = ("--validate-every", 1, "--checkpoint-every", 1, "--out", folder, "--samples", 0, "--backend", "numpy")
    succeed("train", *words, *more, "--steps", 1)
    succeed("train", "--resume", folder, "--steps", 2, "--samples", 0, "--backend", "numpy")
    before = {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    assert "training" not in draw(tmp_path, "likelihood")
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "figure must be one of schedules, "),
        (["schedules", "nothing"], "got 'nothing'"),
        (["schedules", "--all"], "--all and names exclude each other; leave out schedules, or --all"),
        ([], "give names of figures, or --all; there are schedules, "),
    ],
)
def test_bad_names_are_one_line(tmp_path: Path, words: list[str], said: str) -> None:
    assert said in refused(*words, "-o", tmp_path / "figures")
    assert not (tmp_path / "figures").exists()


def test_missing_data_are_told_before_anything_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str, **_: object) -> None:
        if name == "stanford-cars":
            raise MissingDataError("fetch the cars")

    monkeypatch.setattr(data, "load", nothing)
    places = ("-o", tmp_path / "figures", "--runs", tmp_path / "runs")
    assert refused("linear-against-cosine", "cars-128", *places) == "error: fetch the cars"
    assert not any(tmp_path.iterdir())


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "figures").write_text("mine")
    assert "it is a file; give the name of a folder" in refused("schedules", "-o", tmp_path / "figures")
    assert (tmp_path / "figures").read_text() == "mine"


def test_the_list_has_every_figure_and_trains_nothing(tmp_path: Path) -> None:
    printed = succeed("figures", "--list", "--runs", tmp_path / "runs")
    assert [line.split()[0] for line in printed.splitlines() if not line.startswith(" ")] == [*FIGURES]
    assert f"run {tmp_path / 'runs' / 'mnist-cosine'}: not trained yet, about 15 min on two cores in all" in printed
    assert not (tmp_path / "runs").exists()


def test_a_figure_that_fails_leaves_those_before_it_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(workshop: object) -> None:
        raise InputError("no such luck")

    monkeypatch.setitem(FIGURES, "unet", FIGURES["unet"]._replace(draw=fail))  # type: ignore[arg-type]
    assert "no such luck" in refused("destruction", "unet", "--quick", "-o", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["destruction.csv", "destruction.png", "destruction.txt"]
