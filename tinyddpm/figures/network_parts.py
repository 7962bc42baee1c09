"""The parts of a U-Net, read off the model itself: what each is, where it stands, and how many parameters it has."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tinyddpm.errors import InputError
from tinyddpm.networks.blocks import AttentionBlock, DoubleConv, Downsample, ResBlock
from tinyddpm.networks.conditioning import EmbeddingBias, TimeEmbedding
from tinyddpm.networks.layers import Conv2d, NormConv2d, UpsampleConv2d
from tinyddpm.networks.parameters import Parameter
from tinyddpm.networks.registry import NetworkConfig, kind_of, network
from tinyddpm.networks.simple_unet import SimpleUNet
from tinyddpm.networks.unet import UNet

KINDS = {
    TimeEmbedding: "time embedding",
    EmbeddingBias: "embedding",
    Conv2d: "convolution",
    NormConv2d: "norm, convolution",
    ResBlock: "residual block",
    DoubleConv: "double convolution",
    AttentionBlock: "attention",
    Downsample: "halving",
    UpsampleConv2d: "doubling",
}


@dataclass(frozen=True)
class Part:
    """A block, attention or single layer of a U-Net.

    name: how its parameters' names begin. kind: one of KINDS. path: "time", "in", "down", "middle", "up" or "out".
    level: 0 at full resolution. size: (height, width) of what it gives. inputs, outputs: channels, those of a skip
    counted in. parameters: how many. embedded: whether the time goes in. heads: of an attention, else 0. skip: name of
    the part whose output is joined to its input, else "".
    """

    name: str
    kind: str
    path: str
    level: int
    size: tuple[int, int]
    inputs: int
    outputs: int
    parameters: int
    embedded: bool = False
    heads: int = 0
    skip: str = ""


def parts(config: NetworkConfig) -> list[Part]:
    """All parts of the network of that config in the order of its forward pass; none is allocated.

    Raises InputError for the config of another network.
    """
    kind = network(kind_of(config) or type(config).__name__).model
    model = kind.laid_out(config)
    if isinstance(model, UNet):
        return list(parts_of_unet(model))
    if isinstance(model, SimpleUNet):
        return list(parts_of_simple_unet(model))
    raise InputError(f"only the two U-Nets can be drawn, got {kind.__name__}")


def parts_of_unet(model: UNet) -> Iterator[Part]:
    """The parts of the full U-Net, block by block."""
    size = model.config.size
    skips: list[str] = []
    yield from entrance(model)
    skips.append("conv_in")
    for level, stage in enumerate(model.down):
        for block, attention in zip(stage.blocks, stage.attentions, strict=True):
            yield (part := part_of(block, "down", level, size))
            skips.append(part.name)
            if attention is not None:
                yield part_of(attention, "down", level, size)
        if stage.resample is not None:
            size = halved(size)
            yield (part := part_of(stage.resample, "down", level + 1, size))
            skips.append(part.name)
    bottom = len(model.down) - 1
    for layer in (model.middle1, model.middle_attention, model.middle2):
        if layer is not None:
            yield part_of(layer, "middle", bottom, size)
    for level, stage in zip(reversed(range(len(model.up))), model.up, strict=True):
        for block, attention in zip(stage.blocks, stage.attentions, strict=True):
            yield part_of(block, "up", level, size, skips.pop())
            if attention is not None:
                yield part_of(attention, "up", level, size)
        if stage.resample is not None:
            size = doubled(size)
            yield part_of(stage.resample, "up", level - 1, size)
    yield part_of(model.out, "out", 0, size)


def parts_of_simple_unet(model: SimpleUNet) -> Iterator[Part]:
    """The parts of the simple U-Net; between them it pools on the way down and repeats pixels on the way up."""
    size, outer = model.config.size, len(model.down)
    yield from entrance(model)
    for level, block in enumerate(model.down):
        yield part_of(block, "down", level, size)
        size = halved(size)
    yield part_of(model.middle, "middle", outer, size)
    for level, block in zip(reversed(range(outer)), model.up, strict=True):
        size = doubled(size)
        yield part_of(block, "up", level, size, f"down.{level}")
    yield part_of(model.conv_out, "out", 0, size)


def entrance(model: UNet | SimpleUNet) -> Iterator[Part]:
    """What both begin with: the time's embedding, the first convolution, and the embedding added after it."""
    size = model.config.size
    yield part_of(model.time, "time", 0, size)
    yield part_of(model.conv_in, "in", 0, size)
    if model.input_emb is not None:
        yield part_of(model.input_emb, "in", 0, size)


def part_of(layer: Any, path: str, level: int, size: tuple[int, int], skip: str = "") -> Part:
    """The part that a layer is."""
    own = parameters_of(layer)
    shapes = {d.name: d.shape for d in own[0].parameters.declarations}
    name = common_prefix([p.name for p in own])
    if isinstance(layer, AttentionBlock):
        inputs = outputs = shapes[layer.projection.weight.name][-1]
    elif isinstance(layer, ResBlock | DoubleConv):
        inputs, outputs = shapes[layer.conv1.weight.name][2], shapes[layer.conv2.weight.name][3]
    elif isinstance(layer, TimeEmbedding):
        inputs, outputs = shapes[layer.linear1.weight.name][0], shapes[layer.linear2.weight.name][1]
    else:
        inner = layer.linear if isinstance(layer, EmbeddingBias) else getattr(layer, "conv", layer)
        *_, inputs, outputs = shapes[inner.weight.name]
    return Part(
        name,
        KINDS[type(layer)],
        path,
        level,
        size,
        inputs,
        outputs,
        sum(math.prod(shapes[p.name]) for p in own),
        embedded=isinstance(layer, EmbeddingBias) or getattr(layer, "emb", None) is not None,
        heads=layer.attention.num_heads if isinstance(layer, AttentionBlock) else 0,
        skip=skip,
    )


def parameters_of(layer: Any) -> list[Parameter]:
    """The parameters of a layer and of those within it."""
    found = []
    for value in vars(layer).values():
        if isinstance(value, Parameter):
            found.append(value)
        elif type(value).__module__.startswith("tinyddpm.networks."):
            found += parameters_of(value)
    return found


def common_prefix(names: list[str]) -> str:
    """What names have in common, in whole words between dots: "down.0" for down.0.conv1.weight and down.0.norm1.beta.

    Where a norm and a convolution have names of their own, the latter's.
    """
    words = [name.split(".")[:-1] for name in names]
    common = []
    for column in zip(*words, strict=False):
        if len(set(column)) > 1:
            break
        common.append(column[0])
    return ".".join(common or words[-1])


def halved(size: tuple[int, int]) -> tuple[int, int]:
    """Half of both sides."""
    return size[0] // 2, size[1] // 2


def doubled(size: tuple[int, int]) -> tuple[int, int]:
    """Twice both sides."""
    return size[0] * 2, size[1] * 2
