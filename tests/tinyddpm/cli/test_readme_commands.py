"""README's commands of `tinyddpm` run, in its order: as written but for sizes, and for data sets that are not here."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tinyddpm.tiny_runs import QUICK, succeed

README = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
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


def commands() -> list[list[str]]:
    """Those in blocks first, as the others go on with what they leave; each once."""
    blocks = [line for block in re.findall(r"```\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
    found = []
    for line in [part for whole in blocks + re.findall(r"`([^`\n]+)`", README) for part in whole.split("&&")]:
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
    for data, place in (("mnist", "digits"), ("stanford-cars", str(pictures)), ("FOLDER", str(pictures))):
        if data in rest and rest[rest.index(data) - 1] == "--data":
            rest[rest.index(data)] = place
    rest = ["runs/mnist" if word == "RUN" else word for word in rest]
    rest = [word if word != "FOLDER" else f"exported-{len(rest)}" for word in rest]
    return [name, *rest, *SHORT[name]]


def test_commands_of_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pictures = tmp_path / "pictures"
    for i in range(30):
        path = pictures / f"class {i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    ran = commands()
    assert len(ran) >= 11
    assert {words[0] for words in ran} == {*SHORT}
    for words in ran:
        succeed(*short(words, pictures))
    left = {path.as_posix() for path in Path().iterdir()}
    assert left >= {"runs", "grid.png", "sevens.gif", "samples.png", "exported-2", "exported-4"}
    assert sorted(path.name for path in Path("runs").iterdir()) == ["cars", "digits", "mnist", "pictures"]
