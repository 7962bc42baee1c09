"""Everything that can be given wrongly: one line that says what and what to do, exit code 2, no file touched."""

import gzip
import json
import os
import pickle
import re
import shlex
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import pytest
from PIL import Image
from safetensors.numpy import save as safetensors_bytes

import backends
from tests.tinyddpm.tiny_runs import QUICK, SIMPLE_OPTIONS, UNET_OPTIONS, beside_notice, invoke, succeed, tree
from tinyddpm.cli import main
from tinyddpm.training.run_folder import checkpoints, last_checkpoint

# Commands that would succeed but for what the table adds to them
TRAIN = shlex.join(["train", *SIMPLE_OPTIONS, *QUICK, "--steps", "1"])
FULL = shlex.join(["train", *UNET_OPTIONS, *QUICK, "--steps", "1"])
SAMPLE = "sample plain --backend numpy -n 1 --steps 2"

# The command, what of it the line must repeat, and the word that helps
TABLE = [
    # Numbers that are none, or outside their range
    (f"{TRAIN} --steps 0", "got 0", "in 1 …"),
    (f"{TRAIN} --steps -5", "got -5", "in 1 …"),
    (f"{TRAIN} --steps 2.5", "'2.5'", "valid integer"),
    (f"{TRAIN} --steps 99999999999", "got 99999999999", "in 1 … 4294967295"),
    (f"{TRAIN} --batch-size 0", "got 0", "at least 1"),
    (f"{TRAIN} --batch-size -1", "got -1", "at least 1"),
    (f"{TRAIN} --batch-size abc", "'abc'", "valid integer"),
    (f"{TRAIN} --accumulate 0", "got 0", "at least 1"),
    (f"{TRAIN} --lr nan", "got nan", "(0, 1]"),
    (f"{TRAIN} --lr inf", "got inf", "(0, 1]"),
    (f"{TRAIN} --lr -1", "got -1.0", "(0, 1]"),
    (f"{TRAIN} --lr 0", "got 0.0", "(0, 1]"),
    (f"{TRAIN} --lr fast", "'fast'", "valid float"),
    (f"{TRAIN} --warmup-steps -1", "got -1", "at least 0"),
    (f"{TRAIN} --weight-decay -0.1", "got -0.1", "[0, inf)"),
    (f"{TRAIN} --clip-norm nan", "got nan", "(0, inf]"),
    (f"{TRAIN} --ema-decay 1", "got 1.0", "[0, 1)"),
    (f"{TRAIN} --dropout 1", "got 1.0", "[0, 1)"),
    (f"{TRAIN} --seed -1", "got -1", "0 … 18446744073709551615"),
    (f"{TRAIN} --seed {2**64}", f"got {2**64}", "0 … 18446744073709551615"),
    (f"{TRAIN} --checkpoint-every 0", "got 0", "at least 1"),
    (f"{TRAIN} --keep-checkpoints 0", "got 0", "at least 1"),
    (f"{TRAIN} --samples -1", "--samples", "at least 0"),
    (f"{TRAIN} --sample-every -1", "--sample-every", "at least 0"),
    (f"{TRAIN} --sample-steps 0", "got 0", "in 1 … 50"),
    (f"{TRAIN} --sample-steps 51", "got 51", "in 1 … 50"),
    (f"{TRAIN} --epochs 1", "--epochs", "give one"),
    ("train --epochs nan", "got nan", "(0, 1e+09]"),
    ("train --epochs inf", "got inf", "(0, 1e+09]"),
    ("train --epochs 0", "got 0.0", "(0, 1e+09]"),
    ("train --epochs -1", "got -1.0", "(0, 1e+09]"),
    ("train --epochs 1 --batch-size 0", "got 0", "at least 1"),
    ("train --epochs 1 --accumulate 0", "got 0", "at least 1"),
    # Networks that cannot be built
    (f"{TRAIN} --image-size 28 --channel-mults 1,2,4,8", "28x28", "multiples of 8, such as 24 or 32"),
    (f"{TRAIN} --image-size 0", "0", "at least 1"),
    (f"{TRAIN} --image-size -8", "-8", "at least 1"),
    (f"{TRAIN} --channel-mults a,b", "'a,b'", "such as 1,2,4"),
    (f"{TRAIN} --channel-mults ''", "()", "at least one level"),
    (f"{TRAIN} --channel-mults 1,,2", "'1,,2'", "such as 1,2,4"),
    (f"{TRAIN} --channel-mults 1,0", "got 0", "at least 1"),
    (f"{TRAIN} --channel-mults 1,-2", "got -2", "at least 1"),
    (f"{TRAIN} --groups 3", "groups=3", "does not divide the 4 channels"),
    (f"{TRAIN} --groups 0", "got 0", "at least 1"),
    (f"{TRAIN} --base-channels 1", "got 1", "at least 2"),
    (f"{TRAIN} --num-heads 2", "--num-heads", "leave it out with --model simple"),
    (f"{TRAIN} --attention-resolutions 4", "--attention-resolutions", "leave it out with --model simple"),
    (f"{FULL} --num-heads 3", "num_heads=3", "does not divide"),
    (f"{FULL} --attention-resolutions 2", "names 2", "sides 8, 4"),
    (f"{FULL} --num-res-blocks 0", "got 0", "at least 1"),
    (f"{TRAIN} --model large", "'large'", "'full', 'simple'"),
    (f"{TRAIN} --time-embedding twice", "'twice'", "'resblock', 'input'"),
    # Diffusions that are none
    (f"{TRAIN} --timesteps 0", "got 0", "at least 1"),
    (f"{TRAIN} --timesteps 5 --schedule linear", "no linear schedule of 5 timesteps", "use more timesteps"),
    (f"{TRAIN} --schedule stairs", "'stairs'", "'linear', 'cosine'"),
    (f"{TRAIN} --prediction noise", "'noise'", "'eps', 'x0', 'v'"),
    (f"{TRAIN} --loss l3", "'l3'", "'mse', 'l1', 'huber'"),
    (f"{TRAIN} --variance unknown", "'unknown'", "'fixed_small', 'fixed_large', 'learned'"),
    # Data that is not there, or not what it should be
    (f"{TRAIN} --data mnits", "'mnits'", "did you mean mnist?"),
    (f"{TRAIN} --data missing/folder", "'missing/folder'", "path of a folder of images"),
    (f"{TRAIN} --data ''", "''", "path of a folder of images"),
    (f"{TRAIN} --data file.txt", "file.txt is a file", "give a folder of images"),
    (f"{TRAIN} --data empty", "empty", "png, jpg"),
    (f"{TRAIN} --data texts", "texts", "png, jpg"),
    (f"{TRAIN} --data lies --image-size 8", "lies", "png, jpg"),
    (f"{TRAIN} --data photos --image-size 8 --classes", "photos has none", "leave it out"),
    (f"{TRAIN} --data mnist --data-dir missing", "'missing'", "give the folder of the data sets"),
    (f"{TRAIN} --data mnist --data-dir sets", "train-images-idx3-ubyte.gz cannot be read to its end", "fetch it again"),
    (f"{TRAIN} --data fashion-mnist --data-dir sets", "lacks train-labels-idx1-ubyte.gz", "add it"),
    (f"{TRAIN} --data cifar10 --data-dir sets", "cifar-10-binary.tar.gz", "save to sets/cifar10"),
    (f"{TRAIN} --data stanford-cars", "stanford-cars", "data_dir"),
    # Places where a run cannot be
    (f"{TRAIN} --out plain", "plain already holds a run", "--resume plain"),
    (f"{TRAIN} --out file.txt", "file.txt is a file", "choose another --out"),
    (f"{TRAIN} --out file.txt/run", "file.txt", "check its path"),
    (f"{TRAIN} --data photos --image-size 8 --out photos/../photos", "is the folder of the images", "another --out"),
    (f"{TRAIN} --data gone --image-size 8", "gone is the folder of a training run", "give a folder of images"),
    (f"{TRAIN} --out remains", "remains holds what is left of a run", "choose another --out"),
    # Runs that cannot go on
    ("train --resume missing", "missing holds no run", "give the folder that --out named"),
    ("train --resume empty", "empty holds no run", "give the folder that --out named"),
    ("train --resume file.txt", "file.txt holds no run", "give the folder that --out named"),
    ("train --resume without-checkpoint", "without-checkpoint", "give a run folder"),
    ("train --resume broken-config", "broken-config/config.json is not valid JSON", "start a new run"),
    ("train --resume odd-config", "got 'many'", "put it back as it was"),
    ("train --resume other-config", "other-config/config.json", "put back the file that was changed"),
    ("train --resume cut", "cut/checkpoints/step-00000002.safetensors is damaged", "go back to step 0"),
    ("train --resume cut --steps 50", "cut/checkpoints/step-00000002.safetensors is damaged", "go back to step 0"),
    ("train --resume flipped", "does not match its digest", "use another checkpoint"),
    ("train --resume plain --batch-size 8", "--batch-size", "leave out"),
    ("train --resume plain --data mnist", "mnist was not found", "--data-dir"),
    ("train --resume plain --data missing", "missing'", "by --data or --data-dir"),
    (
        "train --resume plain --data photos",
        "the data changed: there are no classes any more, 3 images",
        "--accept-data",
    ),
    ("train --resume labelled --data photos --accept-data", "10 classes", "has no class labels"),
    (f"{TRAIN} --accept-data", "--accept-data", "--resume"),
    ("train --resume plain --grey", "--color", "leave out"),
    ("train --resume plain --model full", "--model", "leave out"),
    ("train --resume plain --epochs 3", "--epochs", "leave out"),
    ("train --resume plain --out other", "--out", "leave out"),
    ("train --resume plain --steps 1", "taken 2 steps", "at least that"),
    ("train --resume plain --steps 0", "got 0", "in 1 …"),
    ("train --resume plain --sample-steps 51", "got 51", "in 1 … 50"),
    # Samples that cannot be drawn
    (f"{SAMPLE} -n 0", "got 0", "at least 1"),
    (f"{SAMPLE} -n -5", "got -5", "at least 1"),
    (f"{SAMPLE} -n many", "'many'", "valid integer"),
    (f"{SAMPLE} --steps 0", "got 0", "1 … 50"),
    (f"{SAMPLE} --steps -3", "got -3", "1 … 50"),
    (f"{SAMPLE} --steps 1000000000", "got 1000000000", "1 … 50"),
    (f"{SAMPLE} --sampler ddim --eta -1", "got -1.0", "[0, inf)"),
    (f"{SAMPLE} --sampler ddim --eta nan", "got nan", "[0, inf)"),
    (f"{SAMPLE} --sampler ddpm --eta 0.5", "--eta 0.5", "--sampler ddim"),
    (f"{SAMPLE} --keep-eps", "--keep-eps", "--sampler ddim"),
    (f"{SAMPLE} --sampler heun --eta 0.5", "--eta 0.5", "--sampler ddim"),
    (f"{SAMPLE} --sampler plms", "'plms'", "'ddpm', 'ddim', 'euler', 'heun', 'dpm_solver', 'pndm'"),
    (f"{SAMPLE} --spacing wide", "'wide'", "'leading', 'trailing', 'linspace', 'karras'"),
    (f"{SAMPLE} --threshold 0", "threshold", "(0, 1], got 0.0"),
    (f"{SAMPLE} --threshold nan", "threshold", "(0, 1], got nan"),
    (f"{SAMPLE} --threshold 0.995 --no-clip", "threshold 0.995", "clip"),
    (f"{SAMPLE} --seed -1", "got -1", "0 … 18446744073709551615"),
    (f"{SAMPLE} --seed {2**64}", f"got {2**64}", "0 … 18446744073709551615"),
    (f"{SAMPLE} --label 3", "3 is not a label", "accepted: none"),
    (f"{SAMPLE} --guidance 3", "guidance 3.0", "train with labels"),
    (f"{SAMPLE} --guidance nan", "guidance nan", "train with labels"),
    ("sample labelled -n 1 --steps 2 --label 10", "10 is not a label", "0 … 9"),
    ("sample labelled -n 1 --steps 2 --label -1", "-1 is not a label", "0 … 9"),
    ("sample labelled -n 1 --steps 2 --guidance nan", "got nan", "(-inf, inf)"),
    ("sample labelled -n 1 --steps 2 --guidance inf", "got inf", "(-inf, inf)"),
    # Files that cannot be written
    (f"{SAMPLE} -o out.jpg", "out.jpg", ".png, .gif, .npy or .npz"),
    (f"{SAMPLE} -o file.txt/out.png", "file.txt is a file", "choose another place"),
    (f"{SAMPLE} -o file.txt/deep/folder", "file.txt is a file", "choose another place"),
    (f"{SAMPLE} -o folder.png", "folder.png: it is a folder", "give the name of a file"),
    (f"{SAMPLE} -o noname", "noname: it is a file", "give the name of a folder"),
    (f"{SAMPLE} -o {'x' * 300}.png", "xxx", "check its path"),
    # Checkpoints that are none
    ("sample", "'RUN'", "sample --help"),
    ("sample /missing", "/missing", "give a run folder, a packed model or a .safetensors file"),
    ("sample missing", "missing", "give a run folder, a packed model or a .safetensors file"),
    ("sample empty", "empty", "give a run folder, a packed model or a .safetensors file"),
    ("sample file.txt", "file.txt is damaged or no safetensors file", "use another"),
    ("sample nothing.safetensors", "nothing.safetensors is damaged or no safetensors file", "use another"),
    ("sample pickle.safetensors", "pickle.safetensors is damaged or no safetensors file", "use another"),
    ("sample foreign.safetensors", "no tinyddpm checkpoint", "use one that `save` wrote"),
    ("sample flipped", "flipped", "use another checkpoint"),
    ("sample cut", "cut/checkpoints/step-00000002.safetensors", "use another checkpoint"),
    ("sample without-checkpoint", "without-checkpoint", "give a run folder"),
    # The other commands
    ("evaluate", "'RUN'", "evaluate --help"),
    ("evaluate missing", "missing holds no run", "give the folder that --out named"),
    (
        "evaluate plain/checkpoints/step-00000002.safetensors",
        "step-00000002.safetensors holds no run",
        "give the folder",
    ),
    ("evaluate plain --steps 2000", "got 2000", "in 1 … 50"),
    ("evaluate plain --steps 0", "got 0", "in 1 … 50"),
    ("evaluate plain --levels 0", "got 0", "at least 1"),
    ("evaluate plain -n 0", "got 0", "at least 1"),
    ("evaluate plain --data-dir missing -n 0", "got 0", "at least 1"),
    ("evaluate few-photos", "too few for a test split", "at least 20"),
    ("evaluate gone", "/gone-photos'", "by --data or --data-dir"),
    ("evaluate plain --data missing", "/missing'", "by --data or --data-dir"),
    ("train --resume gone", "/gone-photos'", "by --data or --data-dir"),
    ("export plain", "'FOLDER'", "export --help"),
    ("export plain new", "SimpleUNet", "build a UNet"),
    ("export labelled plain", "plain already exists", "give a new one"),
    ("export labelled file.txt", "file.txt already exists", "give a new one"),
    ("export labelled file.txt/new", "file.txt", "check its path"),
    ("export labelled new --label 10", "--label 10", "0 … 9, or none"),
    ("export labelled new --label all", "'all'", "nor none"),
    ("export missing new", "missing", "give a run folder"),
    ("doctor --lr nan", "got nan", "(0, 1]"),
    ("doctor --data missing", "'missing'", "path of a folder of images"),
    ("doctor --timesteps 5 --schedule linear", "no linear schedule of 5 timesteps", "use more timesteps"),
    ("doctor extra", "(extra)", "doctor --help"),
    ("fly", "'fly'", "--help"),
    ("--fly", "--fly", "--help"),
    ("train --stepz 3", "--stepz", "train --help"),
    ("train --steps", "'--steps'", "--help"),
    ("train --backend tpu", "'tpu'", "'numpy', 'numba', 'cupy', 'auto'"),
]


def photos(folder: Path, count: int) -> None:
    folder.mkdir()
    for i in range(count):
        Image.new("L", (8, 8), 10 * i).save(folder / f"{i}.png")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sound runs and everything that can be wrong with one."""
    here = tmp_path_factory.mktemp("world")
    quick = [*QUICK, "--steps", 2]
    succeed("train", *SIMPLE_OPTIONS, *quick, "--out", here / "plain")
    succeed("train", *UNET_OPTIONS, *quick, "--out", here / "labelled")
    for name, count in (("photos", 3), ("few-photos-data", 3), ("gone-photos", 3)):
        photos(here / name, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        for name, source in (("few-photos", "few-photos-data"), ("gone", "gone-photos")):
            succeed("train", *SIMPLE_OPTIONS, *quick, "--data", source, "--image-size", 8, "--out", name)
    shutil.rmtree(here / "gone-photos")
    for name in ("without-checkpoint", "broken-config", "odd-config", "other-config", "cut", "flipped", "remains"):
        shutil.copytree(here / "plain", here / name)
    shutil.rmtree(here / "without-checkpoint" / "checkpoints")
    (here / "broken-config" / "config.json").write_text('{"data": {')
    (here / "remains" / "config.json").unlink()
    for name, value in (("odd-config", "many"), ("other-config", 8)):
        config = json.loads((here / name / "config.json").read_text())
        if name == "odd-config":
            config["training"]["steps"] = value
        else:
            config["model"]["config"]["base_channels"] = value
        (here / name / "config.json").write_text(json.dumps(config))
    cut, flipped = last_checkpoint(here / "cut"), last_checkpoint(here / "flipped")
    cut.write_bytes(cut.read_bytes()[:-100])
    content = bytearray(flipped.read_bytes())
    content[-50] ^= 4
    flipped.write_bytes(content)
    checkpoints(here / "flipped")[0][1].unlink()

    for name in ("empty", "texts", "lies", "folder.png", "sets/mnist", "sets/fashion-mnist"):
        (here / name).mkdir(parents=True)
    (here / "texts" / "poem.txt").write_text("no picture")
    (here / "lies" / "image.png").write_bytes(b"no picture")
    for name in ("file.txt", "noname", "nothing.safetensors"):
        (here / name).write_bytes(b"" if name == "nothing.safetensors" else b"some text\n")
    (here / "pickle.safetensors").write_bytes(pickle.dumps({"weights": [1.0]}))
    (here / "foreign.safetensors").write_bytes(safetensors_bytes({"weight": np.ones(3, np.float32)}))
    header = struct.pack(">4B3I", 0, 0, 8, 3, 60_000, 28, 28)
    packed = gzip.compress(header + np.random.default_rng(0).bytes(10_000))
    for part in ("images-idx3", "labels-idx1"):
        (here / "sets" / "mnist" / f"train-{part}-ubyte.gz").write_bytes(packed[: len(packed) // 2])
    (here / "sets" / "fashion-mnist" / "train-images-idx3-ubyte.gz").write_bytes(packed)
    return here


@pytest.fixture
def world(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it as the current directory, and no network."""
    here = tmp_path / "world"
    shutil.copytree(made, here)
    monkeypatch.chdir(here)
    monkeypatch.delenv("TINYDDPM_DATA", raising=False)

    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("Network is unreachable")

    monkeypatch.setattr(pooch, "retrieve", offline)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    return here


def assert_one_line(result: Any, code: int = 2) -> str:
    """The only line on stderr, `error: …`."""
    assert result.exit_code == code, result.output
    assert result.stderr.endswith("\n")
    (line,) = beside_notice(result.stderr).splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in result.output
    return line


def unknown_names(line: str, command: str) -> set[str]:
    """What a message says as an option, or as an argument with an underscore, that the command does not have."""
    named = main.commands.get(command)
    options = {name for option in (named.params if named else []) for name in (*option.opts, *option.secondary_opts)}
    others = {"--help", "--resume", "--out", "--classes"} if command != "train" else {"--help"}
    # The user's own words are repeated
    advice = re.sub(r"(?<=[' ])[\w./-]*(?:/|\.\w)[\w./-]*|got .*?;|'\w+'|--fly|--stepz", "", line)
    said = {f"--{name}" for name in re.findall(r"(?<![\w-])--([a-z][a-z-]*)", advice)}
    fields = {f"--{name.replace('_', '-')}" for name in re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", advice)}
    return (said - options - others) | (fields - every_option())


def every_option() -> set[str]:
    """The options of all commands, and what config.json has besides."""
    found = {name for command in main.commands.values() for option in command.params for name in option.opts}
    return found | {"--in-channels", "--num-classes", "--label-dropout"}


def brief(command: str) -> str:
    """The command without what it shares with others."""
    return command.replace(TRAIN, "TRAIN").replace(FULL, "FULL").replace(SAMPLE, "SAMPLE")[:70]


@pytest.mark.parametrize(("command", "value", "remedy"), TABLE, ids=[brief(row[0]) for row in TABLE])
def test_one_line_and_nothing_touched(world: Path, command: str, value: str, remedy: str) -> None:
    before = tree(world)
    result = invoke(*shlex.split(command))
    line = assert_one_line(result)
    assert value in line
    assert remedy in line
    assert unknown_names(line, shlex.split(command)[0]) == set()
    assert tree(world) == before
    if not command.startswith("doctor"):
        assert result.stdout == ""


def test_an_unknown_name_is_found() -> None:
    assert unknown_names("error: lower beta_end, batch_size or --lr", "train") == {"--beta-end"}
    assert unknown_names("error: no run in a_b/c_d.txt, got x_y; leave out --levels", "train") == {"--levels"}


def test_the_small_training_itself_is_sound(world: Path) -> None:
    """What the table's commands begin with works, so that each fails for what follows."""
    for command in (TRAIN, FULL, "train --resume plain --steps 3 --samples 0", SAMPLE):
        place = [] if "--resume" in command or command == SAMPLE else ["--out", f"out{len(command)}"]
        assert invoke(*shlex.split(command), *place).exit_code == 0
    assert len(TABLE) >= 60
    assert len({row[0] for row in TABLE}) == len(TABLE)


def test_images_of_several_sizes_are_brought_to_one(world: Path) -> None:
    Image.new("L", (9, 12)).save(world / "photos" / "large.png")
    command = shlex.split(TRAIN)
    assert invoke(*command, "--data", "photos", "--image-size", 8, "--out", "sized").exit_code == 0


def test_no_gpu(world: Path) -> None:
    reason = backends.available()["cupy"]
    if reason is None:
        pytest.skip("a GPU answers here")
    before = tree(world)
    for command in (f"{TRAIN} --backend cupy", f"{SAMPLE} --backend cupy", "evaluate plain --backend cupy"):
        line = assert_one_line(invoke(*shlex.split(command)))
        assert " ".join(reason.split()) in line
    assert tree(world) == before


def test_memory_that_is_not_there(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(*_: Any, **__: Any) -> None:
        raise MemoryError("Unable to allocate 4 EiB")

    monkeypatch.setattr("tinyddpm.networks.parameters.Parameters.lay_out", scarce)
    before = tree(world)
    line = assert_one_line(invoke(*shlex.split(TRAIN)))
    assert "not enough memory (Unable to allocate 4 EiB); use a smaller" in line
    assert tree(world) == before


@pytest.mark.parametrize("command", [f"{TRAIN} --out new", f"{SAMPLE} -o new.png", "export labelled new"])
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_disk_that_is_full(world: Path, monkeypatch: pytest.MonkeyPatch, command: str, function: str) -> None:
    before = tree(world)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"os.{function}", full)
    line = assert_one_line(invoke(*shlex.split(command)))
    assert "No space left on device; make room on the disk" in line
    assert "new" in line
    after = tree(world)
    assert {name: content for name, content in after.items() if content is not None} == {
        name: content for name, content in before.items() if content is not None
    }


def test_a_place_that_is_write_protected(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(world)
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    line = assert_one_line(invoke(*shlex.split(SAMPLE), "-o", "new/out.png"))
    assert "is write-protected; choose another place" in line
    assert tree(world) == before


@pytest.mark.parametrize("name", ["a\nb.png.jpg", "a\tb.jpg", "ünïcode ✓.jpg"])
def test_names_that_are_hard_to_print(world: Path, name: str) -> None:
    assert " ".join(name.split()) in assert_one_line(invoke(*shlex.split(SAMPLE), "-o", name))


def test_errors_of_the_program_itself_are_not_hidden(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    # The package's attribute of that name is the command
    monkeypatch.setattr(sys.modules["tinyddpm.cli.sample"], "draw", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        invoke(*shlex.split(SAMPLE))
