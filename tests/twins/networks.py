"""The two U-Nets in ordinary PyTorch: NCHW, modules, autograd. What ours are compared with.

The modules bear our parameters' names; `load` fills them from `model.named_params()` and `ours` gives them or
their gradients back under our names and in our layout.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TimeEmbedding(nn.Module):
    def __init__(
        self, base: int, num_classes: int | None, frequency_shift: float = 0.0, cos_first: bool = True
    ) -> None:
        super().__init__()
        self.base, self.frequency_shift, self.cos_first = base, frequency_shift, cos_first
        self.linear1 = nn.Linear(base, 4 * base)
        self.linear2 = nn.Linear(4 * base, 4 * base)
        if num_classes is not None:
            self.label = nn.Embedding(num_classes + 1, 4 * base)

    def forward(self, t: Tensor, labels: Tensor | None) -> Tensor:
        half = self.base // 2
        exponents = torch.arange(half, dtype=torch.float64, device=t.device) / (half - self.frequency_shift)
        angles = torch.outer(t.double(), 10000.0**-exponents)
        first, second = (torch.cos, torch.sin) if self.cos_first else (torch.sin, torch.cos)
        table = F.pad(torch.cat((first(angles), second(angles)), dim=1), (0, self.base % 2))
        h = self.linear2(F.silu(self.linear1(table.to(self.linear1.weight.dtype))))
        if labels is not None:
            h = h + self.label(labels)
        return F.silu(h)


class ResBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, emb: int | None, groups: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.emb = nn.Linear(emb, outputs) if emb else None
        self.norm2 = nn.GroupNorm(groups, outputs, eps)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        if self.emb is not None:
            h = h + self.emb(emb)[:, :, None, None]
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class DoubleConv(nn.Module):
    def __init__(self, inputs: int, outputs: int, emb: int | None, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.emb = nn.Linear(emb, outputs) if emb else None
        self.norm1 = nn.GroupNorm(groups, outputs, 1e-5)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, outputs, 1e-5)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(x)
        if self.emb is not None:
            h = h + self.emb(emb)[:, :, None, None]
        return F.silu(self.norm2(self.conv2(F.silu(self.norm1(h)))))


class Attention(nn.Module):
    def __init__(self, channels: int, heads: int, groups: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels, eps)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.projection = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        rows = self.qkv(self.norm(x).flatten(2).transpose(1, 2))
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in rows.chunk(3, dim=2))
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.projection(h).transpose(1, 2).unflatten(2, (height, width))


class Resample(nn.Module):
    """A 3x3 convolution that halves, padded all round or (asymmetric) at the far edges, or doubles first."""

    def __init__(self, channels: int, up: bool, asymmetric: bool = False) -> None:
        super().__init__()
        self.up, self.border = up, (0, 1, 0, 1) if asymmetric else (1, 1, 1, 1)
        self.conv = nn.Conv2d(channels, channels, 3, stride=1 if up else 2, padding=1 if up else 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest") if self.up else F.pad(x, self.border))


class Level(nn.Module):
    def __init__(self, blocks: list[ResBlock], attentions: list[Attention]) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self.attention = nn.ModuleList(attentions)

    def stage(self, j: int, h: Tensor, emb: Tensor) -> Tensor:
        h = self.block[j](h, emb)
        return self.attention[j](h) if len(self.attention) else h


class TwinUNet(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        base, groups, eps, depth = config.base_channels, config.groups, config.norm_eps, config.num_res_blocks
        widths = [base * mult for mult in config.channel_mults]
        shorter = config.image_size if isinstance(config.image_size, int) else min(config.image_size)
        attends = [shorter // 2**i in config.attention_resolutions for i in range(len(widths))]
        emb = 4 * base if config.time_embedding == "resblock" else None

        def block(inputs: int, outputs: int) -> ResBlock:
            return ResBlock(inputs, outputs, emb, groups, eps)

        def attention(channels: int) -> Attention:
            heads = channels // config.head_channels if config.head_channels else config.num_heads
            return Attention(channels, heads, groups, eps)

        self.time = TimeEmbedding(base, config.num_classes, config.frequency_shift, config.cos_first)
        self.conv_in = nn.Conv2d(config.in_channels, base, 3, padding=1)
        self.input_emb = None if emb else nn.Linear(4 * base, base)

        self.down = nn.ModuleList()
        kept, last = [base], base
        for i, width in enumerate(widths):
            level = Level(
                [block(last if j == 0 else width, width) for j in range(depth)],
                [attention(width) for _ in range(depth)] if attends[i] else [],
            )
            kept += [width] * depth
            if i + 1 < len(widths):
                level.downsample = Resample(width, up=False, asymmetric=config.asymmetric_padding)
                kept.append(width)
            self.down.append(level)
            last = width

        self.middle = nn.ModuleDict({"block1": block(last, last), "block2": block(last, last)})
        if config.middle_attention:
            self.middle["attention"] = attention(last)

        ups = []
        for i in range(len(widths) - 1, -1, -1):
            width, blocks = widths[i], []
            for _ in range(depth + 1):
                blocks.append(block(last + kept.pop(), width))
                last = width
            level = Level(blocks, [attention(width) for _ in range(depth + 1)] if attends[i] else [])
            if i:
                level.upsample = Resample(width, up=True)
            ups.append(level)
        self.up = nn.ModuleList(reversed(ups))

        self.norm_out = nn.GroupNorm(groups, base * config.channel_mults[0], eps)
        self.conv_out = nn.Conv2d(base * config.channel_mults[0], config.out_channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        emb = self.time(t, labels)
        h = self.conv_in(x)
        if self.input_emb is not None:
            h = h + self.input_emb(emb)[:, :, None, None]
        kept = [h]
        for level in self.down:
            for j in range(len(level.block)):
                h = level.stage(j, h, emb)
                kept.append(h)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
                kept.append(h)
        h = self.middle["block1"](h, emb)
        if "attention" in self.middle:
            h = self.middle["attention"](h)
        h = self.middle["block2"](h, emb)
        for level in reversed(self.up):
            for j in range(len(level.block)):
                h = level.stage(j, torch.cat((h, kept.pop()), dim=1), emb)
            if hasattr(level, "upsample"):
                h = level.upsample(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class TwinSimpleUNet(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        base = config.base_channels
        widths = [base * mult for mult in config.channel_mults]
        emb = 4 * base if config.time_embedding == "resblock" else None

        def block(inputs: int, outputs: int) -> DoubleConv:
            return DoubleConv(inputs, outputs, emb, config.groups)

        self.time = TimeEmbedding(base, config.num_classes)
        self.conv_in = nn.Conv2d(config.in_channels, base, 3, padding=1)
        self.input_emb = None if emb else nn.Linear(4 * base, base)
        entering = [base, *widths[:-1]]
        self.down = nn.ModuleList(block(a, b) for a, b in zip(entering[:-1], widths[:-1], strict=True))
        self.middle = block(entering[-1], widths[-1])
        self.up = nn.ModuleList(block(below + b, b) for below, b in zip(widths[1:], widths[:-1], strict=True))
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        emb = self.time(t, labels)
        h = self.conv_in(x)
        if self.input_emb is not None:
            h = h + self.input_emb(emb)[:, :, None, None]
        kept = []
        for block in self.down:
            h = block(h, emb)
            kept.append(h)
            h = F.avg_pool2d(h, 2)
        h = self.middle(h, emb)
        for block in reversed(self.up):
            h = F.interpolate(h, scale_factor=2, mode="nearest")
            h = block(torch.cat((h, kept.pop()), dim=1), emb)
        return self.conv_out(h)


def named(twin: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    """Our name of each of the twin's parameters, the module it belongs to, and itself."""
    renamed = {nn.GroupNorm: {"weight": "gamma", "bias": "beta"}, nn.Embedding: {"weight": "table"}}
    for path, module in twin.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            yield f"{path}.{renamed.get(type(module), {}).get(name, name)}", module, parameter


def nchw(x: np.ndarray) -> Tensor:
    """An NHWC array of ours as a tensor."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def nhwc(x: Tensor) -> np.ndarray:
    """A tensor in our layout."""
    return np.moveaxis(x.detach().numpy(), 1, -1)


def load(twin: nn.Module, values: Mapping[str, np.ndarray]) -> nn.Module:
    """Fills the twin with our parameters, all of them or a KeyError; returns it in their dtype."""
    left = dict(values)
    twin.to(torch.from_numpy(next(iter(left.values()))).dtype)
    for name, module, parameter in named(twin):
        value = left.pop(name)
        if parameter.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
        elif isinstance(module, nn.Linear) and parameter.ndim == 2:
            value = value.T
        if parameter.shape != value.shape:
            raise KeyError(f"{name} is {value.shape} in our layout, {tuple(parameter.shape)} in the twin")
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(value.copy()))
    if left:
        raise KeyError(f"the twin has no {', '.join(left)}")
    return twin


def ours(twin: nn.Module, gradients: bool = False) -> dict[str, np.ndarray]:
    """The twin's parameters, or their gradients, under our names and in our layout."""
    found = {}
    for name, module, parameter in named(twin):
        value = (parameter.grad if gradients else parameter.detach()).numpy()
        if parameter.ndim == 4:
            value = value.transpose(2, 3, 1, 0)
        elif isinstance(module, nn.Linear) and parameter.ndim == 2:
            value = value.T
        found[name] = value
    return found


def squared_terms(module: nn.Module, x: Tensor, dy: Tensor) -> list[Tensor]:
    """For a layer's parameters in their order, the sums of the squares of the terms that their gradients are sums of.

    A layer is linear in them, and so is the same layer with its input's numbers squared: what comes back through that
    from dy^2 are these sums.
    """
    x = x.detach()
    with torch.enable_grad():
        if isinstance(module, nn.GroupNorm):
            squares = F.group_norm(x, module.num_groups, eps=module.eps) ** 2
            y = squares * module.weight[:, None, None] + module.bias[:, None, None]
        else:
            y = module.forward(x if isinstance(module, nn.Embedding) else x**2)
        return list(torch.autograd.grad(y, list(module.parameters()), dy.detach() ** 2))


def watch_terms(twin: nn.Module) -> dict[str, float]:
    """What the next backward pass fills: by our names, the root of the sum of all `squared_terms` of a parameter."""
    found, names = {}, {parameter: name for name, _, parameter in named(twin)}

    def watch(module: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> None:
        def measure(dy: Tensor) -> None:
            for parameter, squares in zip(module.parameters(), squared_terms(module, inputs[0], dy), strict=True):
                found[names[parameter]] = float(squares.sum().sqrt())

        y.register_hook(measure)

    for module in {module for _, module, _ in named(twin)}:
        module.register_forward_hook(watch)
    return found


def twin_of(model: Any) -> nn.Module:
    """The twin of a model of ours, with its parameters."""
    kind = TwinUNet if type(model).__name__ == "UNet" else TwinSimpleUNet
    return load(kind(model.config), model.named_params())
