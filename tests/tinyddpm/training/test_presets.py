"""What nobody chose fits the images and what was chosen; what was chosen stays, or is refused."""

from typing import Any

import pytest

from tinyddpm.networks.unet import UNetConfig
from tinyddpm.training.presets import MIDDLE, SMALL, fitted

FIELDS = {"groups": 8, "num_heads": 4}
OF_PRESETS = ("channel_mults", "groups", "num_heads", "attention_resolutions")


def fit(preset: dict[str, Any], size: tuple[int, int], **chosen: Any) -> dict[str, Any]:
    values = fitted(FIELDS | preset | chosen, chosen, size)
    return {name: values[name] for name in OF_PRESETS}


@pytest.mark.parametrize(("preset", "side"), [(SMALL, 8), (MIDDLE, 32)])
def test_presets_stay_what_they_are(preset: dict[str, Any], side: int) -> None:
    assert fit(preset, (side, side)) == {name: (FIELDS | preset)[name] for name in OF_PRESETS}


@pytest.mark.parametrize(
    ("preset", "size", "chosen", "attention"),
    [
        (MIDDLE, (64, 64), {}, (16,)),
        (MIDDLE, (16, 16), {}, (8,)),
        (MIDDLE, (28, 28), {}, (7,)),
        (MIDDLE, (64, 48), {}, (12,)),
        (MIDDLE, (64, 64), {"channel_mults": (1, 2, 4, 8)}, (8,)),
        (SMALL, (16, 16), {}, (8,)),
        (SMALL, (8, 8), {"channel_mults": (1,)}, (8,)),
        (SMALL, (64, 64), {"attention_resolutions": ()}, ()),
    ],
)
def test_attention(preset: dict[str, Any], size: tuple[int, int], chosen: Any, attention: Any) -> None:
    found = fit(preset, size, **chosen)
    assert found["attention_resolutions"] == attention
    UNetConfig(image_size=size, base_channels=32, **found)


@pytest.mark.parametrize(("size", "mults"), [((30, 30), (1, 2)), ((36, 36), (1, 2, 4)), ((31, 31), (1, 2))])
def test_levels(size: tuple[int, int], mults: tuple[int, ...]) -> None:
    assert fit(MIDDLE, size)["channel_mults"] == mults


@pytest.mark.parametrize(("base", "groups", "heads"), [(12, 6, 4), (6, 6, 4), (5, 5, 4), (7, 7, 4), (32, 8, 4)])
def test_groups_and_heads(base: int, groups: int, heads: int) -> None:
    found = fit(MIDDLE, (32, 32), base_channels=base)
    assert (found["groups"], found["num_heads"]) == (groups, heads)
    UNetConfig(image_size=32, base_channels=base, **found)


def test_heads_of_odd_channels() -> None:
    assert fit(SMALL, (8, 8), base_channels=5, channel_mults=(1, 3))["num_heads"] == 3


def test_what_is_chosen_stays() -> None:
    chosen = {"groups": 3, "num_heads": 5, "attention_resolutions": (99,), "channel_mults": (1, 2, 4)}
    assert fit(MIDDLE, (30, 30), **chosen) == chosen


@pytest.mark.parametrize("chosen", [{"channel_mults": ()}, {"channel_mults": (0, -2)}, {"base_channels": 0}])
def test_nonsense_is_left_to_the_config(chosen: dict[str, Any]) -> None:
    fit(MIDDLE, (32, 32), **chosen)
