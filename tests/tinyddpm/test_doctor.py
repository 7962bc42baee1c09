"""The doctor: what it says of this machine, and which configurations it warns of."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import backends
from tests.tinyddpm.tiny_runs import SIMPLE, UNET, images, run_config
from tinyddpm import data, doctor
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.doctor import Check, configuration, environment
from tinyddpm.networks.registry import kind_of
from tinyddpm.training import peak_memory
from tinyddpm.training.optimizers import EMA
from tinyddpm.training.run_config import DiffusionConfig, RunConfig
from tinyddpm.training.trainer import Trainer

NUMPY = backends.get("numpy")


def checks(config: RunConfig, dataset: data.Dataset | None = None) -> dict[str, Check]:
    """The checks by their first word."""
    found = list(configuration(config, images(70) if dataset is None else dataset, NUMPY))
    return {check.text.split()[0]: check for check in found}


def warned(config: RunConfig, dataset: data.Dataset | None = None) -> list[str]:
    return [word for word, check in checks(config, dataset).items() if not check.ok]


# Long enough for its average, and otherwise the runs of the other tests
SOUND = run_config(steps=3000, batch_size=64)


class TestConfiguration:
    @pytest.mark.parametrize("model", [SIMPLE, UNET, replace(UNET, num_classes=None)])
    @pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
    def test_nothing_to_warn_of(self, model: Any, prediction: str) -> None:
        config = replace(SOUND, model=model, diffusion=DiffusionConfig(prediction=prediction))
        found = checks(config)
        assert [word for word, check in found.items() if not check.ok] == []
        notes = {word for word, check in found.items() if check.note}
        assert notes == ({"`tinyddpm"} if model is SIMPLE else set())
        assert set(found) - notes == {
            "model", "images", "data", "alpha_bar_T", "memory", "initial", "learning", "batch:", "warm-up:", "average",
            "time:",
        }  # fmt: skip
        assert str(kind_of(model)) in found["model"].text
        assert "8x8 can be halved 1 times" in found["images"].text
        assert "become [-1.00, 1.00]" in found["data"].text

    @pytest.mark.parametrize(
        ("decay", "steps", "share", "ok"),
        # With the warm-up 1/10, 2/11, 3/12 …, and without it the decay alone
        [
            (0.999, 1, "10.0%", False),
            (0.999, 2, "1.8%", False),
            (0.9999, 3, "0.5%", True),
            (0.999, 3000, "0.0%", True),
            (0.04, 1, "4.0%", False),
            (0.04, 2, "0.2%", True),
            (0.0, 1, "0.0%", True),
        ],
    )
    def test_average_that_is_still_its_start(self, decay: float, steps: int, share: str, ok: bool) -> None:
        training = replace(SOUND.training, ema_decay=decay, steps=steps)
        check = checks(replace(SOUND, training=training))["average"]
        assert check.ok == ok
        assert f"after {steps} steps the untrained ones make up {share} of it" in check.text
        assert "--ema-decay" in check.text

    def test_the_share_is_what_training_leaves(self) -> None:
        """The sum of what each step's weights contribute is the rest."""
        config = replace(SOUND.training, steps=5, ema_decay=0.4)
        average, rest = EMA(np.ones(1), config.ema_decay), 0.0
        for _ in range(5):
            decay = average.decay_now()
            average.update(np.zeros(1))
            rest = decay * rest + (1 - decay)
        assert doctor.share_of_start(config) == pytest.approx(1 - rest)

    @pytest.mark.parametrize("steps", [1000, 10**6])
    def test_long_runs_forget_their_start_whatever_the_decay(self, steps: int) -> None:
        config = replace(SOUND.training, steps=steps, ema_decay=1 - 1e-9)
        assert doctor.share_of_start(config) < 1e-20

    @pytest.mark.parametrize("pixel", [0, 1, 255])
    def test_images_of_no_contrast(self, pixel: int) -> None:
        """Bytes 0 and 1, say, where 0 and 255 were meant."""
        flat = np.zeros((70, 8, 8, 1), np.uint8)
        flat[0] = pixel
        assert warned(SOUND, data.Dataset("flat", flat)) == ([] if pixel == 255 else ["data"])

    def test_a_step_that_does_not_fit_into_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plenty = checks(SOUND)["memory"]
        assert plenty.ok
        assert "kept for backward" in plenty.text
        monkeypatch.setattr(peak_memory, "available", lambda: 1_000_000)
        check = checks(SOUND)["memory"]
        assert not check.ok
        assert "of 1 MB available; lower --batch-size" in check.text
        assert "--accumulate" in check.text
        assert "--recompute" in check.text
        monkeypatch.setattr(peak_memory, "available", lambda: None)
        assert checks(SOUND)["memory"].ok

    @pytest.mark.parametrize(
        ("training", "word", "text"),
        [
            ({"lr": 1.0}, "learning", "learning rate 1: Adam trains such networks between 1e-05 and 0.01 (--lr)"),
            ({"lr": 1e-7}, "learning", "learning rate 1e-07"),
            ({"weight_decay": 2.0}, "weight", "weight decay 2: usual are 0 to 0.1 (--weight-decay)"),
            ({"batch_size": 71}, "batch:", "a step takes 71 of 70 images, 3,000 steps see each 3,042.9 times; lower"),
            ({"accumulate": 2}, "batch:", "a step takes 128 of 70 images"),
            ({"warmup_steps": 1501}, "warm-up:", "1,501 of 3,000 steps, so that most"),
        ],
    )
    def test_rates_and_sizes_far_from_sensible(self, training: dict[str, Any], word: str, text: str) -> None:
        config = replace(SOUND, training=replace(SOUND.training, **training))
        found = checks(config)
        assert [name for name, check in found.items() if not check.ok] == [word]
        assert text in found[word].text

    def test_the_time_is_measured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a clock that each step moves on: by 9 and 5 seconds, then by 2."""
        now, spent = [0.0], [9.0, 5.0, 2.0, 2.0]
        steps = iter(spent)
        monkeypatch.setattr(doctor, "TIMED_SECONDS", 3.0)
        monkeypatch.setattr("tinyddpm.doctor.time.monotonic", lambda: now[0])
        monkeypatch.setattr(Trainer, "take_step", lambda self: now.__setitem__(0, now[0] + next(steps)))
        monkeypatch.setattr(doctor, "memory_of_a_step", lambda *_: Check(True, "memory"))
        check = checks(SOUND)["time:"]
        assert check.text.startswith("time: about 100.0 minutes for 3,000 steps of 2,000 ms, measured over 2; ")

    def test_the_time_of_slow_steps_is_rough(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [0.0]
        monkeypatch.setattr("tinyddpm.doctor.time.monotonic", lambda: now[0])
        monkeypatch.setattr(Trainer, "take_step", lambda self: now.__setitem__(0, now[0] + 60))
        monkeypatch.setattr(doctor, "memory_of_a_step", lambda *_: Check(True, "memory"))
        text = checks(SOUND)["time:"].text
        assert text.startswith("time: about 2.1 days for 3,000 steps of 60,000 ms, roughly, by one of the first; ")

    def test_no_time_of_what_does_not_fit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(peak_memory, "available", lambda: 1_000_000)
        monkeypatch.setattr(Trainer, "run", None)
        assert checks(SOUND)["time:"].text == "time: not measured, since a step does not fit into memory"

    def test_training_that_fails_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(self: Trainer) -> None:
            raise backends.NonFiniteError("step 1: operation add gave NaN; lower lr")

        monkeypatch.setattr(Trainer, "take_step", fail)
        monkeypatch.setattr(doctor, "memory_of_a_step", lambda *_: Check(True, "memory"))
        found = checks(SOUND)["time:"]
        assert not found.ok
        assert "operation add gave NaN; lower lr" in found.text

    def test_chain_that_does_not_end_in_noise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        betas = np.linspace(1e-4, 0.02, 50)
        monkeypatch.setattr(Schedule, "by_name", lambda *_: Schedule.from_betas(betas))
        check = checks(SOUND)["alpha_bar_T"]
        assert not check.ok
        assert "alpha_bar_T = 0.6:" in check.text

    def test_loss_that_starts_elsewhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As where noise is not of variance 1."""
        normal = NUMPY.random_normal
        monkeypatch.setattr(NUMPY, "random_normal", lambda *a, **k: (2 * normal(*a, **k)[0], None))
        found = checks(SOUND)["initial"]
        assert not found.ok
        assert "initial loss 4." in found.text or "initial loss 3.9" in found.text


class TestEnvironment:
    def test_python_packages_and_backends(self) -> None:
        lines = list(environment())
        assert lines[0].startswith("python 3.")
        assert f"numpy {np.__version__}" in lines[1]
        for name, reason in backends.available().items():
            said = [line for line in lines if line.startswith(f"backend {name}: ")]
            assert len(said) == 1
            assert ("works" in said[0]) == (reason is None)
            assert reason is None or f"unavailable: {reason}" in said[0]

    def test_threads(self) -> None:
        setting = backends.thread_count.setting()
        first, kernels, *libraries = doctor.threads()
        assert first == f"threads: {setting.number} ({setting.source})"
        assert re.fullmatch(rf"threads: {setting.number} in kernels, own loop, \d+\.\d µs to start a kernel", kernels)
        assert libraries
        assert all(re.fullmatch(r"threads: \d+ in .+, layer \w+", line) for line in libraries)

    def test_missing_packages_are_said_to_be_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "PACKAGES", ("numpy", "no-such-package"))
        assert "no-such-package missing" in list(environment())[1]
