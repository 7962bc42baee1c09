"""Checkpoints: everything comes back to the bit; whatever is not what was written is refused in one line."""

import json
import os
import pickle
import struct
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save as safetensors_bytes

import backends
from tests.tinyddpm.tiny_runs import CONFIGS, SIMPLE, UNET, arrays, assert_same, build, make_trainer, scramble, tree
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import DamagedFileError, InputError, MissingDataError
from tinyddpm.training.checkpoint import DIFFUSION_FIELDS, ENTRY, Checkpoint, digest, load, save
from tinyddpm.training.optimizers import EMA, Adam
from tinyddpm.training.trainer import TrainConfig

NUMPY = backends.get("numpy")
EXTRA = {"note": 'ünïcode ✓ "quoted" \\ ', "numbers": [1, 2.5, -1e-300], "nothing": None, "deep": {"a": {"b": True}}}


def trained(config: Any, steps: int = 3) -> Any:
    """A trainer some steps on, so that no part of its state is zero or equal to another."""
    trainer = make_trainer(config, TrainConfig(steps=steps, batch_size=4, weight_decay=0.01, ema_decay=0.9))
    for _ in trainer.run():
        pass
    return trainer


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete checkpoint of a small model."""
    trainer = trained(SIMPLE)
    path = tmp_path_factory.mktemp("checkpoint") / "step.safetensors"
    save(path, trainer.model, trainer.diffusion, optimizer=trainer.optimizer, ema=trainer.ema, step=3, extra=EXTRA)
    return path


def refused(path: Path, kind: type[InputError] = DamagedFileError) -> str:
    """The one line that loading path gives; of exactly this kind, naming the file."""
    with pytest.raises(InputError) as caught:
        load(path, NUMPY)
    assert type(caught.value) is kind, repr(caught.value)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


class TestRoundTrip:
    @pytest.mark.parametrize("kind", CONFIGS)
    def test_everything_to_the_bit(self, tmp_path: Path, kind: str) -> None:
        trainer = trained(CONFIGS[kind])
        path = tmp_path / "new" / "step.safetensors"
        save(
            path,
            trainer.model,
            trainer.diffusion,
            optimizer=trainer.optimizer,
            ema=trainer.ema,
            step=trainer.step,
            extra=EXTRA,
        )
        seen = load(str(path), NUMPY)
        assert_same(arrays(seen), arrays(trainer))
        assert seen.model.config == CONFIGS[kind]
        assert type(seen.model).__name__ == kind
        assert seen.model.backend is NUMPY
        assert seen.extra == EXTRA
        assert seen.step == 3
        for name, value in trainer.model.named_params().items():
            assert seen.model.named_params()[name].tobytes() == value.tobytes(), name
        assert set(tree(tmp_path)) == {"new", "new/step.safetensors"}

    def test_what_was_loaded_can_be_trained_on(self, written: Path) -> None:
        checkpoint = load(written, NUMPY)
        assert checkpoint.optimizer is not None
        assert checkpoint.ema is not None
        for array in (checkpoint.model.params, checkpoint.optimizer.m, checkpoint.optimizer.v, checkpoint.ema.params):
            assert array.flags.writeable
        assert checkpoint.optimizer.params is checkpoint.model.params
        assert not np.shares_memory(checkpoint.ema.params, checkpoint.model.params)

    @pytest.mark.parametrize(("with_optimizer", "with_ema"), [(False, False), (True, False), (False, True)])
    @pytest.mark.parametrize("kind", CONFIGS)
    def test_parts_may_be_left_out(self, tmp_path: Path, kind: str, with_optimizer: bool, with_ema: bool) -> None:
        model = scramble(build(CONFIGS[kind]))
        optimizer = Adam(model.params, 0.1, 0.2, 0.3, 0.4, 0.5) if with_optimizer else None
        ema = EMA(2 * model.params, 0.75) if with_ema else None
        save(tmp_path / "c", model, Diffusion(Schedule.cosine(10)), optimizer=optimizer, ema=ema)
        seen = load(tmp_path / "c", NUMPY)
        assert seen.model.params.tobytes() == model.params.tobytes()
        assert (seen.step, seen.extra) == (0, {})
        assert (seen.optimizer is None, seen.ema is None) == (not with_optimizer, not with_ema)
        if seen.optimizer is not None:
            rates = seen.optimizer.lr, seen.optimizer.beta1, seen.optimizer.beta2, seen.optimizer.eps
            assert (*rates, seen.optimizer.weight_decay) == (0.1, 0.2, 0.3, 0.4, 0.5)
        if seen.ema is not None:
            assert seen.ema.params.tobytes() == (2 * model.params).tobytes()
            assert seen.ema.decay == 0.75

    def test_the_average_is_sampled_from_where_there_is_one(self, written: Path) -> None:
        checkpoint = load(written, NUMPY)
        assert checkpoint.ema is not None
        assert not np.array_equal(checkpoint.ema.params, checkpoint.model.params)
        assert np.array_equal(checkpoint.sampling_model().params, checkpoint.ema.params)
        assert checkpoint.sampling_model().config == checkpoint.model.config
        assert replace(checkpoint, ema=None).sampling_model() is checkpoint.model

    def test_float64_stays_float64(self, tmp_path: Path) -> None:
        model = build(SIMPLE, dtype="float64")
        save(tmp_path / "c", model, Diffusion(Schedule.cosine(10)), ema=EMA(model.params))
        seen = load(tmp_path / "c", NUMPY)
        assert seen.model.params.dtype == np.float64
        assert seen.model.params.tobytes() == model.params.tobytes()

    @pytest.mark.parametrize(
        "diffusion",
        [
            Diffusion(Schedule.sigmoid(17), "v", "huber", "fixed_large", huber_delta=0.3, label_dropout=0.7),
            Diffusion(Schedule.linear(1000), "x0", "l1"),
            Diffusion(Schedule.cosine(1000).respaced(7)),
            Diffusion(Schedule.log_snr(30)),
            Diffusion(Schedule.shifted_cosine(30, 0.5)),
            Diffusion(Schedule.cosine(100).rescaled_to_zero_terminal_snr().respaced(9), "v"),
            Diffusion(Schedule.from_betas(np.array([0.1, 0.2, 0.3]))),
        ],
    )
    def test_every_field_of_the_diffusion(self, tmp_path: Path, diffusion: Diffusion) -> None:
        save(tmp_path / "c", build(SIMPLE), diffusion)
        seen = load(tmp_path / "c", NUMPY).diffusion
        assert set(DIFFUSION_FIELDS) == set(asdict(diffusion)) - {"schedule"}
        for name in DIFFUSION_FIELDS:
            assert getattr(seen, name) == getattr(diffusion, name), name
        assert seen.schedule.betas.tobytes() == diffusion.schedule.betas.tobytes()
        assert seen.schedule.timesteps.tolist() == diffusion.schedule.timesteps.tolist()
        assert seen.schedule.name == diffusion.schedule.name

    def test_same_state_gives_the_same_file(self, tmp_path: Path, written: Path) -> None:
        seen = load(written, NUMPY)
        save(
            tmp_path / "again",
            seen.model,
            seen.diffusion,
            optimizer=seen.optimizer,
            ema=seen.ema,
            step=seen.step,
            extra=seen.extra,
        )
        assert (tmp_path / "again").read_bytes() == written.read_bytes()

    def test_it_is_a_plain_safetensors_file(self, written: Path) -> None:
        with safe_open(written, framework="numpy") as file:
            names = set(file.keys())
        assert {"model/conv_in.weight", "ema/conv_in.weight", "adam/m", "adam/v", "schedule/betas"} <= names


class TestSaving:
    def test_a_model_that_it_cannot_name(self, tmp_path: Path) -> None:
        class Other(type(build(SIMPLE))):  # type: ignore[misc]
            pass

        model = Other(SIMPLE, NUMPY)
        with pytest.raises(InputError, match="one of UNet, SimpleUNet, got Other"):
            save(tmp_path / "c", model, Diffusion(Schedule.cosine(10)))
        assert tree(tmp_path) == {}

    def test_an_extra_that_is_no_json(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"extra must be made of JSON values, got \{'a': \{1\}\}"):
            save(tmp_path / "c", build(SIMPLE), Diffusion(Schedule.cosine(10)), extra={"a": {1}})
        assert tree(tmp_path) == {}

    def test_failure_keeps_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: Path) -> None:
        path = tmp_path / "c"
        path.write_bytes(written.read_bytes())

        def fail(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="No space left"):
            save(path, build(SIMPLE), Diffusion(Schedule.cosine(10)))
        assert tree(tmp_path) == {"c": written.read_bytes()}


class TestDamage:
    def test_cut_short_anywhere(self, tmp_path: Path, written: Path) -> None:
        content, path = written.read_bytes(), tmp_path / "cut"
        for length in [*(len(content) * i // 20 for i in range(20)), 1, 7, 8, 9, len(content) - 1]:
            path.write_bytes(content[:length])
            refused(path)

    def test_something_appended(self, tmp_path: Path, written: Path) -> None:
        path = tmp_path / "long"
        path.write_bytes(written.read_bytes() + b"\0")
        refused(path)

    def test_every_flipped_bit_is_noticed(self, tmp_path: Path, written: Path) -> None:
        content, path = written.read_bytes(), tmp_path / "flipped"
        (header,) = struct.unpack("<Q", content[:8])
        rng = np.random.default_rng(2024)
        # The header is a small part of the file, and the part with the most ways to go wrong
        bits = [*range(64), *rng.integers(64, 8 * (8 + header), 200), *rng.integers(0, 8 * len(content), 200)]
        for bit in bits:
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            refused(path)

    def test_bytes_of_two_tensors_swapped(self, tmp_path: Path, written: Path) -> None:
        """Every byte is still there, and only the digest can tell."""
        with safe_open(written, framework="numpy") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        tensors["adam/m"], tensors["adam/v"] = tensors["adam/v"], tensors["adam/m"]
        path = tmp_path / "swapped"
        path.write_bytes(safetensors_bytes(tensors, metadata))
        assert "does not match its digest" in refused(path)

    def test_same_bytes_as_another_kind_of_number(self, tmp_path: Path, written: Path) -> None:
        with safe_open(written, framework="numpy") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        tensors["schedule/timesteps"] = tensors["schedule/timesteps"].view(np.uint64)
        path = tmp_path / "other"
        path.write_bytes(safetensors_bytes(tensors, metadata))
        assert "does not match its digest" in refused(path)


class TestForeignFiles:
    def test_no_file(self, tmp_path: Path) -> None:
        assert "no checkpoint at" in refused(tmp_path / "missing", MissingDataError)
        assert "no checkpoint at" in refused(tmp_path, MissingDataError)

    @pytest.mark.parametrize(
        "content", [b"", b"\0" * 8, b"\xff" * 100, b"a checkpoint, surely\n", b"\x02" + b"\0" * 7 + b"{}"]
    )
    def test_no_safetensors(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "c.safetensors"
        path.write_bytes(content)
        refused(path)

    @pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {ENTRY: ""}, {ENTRY: "abc"}, {ENTRY: "abc {}"}])
    def test_other_safetensors(self, tmp_path: Path, metadata: dict[str, str] | None) -> None:
        path = tmp_path / "other.safetensors"
        path.write_bytes(safetensors_bytes({"unet.weight": np.ones(3)}, metadata))
        refused(path)

    @pytest.mark.parametrize("kind", ["BF16", "F8_E4M3", "F8_E5M2", "I64", "BOOL", "U8", "F4", "F99"])
    def test_kinds_of_number_that_numpy_lacks_or_we_do(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "other.safetensors"
        size = {"BF16": 2, "I64": 8}.get(kind, 1)
        for metadata in ({}, {"__metadata__": {ENTRY: "abc {}"}}):
            header = json.dumps(metadata | {"w": {"dtype": kind, "shape": [1], "data_offsets": [0, size]}}).encode()
            path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))
            refused(path)

    def test_a_pickle_runs_no_code(self, tmp_path: Path) -> None:
        touched = tmp_path / "touched"

        class Trap:
            def __reduce__(self) -> Any:
                return Path.touch, (touched,)

        content = pickle.dumps(Trap())
        pickle.loads(content)
        assert touched.exists()
        touched.unlink()
        path = tmp_path / "step.safetensors"
        archive = pickle.dumps({"state_dict": Trap()}, protocol=0)
        for trap in (content, archive, struct.pack("<Q", len(content)) + content):
            path.write_bytes(trap)
            refused(path)
        assert not touched.exists()


class Forge:
    """Checkpoints whose digest is right and whose content is not."""

    def __init__(self, source: Path, path: Path) -> None:
        with safe_open(source, framework="numpy") as file:
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.description: Any = json.loads(file.metadata()[ENTRY].partition(" ")[2])
        self.path = path

    def write(self, text: str | None = None) -> Path:
        text = json.dumps(self.description) if text is None else text
        self.path.write_bytes(safetensors_bytes(self.tensors, {ENTRY: f"{digest(text, self.tensors)} {text}"}))
        return self.path


@pytest.fixture
def forge(written: Path, tmp_path: Path) -> Forge:
    return Forge(written, tmp_path / "forged.safetensors")


class TestForged:
    def test_the_forge_itself_makes_sound_files(self, forge: Forge, written: Path) -> None:
        assert_same(arrays(load(forge.write(), NUMPY)), arrays(load(written, NUMPY)))

    @pytest.mark.parametrize("text", ["", "nothing", "null", "[]", "{}", "3", '"text"', "[" * 100_000, "1" * 5000])
    def test_description_that_is_none(self, forge: Forge, text: str) -> None:
        refused(forge.write(text))

    @pytest.mark.parametrize(
        ("place", "value", "kind", "words"),
        [
            (["format"], 2, InputError, "format 2, and this version reads 1"),
            (["format"], "1", InputError, "format '1'"),
            (["model", "kind"], "Transformer", InputError, "'Transformer'"),
            (["model", "kind"], ["UNet"], DamagedFileError, "unhashable"),
            (["model", "kind"], "UNet", DamagedFileError, "names differ"),
            (["model"], "SimpleUNet", DamagedFileError, "indices"),
            (["model", "config"], [1], InputError, "[1]"),
            (["model", "config", "depth"], 3, InputError, "depth"),
            (["model", "config", "base_channels"], 8, DamagedFileError, "has shape"),
            (["model", "config", "base_channels"], -4, InputError, "got -4"),
            (["model", "config", "base_channels"], "4", InputError, "got '4'"),
            (["model", "config", "base_channels"], 4.0, InputError, "got 4.0"),
            (["model", "config", "base_channels"], None, InputError, "got None"),
            (["model", "config", "groups"], 3, InputError, "groups=3"),
            (["model", "config", "channel_mults"], [], InputError, "channel_mults"),
            (["model", "config", "channel_mults"], [1, 2, 4, 8, 16], InputError, "8x8"),
            (["model", "config", "channel_mults"], [[1]], InputError, "[1]"),
            (["model", "config", "channel_mults"], [1], DamagedFileError, "names differ"),
            (["model", "config", "dropout"], 1.5, InputError, "1.5"),
            (["model", "config", "num_classes"], 3, DamagedFileError, "1 names differ, first 'time.label.table'"),
            (["model", "config", "image_size"], [8, 8, 8], InputError, "image_size"),
            (["diffusion", "prediction"], "noise", InputError, "'noise'"),
            (["diffusion", "loss"], None, InputError, "None"),
            (["diffusion", "label_dropout"], 2, InputError, "2"),
            (["diffusion", "sigma"], 1, DamagedFileError, "sigma"),
            (["diffusion"], None, DamagedFileError, "NoneType"),
            (["step"], -1, InputError, "step must be a whole number of at least 0, got -1"),
            (["step"], "3", InputError, "got '3'"),
            (["optimizer", "lr"], -1.0, InputError, "-1.0"),
            (["optimizer", "beta1"], 1.0, InputError, "1.0"),
            (["optimizer", "momentum"], 0.9, DamagedFileError, "momentum"),
            (["optimizer"], 3, DamagedFileError, "mapping"),
            (["optimizer_steps"], 2.5, InputError, "2.5"),
            (["optimizer_steps"], -1, InputError, "-1"),
            (["ema", "decay"], 1.0, InputError, "1.0"),
            (["ema", "updates"], None, InputError, "None"),
            (["ema", "updates"], -5, InputError, "-5"),
        ],
    )
    def test_wrong_values(self, forge: Forge, place: list[str], value: Any, kind: type[InputError], words: str) -> None:
        *outer, last = place
        inner = forge.description
        for key in outer:
            inner = inner[key]
        inner[last] = value
        assert words in refused(forge.write(), kind)

    @pytest.mark.parametrize(
        "place", ["format", "model", "diffusion", "schedule", "step", "extra", "optimizer_steps", "model kind"]
    )
    def test_missing_values(self, forge: Forge, place: str) -> None:
        *outer, last = place.split()
        del (forge.description[outer[0]] if outer else forge.description)[last]
        assert repr(last) in refused(forge.write())

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("model/conv_in.weight", DamagedFileError),
            ("ema/conv_in.weight", DamagedFileError),
            ("adam/m", InputError),
            ("adam/v", InputError),
            ("schedule/betas", InputError),
        ],
    )
    def test_missing_and_misshapen_tensors(self, forge: Forge, name: str, kind: type[InputError]) -> None:
        sound = forge.tensors[name]
        for wrong in (sound[:-1], sound[None], sound.reshape(-1)[:1]):
            forge.tensors[name] = np.ascontiguousarray(wrong)
            assert "shape" in refused(forge.write(), kind)
        del forge.tensors[name]
        assert name.partition("/")[2] in refused(forge.write())

    def test_a_tensor_too_many(self, forge: Forge) -> None:
        forge.tensors["model/conv_in.scale"] = np.ones(3, np.float32)
        assert "1 names differ, first 'conv_in.scale'" in refused(forge.write())

    @pytest.mark.parametrize("dtype", ["int32", "float16", "float64", "complex64", "bool"])
    @pytest.mark.parametrize("name", ["model/conv_in.weight", "ema/conv_in.weight", "adam/m"])
    def test_kind_of_number(self, forge: Forge, name: str, dtype: str) -> None:
        with warnings.catch_warnings(action="ignore"):
            forge.tensors[name] = forge.tensors[name].astype(dtype)
        assert dtype in refused(forge.write())

    @pytest.mark.parametrize("beta", [0.0, 1.0, -0.1, np.nan, np.inf])
    def test_schedule_outside_its_range(self, forge: Forge, beta: float) -> None:
        forge.tensors["schedule/betas"][3] = beta
        assert f"got {beta}" in refused(forge.write(), InputError)


def test_checkpoint_of_the_other_model_says_so(tmp_path: Path) -> None:
    """Not by a crash: the config in the file decides, whatever the caller expected."""
    save(tmp_path / "c", build(UNET), Diffusion(Schedule.cosine(10)))
    seen = load(tmp_path / "c", NUMPY)
    assert isinstance(seen, Checkpoint)
    assert type(seen.model).__name__ == "UNet"
