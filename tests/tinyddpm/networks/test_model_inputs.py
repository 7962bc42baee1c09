"""What people get wrong in configs and calls: each gives an InputError of one line with the value in it."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import backends
from tinyddpm.errors import InputError
from tinyddpm.networks.simple_unet import SimpleUNet, SimpleUNetConfig
from tinyddpm.networks.unet import UNet, UNetConfig

BACKEND = backends.get("numpy")
KINDS = {UNetConfig: UNet, SimpleUNetConfig: SimpleUNet}
SMALL = {"image_size": 8, "in_channels": 2, "base_channels": 4, "channel_mults": (1, 2), "groups": 2}
SMALL_UNET = {**SMALL, "num_res_blocks": 1, "attention_resolutions": (4,), "num_heads": 2}


def refused(call: Callable[[], Any], *parts: Any) -> None:
    """The call raises InputError: one line that contains the parts (texts, or values by their repr)."""
    with pytest.raises(InputError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert (part if isinstance(part, str) else repr(part)) in message


# Configs

WHOLE = ("image_size", "in_channels", "base_channels", "groups", "num_classes")
UNET_WHOLE = ("num_res_blocks", "num_heads", "head_channels")
NOT_WHOLE = [0, -1, 1.5, 8.0, "8", True, (8.0, 8.0), math.nan]


@pytest.mark.parametrize("value", NOT_WHOLE, ids=repr)
@pytest.mark.parametrize(
    ("kind", "field"),
    [(kind, field) for kind in KINDS for field in WHOLE] + [(UNetConfig, field) for field in UNET_WHOLE],
)
def test_sizes_must_be_whole_and_positive(kind: type, field: str, value: Any) -> None:
    member = value[0] if field == "image_size" and isinstance(value, tuple) else value
    refused(lambda: kind(**{field: value}), field, repr(member))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"image_size": (32, 32, 32)}, ("image_size", "(32, 32, 32)")),
        ({"image_size": (32,)}, ("image_size", "(32,)")),
        ({"image_size": [32, 32]}, ("image_size", "[32, 32]", "tuple")),
        ({"image_size": None}, ("image_size", "None")),
        ({"image_size": (32, 0)}, ("image_size", "0")),
        ({"channel_mults": None}, ("channel_mults", "None", "(1, 2, 4)")),
        ({"channel_mults": ()}, ("channel_mults", "()", "(1, 2, 4)")),
        ({"channel_mults": 3}, ("channel_mults", "3")),
        ({"channel_mults": "124"}, ("channel_mults", "'124'")),
        ({"channel_mults": [1, 2, 4]}, ("channel_mults", "[1, 2, 4]", "tuple")),
        ({"channel_mults": np.array([1, 2, 4])}, ("channel_mults", "array([1, 2, 4])")),
        ({"channel_mults": (1.0, 2.0)}, ("channel_mults", "1.0")),
        ({"channel_mults": (1, 0)}, ("channel_mults", "0")),
        ({"channel_mults": (1, -2)}, ("channel_mults", "-2")),
        ({"channel_mults": (1, "2")}, ("channel_mults", "'2'")),
        ({"channel_mults": (True, 2)}, ("channel_mults", "True")),
        ({"base_channels": 1, "groups": 1}, ("base_channels", "at least 2", "got 1")),
        ({"groups": 5}, ("groups=5", "32")),
        ({"groups": 64}, ("groups=64", "32")),
        ({"time_embedding": "both"}, ("time_embedding", "'both'", "resblock, input")),
        ({"time_embedding": None}, ("time_embedding", "None")),
        ({"dropout": 1.0}, ("dropout", "1.0", "[0, 1)")),
        ({"dropout": -0.1}, ("dropout", "-0.1")),
        ({"dropout": "0.1"}, ("dropout", "'0.1'")),
        ({"dropout": math.nan}, ("dropout", "nan")),
        ({"dropout": True}, ("dropout", "True")),
    ],
    ids=repr,
)
def test_fields_of_both_configs(kind: type, fields: dict[str, Any], parts: tuple[str, ...]) -> None:
    refused(lambda: kind(**fields), *parts)


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"attention_resolutions": (5,)}, ("names 5", "32, 16, 8", "not down-sampling factors")),
        ({"attention_resolutions": (4,)}, ("names 4", "32, 16, 8")),
        ({"attention_resolutions": (2, 4)}, ("names 2", "32, 16, 8")),
        ({"attention_resolutions": None}, ("attention_resolutions", "None")),
        ({"attention_resolutions": 8}, ("attention_resolutions", "8", "tuple")),
        ({"attention_resolutions": "8"}, ("attention_resolutions", "'8'")),
        ({"attention_resolutions": [8]}, ("attention_resolutions", "[8]")),
        ({"attention_resolutions": (8.0,)}, ("attention_resolutions", "8.0")),
        ({"attention_resolutions": (0,)}, ("attention_resolutions", "0")),
        ({"attention_resolutions": (-8,)}, ("attention_resolutions", "-8")),
        ({"attention_resolutions": ("8",)}, ("attention_resolutions", "'8'")),
        ({"num_heads": 3}, ("num_heads=3", "128")),
        ({"num_heads": 3, "attention_resolutions": ()}, ("num_heads=3", "128")),
        ({"head_channels": 48}, ("head_channels=48", "128")),
        ({"norm_eps": 0}, ("norm_eps", "0")),
        ({"norm_eps": -1e-5}, ("norm_eps", "-1e-05")),
        ({"norm_eps": "1e-5"}, ("norm_eps", "'1e-5'")),
        ({"norm_eps": math.inf}, ("norm_eps", "inf")),
        ({"frequency_shift": -1}, ("frequency_shift", "-1")),
        ({"frequency_shift": 16}, ("frequency_shift", "16")),
        ({"frequency_shift": "1"}, ("frequency_shift", "'1'")),
        ({"frequency_shift": None}, ("frequency_shift", "None")),
        ({"frequency_shift": math.nan}, ("frequency_shift", "nan")),
        ({"middle_attention": None}, ("middle_attention", "None", "True or False")),
        ({"middle_attention": "no"}, ("middle_attention", "'no'")),
        ({"asymmetric_padding": 1}, ("asymmetric_padding", "1")),
        ({"cos_first": "False"}, ("cos_first", "'False'")),
    ],
    ids=repr,
)
def test_fields_of_the_unet_config(fields: dict[str, Any], parts: tuple[str, ...]) -> None:
    refused(lambda: UNetConfig(**fields), *parts)


@pytest.mark.parametrize("kind", KINDS)
def test_three_halvings_of_28_name_sizes_that_work(kind: type) -> None:
    four = {"channel_mults": (1, 2, 2, 4)} | ({"attention_resolutions": ()} if kind is UNetConfig else {})
    refused(lambda: kind(image_size=28, **four), "28x28", "3 times", "24 or 32")
    for size in (24, 32, (24, 32)):
        kind(image_size=size, **four)
    refused(lambda: kind(image_size=(32, 20), **four), "32x20", "16", "24")
    refused(lambda: kind(image_size=4, **four), "4x4", "such as 8")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"image_sise": 32}, ("image_sise", "image_size")),
        ({"image_size": 32, "depth": 3, 4: 5}, ("depth", "4")),
        ({"channel_mults": None}, ("channel_mults", "None")),
        ({"channel_mults": [1, [2]]}, ("channel_mults", "[2]")),
        ({"base_channels": "32"}, ("base_channels", "'32'")),
        (None, ("None",)),
        ([1, 2], ("[1, 2]",)),
        ("{}", ("'{}'",)),
    ],
    ids=repr,
)
def test_from_dict(kind: Any, values: Any, parts: tuple[str, ...]) -> None:
    refused(lambda: kind.from_dict(values), kind.__name__ if not isinstance(values, dict) else "", *parts)


@pytest.mark.parametrize("kind", KINDS)
def test_a_config_survives_json(kind: Any) -> None:
    more = {"attention_resolutions": (4,)} if kind is UNetConfig else {}
    config = kind(image_size=(16, 8), channel_mults=(1, 2), **more)
    again = kind.from_dict(config.to_dict())
    assert again == config
    assert hash(again) == hash(config)


# Models and calls


def model_of(kind: type, **fields: Any) -> Any:
    return KINDS[kind](kind(**{**(SMALL_UNET if kind is UNetConfig else SMALL), **fields}), backend=BACKEND)


@pytest.fixture(scope="module", params=list(KINDS), ids=["UNet", "SimpleUNet"])
def models(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A model without classes and one with three."""
    return model_of(request.param), model_of(request.param, num_classes=3)


X = np.zeros((2, 8, 8, 2), np.float32)


@pytest.mark.parametrize(
    ("x", "parts"),
    [
        (X[0], ("(8, 8, 2)", "(N, H, W, 2)")),
        (np.zeros((2, 2, 8, 8), np.float32), ("(2, 2, 8, 8)", "channels last")),
        (X[..., :1], ("(2, 8, 8, 1)", "(N, H, W, 2)")),
        (np.zeros((2, 8, 8, 3)), ("(2, 8, 8, 3)",)),
        (X[:, :7], ("7x8", "6 or 8")),
        (X[:, :, :0], ("8x0",)),
        (X.astype(np.uint8), ("uint8", "[-1, 1]")),
        (X.astype(int), ("int64", "floating-point")),
        (X.astype(bool), ("bool",)),
        (X.astype(object), ("object",)),
        (None, ("object",)),
        ("x", ("<U1",)),
        (1.0, ("()",)),
        ([[1.0, 2.0]], ("(1, 2)",)),
    ],
)
def test_images(models: tuple[Any, Any], x: Any, parts: tuple[str, ...]) -> None:
    refused(lambda: models[0](x, 0), *parts)


@pytest.mark.parametrize(
    ("t", "parts"),
    [
        (np.arange(3), ("(3,)", "2 images")),
        (np.arange(1), ("(1,)", "2 images")),
        (np.ones((2, 1), int), ("(2, 1)",)),
        (-1, ("-1",)),
        (np.array([5, -3]), ("-3",)),
        (math.nan, ("nan",)),
        (math.inf, ("inf",)),
        (None, ("None",)),
        ("3", ("'3'",)),
        (["1", "2"], ("'1'",)),
        (True, ("True",)),
        (1j, ("j",)),
    ],
    ids=repr,
)
def test_timesteps(models: tuple[Any, Any], t: Any, parts: tuple[str, ...]) -> None:
    refused(lambda: models[0](X, t), *parts)


def test_a_long_wrong_t_is_still_one_line(models: tuple[Any, Any]) -> None:
    refused(lambda: models[0](np.zeros((500, 2, 2, 2), np.float32), np.arange(500) - 1), "-1")


@pytest.mark.parametrize(
    ("labels", "parts"),
    [
        ([0, 4], ("0 … 3", "0 … 4")),
        ([-1, 0], ("0 … 3", "-1 … 0")),
        ([0, 1, 2], ("2 integers", "(3,)")),
        (1, ("2 integers", "()")),
        (np.array([0.0, 1.0]), ("float64",)),
        (["a", "b"], ("<U1",)),
        ([True, False], ("bool",)),
        ([None, 1], ("object",)),
        (np.zeros((2, 3), int), ("(2, 3)",)),
    ],
    ids=repr,
)
def test_labels(models: tuple[Any, Any], labels: Any, parts: tuple[str, ...]) -> None:
    refused(lambda: models[1](X, 0, labels), *parts)


def test_labels_for_a_model_without_classes(models: tuple[Any, Any]) -> None:
    refused(lambda: models[0](X, 0, [0, 1]), "without classes", "num_classes")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("params", "parts"),
    [
        (np.zeros(5, np.float32), ("(5,)",)),
        (np.zeros((1, 5), np.float32), ("(1, 5)",)),
        ([0.0, 1.0], ("[0.0, 1.0]",)),
        ("x", ("'x'",)),
    ],
    ids=repr,
)
def test_flat_parameters(kind: Any, params: Any, parts: tuple[str, ...]) -> None:
    model = model_of(kind)
    refused(lambda: KINDS[kind](model.config, backend=BACKEND, params=params), str(model.params.size), *parts)
    refused(lambda: model.with_params(params), str(model.params.size), *parts)


@pytest.mark.parametrize("kind", KINDS)
def test_flat_parameters_must_be_floating_point(kind: Any) -> None:
    model = model_of(kind)
    refused(lambda: model.with_params(model.params.astype(int)), "int64", "floating-point")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"seed": -1}, ("seed", "-1")),
        ({"seed": 1.5}, ("seed", "1.5")),
        ({"seed": "0"}, ("seed", "'0'")),
        ({"seed": None}, ("seed", "None")),
        ({"dtype": "float33"}, ("dtype", "'float33'", "float32, float64")),
        ({"dtype": "int32"}, ("dtype", "'int32'")),
        ({"backend": "numpy"}, ("backend", "'numpy'", "backends.get")),
    ],
    ids=repr,
)
def test_arguments_of_the_constructor(kind: Any, fields: dict[str, Any], parts: tuple[str, ...]) -> None:
    config = model_of(kind).config
    refused(lambda: KINDS[kind](config, **{"backend": BACKEND, **fields}), *parts)


@pytest.mark.parametrize("config", [None, {"image_size": 8}, "UNetConfig"], ids=repr)
def test_a_config_of_another_kind(config: Any) -> None:
    refused(lambda: UNet(config), "UNetConfig", repr(config))
    refused(lambda: SimpleUNet(config), "SimpleUNetConfig", repr(config))


def test_the_config_of_the_other_network() -> None:
    refused(lambda: UNet(SimpleUNetConfig()), "takes a UNetConfig", "SimpleUNetConfig(")
    refused(lambda: SimpleUNet(UNetConfig()), "takes a SimpleUNetConfig", "UNetConfig(")
