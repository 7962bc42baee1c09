"""Commands in README and in the page on quality run, in their order: as written but for sizes, and for data sets that
are not here."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tinyddpm.figures.test_recipes import config_of
from tests.tinyddpm.tiny_runs import QUICK, succeed
from tinyddpm.figures.recipes import recipe
from tinyddpm.generation.sample_file import load_samples

ROOT = Path(__file__).parents[3]
README, QUALITY = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "benchmarks/results/quality.md"))
NETWORK = ["--base-channels", "4", "--channel-mults", "1,2", "--groups", "2", "--num-heads", "2"]
# What is added to each: options that come later win
SHORT = {
    "doctor": [*NETWORK, "--backend", "numpy", "--batch-size", "4", "--steps", "20"],
    "train": [*NETWORK, *QUICK, "--steps", "2"],
    "sample": ["-n", "2", "--steps", "2", "--backend", "numpy"],
    "evaluate": ["-n", "2", "--steps", "2", "--levels", "2", "--backend", "numpy"],
    "export": [],
    "report": ["-n", "2", "--steps", "2", "--backend", "numpy"],
    "pack": ["-n", "2", "--steps", "2", "--backend", "numpy"],
}


def commands(text: str) -> list[list[str]]:
    """Those in a page's blocks first, as the others go on with what they leave; each once."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    blocks = [line for language, block in fenced if not language for line in block.splitlines()]
    found = []
    for line in [part for whole in blocks + re.findall(r"`([^`\n]+)`", text) for part in whole.split("&&")]:
        if match := re.fullmatch(r"(?:\S*/)?tinyddpm (\w.*)", line.strip()):
            words = shlex.split(match[1])
            if words[0] in SHORT and words not in found:
                found.append(words)
    return found


def short(words: list[str], pictures: Path) -> list[str]:
    """A command on digits and a few pictures, with a tiny network and few steps."""
    name, *rest = words
    if "--resume" in rest:
        return [name, *rest, "--steps", "3", "--backend", "numpy"]
    if "--samples" in rest:
        return [name, *rest, "--levels", "2", "--bits-images", "2", "--bits-terms", "2", "--backend", "numpy"]
    digits, folders = ("mnist", "fashion-mnist"), ("stanford-cars", "FOLDER")
    for data, place in [(name, "digits") for name in digits] + [(name, str(pictures)) for name in folders]:
        if data in rest and rest[rest.index(data) - 1] == "--data":
            rest[rest.index(data)] = place
    rest = ["runs/mnist" if word == "RUN" else word for word in rest]
    rest = [word if word != "FOLDER" else f"exported-{len(rest)}" for word in rest]
    return [name, *rest, *SHORT[name]]


def test_commands_of_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    pictures = tmp_path / "pictures"
    for i in range(30):
        path = pictures / f"class {i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    ran = commands(README)
    assert len(ran) >= 11
    assert {words[0] for words in ran} == {*SHORT}
    for words in ran:
        succeed(*short(words, pictures))
    left = {path.as_posix() for path in Path().iterdir()}
    assert left >= {"runs", "grid.png", "sevens.gif", "samples.png", "exported-2", "exported-4"}
    assert sorted(path.name for path in Path("runs").iterdir()) == ["cars", "digits", "mnist", "pictures"]


def test_commands_of_the_page_on_quality_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = [words for words in commands(QUALITY) if "RUN" not in words]
    assert [words[0] for words in ran] == 2 * (["train"] + 3 * ["sample"] + 3 * ["evaluate"])
    for words in ran:
        small = ["--image-size", "8", "--attention-resolutions="] if words[0] == "train" else []
        succeed(*short(words, tmp_path), *small)
    for run in ("mnist", "fashion-mnist"):
        asked = {name: load_samples(f"runs/{run}-{name}.npz").labels for name in ("no-labels", "guidance-2")}
        assert asked["no-labels"] is None
        assert asked["guidance-2"] is not None
        assert (Path("runs") / run / "evaluation.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_page_on_quality_trains_by_the_recipes(name: str, data_dir: Path) -> None:
    (words,) = [words for words in commands(QUALITY) if words[0] == "train" and f"runs/{name}" in words]
    assert config_of([*words[1:], "--data-dir", str(data_dir)]) == config_of(
        [*recipe(name).arguments(quick=False), "--data-dir", str(data_dir)]
    )
