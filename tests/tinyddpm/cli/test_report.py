"""`tinyddpm report`: one page of any run, sound HTML that loads nothing and says what the run's files say."""

import base64
import io
import json
import re
import shlex
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import backends
from tests.tinyddpm.tiny_runs import QUICK, SIMPLE_OPTIONS, UNET_OPTIONS, invoke, rows, succeed, tree
from tinyddpm.cli import main
from tinyddpm.errors import InputError
from tinyddpm.evaluation import kept
from tinyddpm.generation.images import draw
from tinyddpm.locks import hold
from tinyddpm.reporting import environment
from tinyddpm.training.run_folder import checkpoints, open_checkpoint, read_config

html5lib = pytest.importorskip("html5lib", reason="html5lib is not installed; run: pip install -e '.[test]'")

NUMPY = backends.get("numpy")
BRIEF = ["--backend", "numpy", "--steps", "4"]
HTML = "{http://www.w3.org/1999/xhtml}"
# What may name another place: attributes, and the ways of style sheets and scripts
ADDRESSES = ("src", "href", "srcset", "action", "data", "poster", "formaction", "background")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with classes and held-out images, measured with everything there is."""
    folder = tmp_path_factory.mktemp("runs") / "labelled"
    succeed("train", *UNET_OPTIONS, *QUICK, "--steps", 30, "--validate-every", 10, "--out", folder)
    measure = ["-n", 100, "--steps", 2, "--levels", 3, "--bits", "--bits-images", 4, "--bits-terms", 6]
    succeed("evaluate", folder, *measure, "--backend", "numpy")
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without classes, held-out images or measurements."""
    folder = tmp_path_factory.mktemp("runs") / "plain"
    succeed("train", *SIMPLE_OPTIONS, *QUICK, "--steps", 3, "--out", folder)
    return folder


@pytest.fixture
def copied(plain: Path, tmp_path: Path) -> Path:
    """The plain run in a folder of its own, to be damaged."""
    return Path(shutil.copytree(plain, tmp_path / "copied"))


def page_of(run: Path, *options: object) -> str:
    """The page, whose HTML must be sound and load nothing."""
    output = run.parent / f"{run.name}.html"
    assert succeed("report", run, "-o", output, *BRIEF, *options).startswith(f"wrote {output}, 0.")
    text = output.read_text(encoding="utf-8")
    check_loads_nothing(sound(text))
    return text


def sound(text: str) -> Any:
    """The tree of a page without a single error of HTML."""
    return html5lib.HTMLParser(strict=True).parse(text)


def check_loads_nothing(tree: Any) -> None:
    """No attribute, style or script of the page names another place."""
    for element in tree.iter():
        for name, value in element.attrib.items():
            if name in ADDRESSES:
                assert value.startswith(("data:", "#")), (element.tag, name, value)
            assert not re.search(r"url\((?!data:image/png;base64,[\w+/=]+\))", value), (element.tag, name)
        if element.tag in (HTML + "style", HTML + "script"):
            assert not re.search(r"https?:|//\w|url\(|@import|import\(|fetch\(|XMLHttp|WebSocket", element.text or "")


def texts(tree: Any, tag: str) -> list[str]:
    """The texts of all elements of that tag."""
    return [" ".join("".join(found.itertext()).split()) for found in tree.iter(HTML + tag)]


def values(text: str) -> list[dict[str, Any]]:
    """What the page's script shows of curves."""
    (found,) = re.findall(r'<script type="application/json" id="values">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


class TestContent:
    def test_it_says_what_the_files_say(self, labelled: Path) -> None:
        text = page_of(labelled)
        loss, norm, rate, levels, bits = values(text)
        logged = rows(labelled)
        by_name = {line["name"]: line for line in loss["lines"]}
        assert by_name["loss of a step"]["x"] == [row["step"] for row in logged]
        assert by_name["loss of a step"]["y"] == [row["loss"] for row in logged]
        looks = [row for row in logged if "validation_loss" in row]
        assert by_name["held-out images"]["y"] == [row["validation_loss"] for row in looks]
        assert by_name["held-out images, averaged weights"]["y"] == [row["validation_loss_ema"] for row in looks]
        assert norm["lines"][0]["y"] == [row["grad_norm"] for row in logged]
        assert rate["lines"][0]["y"] == [row["lr"] for row in logged]
        found = json.loads((labelled / "evaluation.json").read_text())
        assert levels["lines"][0]["y"] == [row["loss"] for row in found["levels"]]
        assert bits["lines"][0]["y"] == [row["bits"] for row in found["bits"]["ledger"]]
        terms = list(zip(texts(sound(text), "dt"), texts(sound(text), "dd"), strict=True))
        assert ("loss", f"{np.mean([row['loss'] for row in logged]):.4f} (mean of 30 steps)") in terms
        assert ("total", f"{found['bits']['total']:.4f}") in terms
        assert f"{found['quality']['samples']['precision']:.3f}" in texts(sound(text), "td")
        assert "30 of 30 steps" in texts(sound(text), "dd")

    def test_samples_are_those_of_the_command(self, labelled: Path) -> None:
        tree = sound(page_of(labelled, "-n", 12))
        images, frames = draw(open_checkpoint(labelled, NUMPY), 12, 4)
        pictures = [element for element in tree.iter(HTML + "img") if element.attrib["alt"].startswith("sample")]
        assert [element.attrib["alt"] for element in pictures[:12]] == [f"sample {i + 1}, {i % 10}" for i in range(12)]
        for element, image in zip(pictures, images, strict=False):
            np.testing.assert_array_equal(pixels(element.attrib["src"]), image[..., 0])
        strips = [e.attrib["style"] for e in tree.iter(HTML + "span") if e.attrib.get("class") == "strip"]
        assert len(strips) == 12
        address = re.findall(r"url\((.*?)\)", strips[3])[0]
        np.testing.assert_array_equal(pixels(address), np.concatenate([frame[3, ..., 0] for frame in frames], axis=1))

    def test_for_all_readers(self, labelled: Path) -> None:
        tree = sound(page_of(labelled))
        headings = [int(e.tag[-1]) for e in tree.iter() if re.fullmatch(re.escape(HTML) + "h[1-6]", str(e.tag))]
        assert headings[0] == 1
        assert headings.count(1) == 1
        assert all(b <= a + 1 for a, b in pairwise(headings))
        identifiers = [element.attrib["id"] for element in tree.iter() if "id" in element.attrib]
        assert len(identifiers) == len(set(identifiers))
        for element in tree.iter():
            for name in ("aria-labelledby", "for"):
                assert element.attrib.get(name, identifiers[0]) in identifiers
            if element.attrib.get("href", "").startswith("#"):
                assert element.attrib["href"][1:] in identifiers
            if element.tag == HTML + "img":
                assert element.attrib["alt"]
                assert {"width", "height"} <= element.attrib.keys()
            if element.attrib.get("role") in ("img", "group"):
                assert element.attrib["aria-label"]

    def test_the_command_repeats_the_run(self, labelled: Path, plain: Path, tmp_path: Path) -> None:
        for run in (labelled, plain):
            (command,) = texts(sound(page_of(run)), "pre")
            words = shlex.split(command)
            assert words[:2] == ["tinyddpm", "train"]
            again = tmp_path / run.name
            succeed(*words[1:], "--samples", 0, "--backend", "numpy", "--out", again)
            assert read_config(again) == read_config(run)
            assert rows(again) == rows(run)

    def test_where_it_was_trained(self, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        go_on = ["train", "--resume", copied, "--samples", 0, "--backend", "numpy"]
        succeed(*go_on, "--steps", 4)
        monkeypatch.setattr(environment, "processor", lambda: "another <one>")
        succeed(*go_on, "--steps", 5)
        lines = [json.loads(line) for line in (copied / "environment.jsonl").read_text().splitlines()]
        noted = [line for line in lines if "from_step" in line]
        assert [line["from_step"] for line in noted] == [0, 4]
        assert noted[1]["processor"].endswith(" × another <one>")
        shown = texts(sound(page_of(copied)), "dd")
        for key, value in (item for line in noted for item in line.items()):
            assert " ".join(str(value).split()) in shown, key


class TestAnyRun:
    def test_without_much(self, plain: Path) -> None:
        text = page_of(plain)
        assert "Nothing was measured yet" in text
        assert len(values(text)) == 3
        assert [line["name"] for line in values(text)[0]["lines"]] == ["loss of a step"]
        assert "figcaption>0<" not in text

    def test_the_default_place_while_another_process_writes_there(self, copied: Path) -> None:
        with hold(copied):
            assert succeed("report", copied, *BRIEF).startswith(f"wrote {copied}/report.html, 0.")
        assert not [name for name in tree(copied) if "partial" in name]

    def test_what_cannot_be_kept_is_printed_all_the_same(self, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(folder: Path) -> None:
            raise InputError(f"{folder} is in use")

        monkeypatch.setattr(kept, "hold", refuse)
        result = invoke("evaluate", plain, "-n", 2, "--steps", 2, "--levels", 2, "--backend", "numpy")
        assert result.exit_code == 0
        assert "test loss" in result.stdout
        assert f"note: not kept for `tinyddpm report`: {plain} is in use\n" in result.stderr
        assert not (plain / "evaluation.json").exists()

    def test_stopped_halfway(self, copied: Path) -> None:
        config = json.loads((copied / "config.json").read_text())
        config["training"]["steps"] = 2000
        (copied / "config.json").write_text(json.dumps(config))
        with open(copied / "metrics.jsonl", "a") as file:
            file.write('{"step": 4, "loss": 0.')
        text = page_of(copied)
        assert "3 of 2,000 steps, not finished" in text
        assert values(text)[0]["lines"][0]["x"] == [1, 2, 3]

    def test_without_a_step_a_checkpoint_or_data(self, copied: Path) -> None:
        (copied / "metrics.jsonl").unlink()
        (copied / "environment.jsonl").write_text("cut sho")
        text = page_of(copied, "--data", "no such folder")
        assert "No step was logged." in text
        assert "Not noted" in text
        assert re.search("Not shown: .*no such folder", text)
        for _, path in checkpoints(copied):
            path.write_bytes(b"damaged")
        text = page_of(copied)
        assert text.count("is damaged") == 3
        for _, path in checkpoints(copied):
            path.unlink()
        assert page_of(copied).count("no checkpoint in") == 3

    def test_of_another_version(self, copied: Path) -> None:
        config = json.loads((copied / "config.json").read_text())
        older = {key: value for key, value in config.items() if key not in ("validate_every", "init")}
        (copied / "config.json").write_text(json.dumps(older))
        (copied / "evaluation.json").write_text('{"mean_loss": 3}')
        assert "Nothing was measured yet" in page_of(copied)
        (copied / "config.json").write_text(json.dumps(config | {"model": {"kind": "Later", "config": {}}}))
        result = invoke("report", copied, *BRIEF)
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
        assert "config.json cannot be used" in result.stderr

    @pytest.mark.parametrize(
        "name", ["<b>&amp;\"'", "</script><script>x", "a\x1b\x7fb", "{{ 7 * 7 }}", "b\udcff写真", "$x$ %s"]
    )
    def test_any_name(self, tmp_path: Path, name: str) -> None:
        photos = tmp_path / name.replace("/", "⁄")
        for i in range(8):
            path = photos / f"{'ab'[i % 2]}<i>&" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as file:
                Image.new("L", (8, 8), 30 * i).save(file, "PNG")
        run = tmp_path / "run"
        network = [*UNET_OPTIONS, *QUICK, "--image-size", 8]
        succeed("train", *network, "--data", photos, "--steps", 1, "--out", run)
        text = page_of(run)
        tree = sound(text)
        assert "a<i>&" in [caption.strip() for caption in texts(tree, "figcaption")]
        assert {element.tag for element in tree.iter()}.isdisjoint({HTML + "b", HTML + "i"})
        assert len(list(tree.iter(HTML + "script"))) == 2
        assert "49" not in texts(tree, "h1")[0]

    def test_a_packed_model(self, labelled: Path, tmp_path: Path) -> None:
        succeed("pack", labelled, tmp_path / "packed", "-n", 2, *BRIEF)
        text = page_of(tmp_path / "packed")
        assert "30 of 30 steps" in texts(sound(text), "dd")
        assert "No step was logged." in text

    def test_large_images_make_no_large_page(self, tmp_path: Path) -> None:
        for i in range(3):
            path = tmp_path / "photos" / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (256, 256, 3), np.uint8)).save(path)
        small = [*SIMPLE_OPTIONS, *QUICK, "--batch-size", 1, "--image-size", 256, "--steps", 1]
        succeed("train", *small, "--data", tmp_path / "photos", "--out", tmp_path / "run")
        succeed("report", tmp_path / "run", *BRIEF)
        assert (tmp_path / "run" / "report.html").stat().st_size < 8_000_000

    def test_what_cannot_be(self, plain: Path, tmp_path: Path) -> None:
        for options, reason in (
            (["-o", tmp_path / "a.png"], "use a name in .html"),
            (["-n", 0], "got 0"),
            (["--steps", 51], "in 1 … 50"),
            (["-o", tmp_path / "f.html" / "g.html"], "is a file"),
        ):
            (tmp_path / "f.html").write_text("")
            result = invoke("report", plain, "--backend", "numpy", *options)
            assert result.exit_code == 2, options
            assert reason in result.stderr
            assert result.stderr.count("\n") == 1
        assert "holds no run" in invoke("report", tmp_path, *BRIEF).stderr
        assert "report" in main.commands


def pixels(address: str) -> np.ndarray:
    """The picture that an address holds."""
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as picture:
        return np.asarray(picture)
