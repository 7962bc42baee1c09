"""Numbers of NumPy's and of Python's are the same to every config, and neither is a bool."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tinyddpm.checks import as_whole, check_number, check_whole
from tinyddpm.data import Batches, load
from tinyddpm.diffusers_format.options import Options
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import InputError
from tinyddpm.networks.simple_unet import SimpleUNetConfig
from tinyddpm.networks.unet import UNetConfig
from tinyddpm.training.optimizers import EMA, Adam
from tinyddpm.training.run_config import DataConfig, DiffusionConfig, RunConfig
from tinyddpm.training.trainer import TrainConfig

WHOLE = [np.int8, np.uint32, np.int64, np.array]
CONFIGS: list[Any] = [
    UNetConfig(image_size=(8, 16), channel_mults=(1, 2), attention_resolutions=(4,), head_channels=8, num_classes=3),
    SimpleUNetConfig(num_classes=10),
    TrainConfig(),
    DiffusionConfig(),
    DataConfig(image_size=32),
]


def as_numpy(value: Any) -> Any:
    """The value with NumPy's numbers in place of Python's."""
    if isinstance(value, tuple):
        return tuple(as_numpy(member) for member in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return np.int64(value) if isinstance(value, int) else np.float64(value)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_a_config_of_numpys_numbers_is_the_same_config(config: Any) -> None:
    fields = {name: as_numpy(getattr(config, name)) for name in config.__dataclass_fields__}
    same = type(config)(**fields)
    assert same == config
    assert json.dumps(same.to_dict()) == json.dumps(config.to_dict())


def test_a_run_of_numpys_numbers_goes_to_json() -> None:
    run = RunConfig(DataConfig(), UNetConfig(), DiffusionConfig(), TrainConfig(), np.int32(7), np.int64(1))  # type: ignore[arg-type]
    assert RunConfig.from_dict(json.loads(json.dumps(run.to_dict()))) == run


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_no_config_takes_a_bool_for_a_number(config: Any) -> None:
    for name in config.__dataclass_fields__:
        value = getattr(config, name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            for wrong in (True, np.True_):
                with pytest.raises(InputError, match="got"):
                    replace(config, **{name: wrong})


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_numbers(kind: Any) -> None:
    found = check_whole("n", kind(3), 0, 3)
    assert found == 3
    assert type(found) is int


@pytest.mark.parametrize("value", [2.0, np.float64(2), True, np.True_, "2", None, np.array([2]), 1j])
def test_what_is_no_whole_number(value: Any) -> None:
    assert as_whole(value) is None
    with pytest.raises(InputError, match=r"^n must be a whole number in 1 … 9 \(of all\), got "):
        check_whole("n", value, 1, 9, "of all")


@pytest.mark.parametrize("kind", [float, np.float32, np.float16, np.int8])
def test_numbers(kind: Any) -> None:
    assert type(check_number("x", kind(1), 0, 1)) is float


@pytest.mark.parametrize("value", [True, np.True_, "1", None, 1j, np.array([0.5]), np.nan, np.float32(2)])
def test_what_is_no_number_in_its_interval(value: Any) -> None:
    with pytest.raises(InputError, match=r"^x must be a number in "):
        check_number("x", value, 0, 1)


def test_numpys_numbers_elsewhere() -> None:
    digits = load("digits", image_size=np.int16(16))  # type: ignore[arg-type]
    assert digits.images.shape[1:] == (16, 16, 1)
    batches = Batches(digits, np.int64(4), np.uint64(2**64 - 1))  # type: ignore[arg-type]
    assert type(batches.batch_size) is type(batches.seed) is int
    assert Schedule.cosine(np.int32(100)).respaced(np.int8(10)).T == 10  # type: ignore[arg-type]
    assert (
        type(Diffusion(Schedule.cosine(9), huber_delta=np.float32(2), label_dropout=np.float32(1)).huber_delta) is float
    )
    adam, ema = Adam(np.zeros(1), lr=np.float32(0.5)), EMA(np.zeros(1), np.float32(0.5))  # type: ignore[arg-type]
    assert type(adam.lr) is type(ema.decay) is float
    options = Options("Scheduler", {"steps": np.int64(5), "beta": np.float32(0.5)}, {"steps": 1, "beta": 0.1})
    assert (type(options.whole("steps")), type(options.number("beta"))) == (int, float)
