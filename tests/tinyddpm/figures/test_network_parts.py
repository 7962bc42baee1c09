"""The drawn U-Nets have exactly the model's layers, and the parameters of the parts add up."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings

from tests.tinyddpm.tiny_runs import SIMPLE, UNET
from tinyddpm.figures import style
from tinyddpm.figures.network_drawing import draw, layout, plate, text
from tinyddpm.figures.network_parts import parameters_of, parts
from tinyddpm.networks.registry import NetworkConfig, kind_of, network
from tinyddpm.networks.simple_unet import SimpleUNetConfig
from tinyddpm.networks.unet import UNetConfig
from tinyddpm.testing import simple_configs, unet_configs

OBLONG = UNetConfig(image_size=(16, 24), channel_mults=(1, 2, 2), attention_resolutions=(8, 4), time_embedding="input")
CONFIGS = [UNET, SIMPLE, OBLONG, UNetConfig(middle_attention=False), SimpleUNetConfig(time_embedding="resblock")]


def check(config: NetworkConfig) -> None:
    model = network(str(kind_of(config))).model
    declared = {d.name: math.prod(d.shape) for d in model.declarations(config)}
    found = parts(config)
    # Each parameter is of one part, that whose name its own begins with, and no part is without
    owners = {name: [part.name for part in found if name.startswith(f"{part.name}.")] for name in declared}
    norm_out = {name for name, of in owners.items() if not of}
    assert all(len(of) <= 1 for of in owners.values())
    assert norm_out <= {"norm_out.gamma", "norm_out.beta"}
    for part in found:
        own = sum(count for name, count in declared.items() if owners[name] == [part.name])
        own += sum(declared[name] for name in norm_out) if part.name == "conv_out" else 0
        assert own == part.parameters, part
    assert sum(part.parameters for part in found) == sum(declared.values())
    assert len({part.name for part in found}) == len(found)


@pytest.mark.parametrize("config", CONFIGS)
def test_every_parameter_is_of_one_part(config: NetworkConfig) -> None:
    check(config)


@settings(max_examples=20, deadline=None)
@given(unet_configs())
def test_every_parameter_of_any_unet_is_of_one_part(config: UNetConfig) -> None:
    check(config)


@settings(max_examples=10, deadline=None)
@given(simple_configs())
def test_every_parameter_of_any_simple_unet_is_of_one_part(config: SimpleUNetConfig) -> None:
    check(config)


@pytest.mark.parametrize("config", CONFIGS)
def test_channels_go_on_from_part_to_part(config: NetworkConfig) -> None:
    found = parts(config)
    by_name = {part.name: part for part in found}
    flow = [part for part in found if part.kind not in ("time embedding", "embedding")]
    assert flow[0].inputs == config.in_channels
    assert flow[-1].outputs == config.in_channels
    for before, after in pairwise(flow):
        joined = by_name[after.skip].outputs if after.skip else 0
        assert after.inputs == before.outputs + joined, after
        if after.skip:
            assert by_name[after.skip].size == after.size
    assert found[-1].size == config.size
    assert min(part.size for part in found) == tuple(side >> len(config.channel_mults) - 1 for side in config.size)


def test_parts_say_where_time_and_attention_are() -> None:
    found = parts(UNET)
    assert {part.name for part in found if part.heads} == {
        "down.1.attention.0", "middle.attention", "up.1.attention.0", "up.1.attention.1",
    }  # fmt: skip
    assert all(part.heads == 2 for part in found if part.kind == "attention")
    assert all(part.embedded == (part.kind == "residual block") for part in found)
    assert [part.name for part in parts(OBLONG) if part.embedded] == ["input_emb"]
    assert [part.name for part in parts(SIMPLE) if part.embedded] == ["input_emb"]


def test_parameters_are_found_in_inner_layers() -> None:
    model = network("UNet").model.laid_out(UNET)
    names = [p.name for p in parameters_of(model.down[0].blocks[0])]  # type: ignore[attr-defined]
    assert [name.removeprefix("down.0.block.0.") for name in names] == [
        "norm1.gamma", "norm1.beta", "conv1.weight", "conv1.bias", "emb.weight", "emb.bias",
        "norm2.gamma", "norm2.beta", "conv2.weight", "conv2.bias",
    ]  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS)
def test_every_part_has_a_place_of_its_own_and_skips_run_level(config: NetworkConfig) -> None:
    found = parts(config)
    places, levels, height = layout(found)
    assert [place.part for place in places] == found
    row = {place.part.name: place.y for place in places}
    for place in places:
        assert 0 < place.y < height
        if place.part.skip:
            assert place.y == row[place.part.skip]
        ((top, bottom),) = [(top, bottom) for level, top, bottom in levels if level == place.part.level]
        assert top < place.y < bottom
    boxes = sorted((place.y, place.x, place.end) for place in places)
    for (y, _, end), (next_y, x, _) in pairwise(boxes):
        assert next_y > y or x > end


@pytest.mark.parametrize("config", [UNET, SIMPLE])
def test_the_drawing_and_its_table_have_every_part(config: NetworkConfig) -> None:
    found = parts(config)
    with style.applied():
        (axes,) = draw(found).axes
        written = [label.get_text() for label in axes.texts]
        made = plate("unet", config)
    for part in found:
        assert text(part) in written
    assert len([label for label in written if "·" in label and "→ out" not in label]) == len(found)
    assert [row[0] for row in made.rows] == [part.name for part in found]
    total = sum(row[made.header.index("parameters")] for row in made.rows)
    assert f"of {total:,} parameters" in made.caption
