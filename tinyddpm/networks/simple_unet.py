"""The simple U-Net: plain double convolutions, pooling, and the time added once, at the first input."""

from dataclasses import dataclass
from typing import Any

from backends import Array
from tinyddpm.checks import JsonConfig, both_sides
from tinyddpm.networks.blocks import DoubleConv, DropoutKey
from tinyddpm.networks.conditioning import EmbeddingBias, TimeEmbedding
from tinyddpm.networks.layers import Conv2d, Tape, keep
from tinyddpm.networks.model import Model, add_up
from tinyddpm.networks.parameters import Scope
from tinyddpm.networks.unet import check_unet_sizes


@dataclass(frozen=True)
class SimpleUNetConfig(JsonConfig):
    """Shape of a `SimpleUNet`: the fields of `UNetConfig` that it has, with the same meaning.

    time_embedding: "input", once, after the first convolution, or "resblock", into each double convolution.
    Raises InputError for values that do not fit together.
    """

    image_size: int | tuple[int, int] = 32
    in_channels: int = 1
    base_channels: int = 32
    channel_mults: tuple[int, ...] = (1, 2, 4)
    groups: int = 8
    num_classes: int | None = None
    time_embedding: str = "input"
    dropout: float = 0.0
    learned_variance: bool = False

    def __post_init__(self) -> None:
        check_unet_sizes(self)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return both_sides(self.image_size)

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return self.in_channels * (1 + self.learned_variance)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels at each level."""
        return tuple(self.base_channels * mult for mult in self.channel_mults)


class SimpleUNet(Model):
    """Predicts the noise (or x0, or v) in an image, (N, H, W, C) -> (N, H, W, C) or 2C; see `Model` for its use.

    The U-Net of Ronneberger, Fischer & Brox 2015 with average pooling, repeated pixels on the way up, group
    normalisation and SiLU.
    """

    config_type = SimpleUNetConfig
    config: SimpleUNetConfig

    def build(self, scope: Scope) -> None:
        config = self.config
        emb_channels = 4 * config.base_channels
        block_emb = emb_channels if config.time_embedding == "resblock" else None

        def block(scope: Scope, inputs: int, outputs: int) -> DoubleConv:
            return DoubleConv(scope, inputs, outputs, block_emb, config.groups, config.dropout)

        self.time = TimeEmbedding(scope.scope("time"), config.base_channels, config.num_classes, 0.0, True)
        self.conv_in = Conv2d(scope.scope("conv_in"), config.in_channels, config.base_channels)
        self.input_emb = (
            EmbeddingBias(scope.scope("input_emb"), emb_channels, config.base_channels) if block_emb is None else None
        )
        *outer, inner = config.channels
        channels = config.base_channels
        self.down: list[DoubleConv] = []
        for i, outputs in enumerate(outer):
            self.down.append(block(scope.scope(f"down.{i}"), channels, outputs))
            channels = outputs
        self.middle = block(scope.scope("middle"), channels, inner)
        channels = inner
        self.up: list[DoubleConv] = []
        for i, outputs in reversed(list(enumerate(outer))):
            self.up.append(block(scope.scope(f"up.{i}"), channels + outputs, outputs))
            channels = outputs
        self.conv_out = Conv2d(scope.scope("conv_out"), channels, config.out_channels, zero=True)

    def forward(self, x: Array, t: Array, labels: Array | None, tape: Tape, dropout_key: DropoutKey | None) -> Array:
        be = self.backend
        emb = self.time.forward(t, labels, self.sinusoid_dtype(), tape)
        h = self.conv_in.forward(x, tape)
        if self.input_emb is not None:
            h = self.input_emb.forward(h, emb, tape)
        skips = []
        for block in self.down:
            h = block.forward(h, emb, tape, dropout_key, self.recompute)
            skips.append(h)
            h, ctx = be.average_pool(h)
            keep(tape, ctx)
        h = self.middle.forward(h, emb, tape, dropout_key, self.recompute)
        for block in self.up:
            h, ctx = be.upsample_nearest(h)
            keep(tape, ctx)
            h, ctx = be.concat_channels(h, skips.pop())
            keep(tape, ctx)
            h = block.forward(h, emb, tape, dropout_key, self.recompute)
        return self.conv_out.forward(h, tape)

    def backward(self, dy: Array, tape: list[Any]) -> Array:
        """Undoes `forward` line by line. dy: like the output. Returns dx; `grads` holds the parameters' gradients."""
        be = self.backend
        dh = self.conv_out.backward(self.gradient(dy, tape), tape)
        dskips, dembs = [], []
        for block in reversed(self.up):
            dh, demb = block.backward(dh, tape)
            dembs.append(demb)
            dh, dskip = be.concat_channels_backward(dh, tape.pop())
            dskips.append(dskip)
            (dh,) = be.upsample_nearest_backward(dh, tape.pop())
        dh, demb = self.middle.backward(dh, tape)
        dembs.append(demb)
        for block in reversed(self.down):
            (dh,) = be.average_pool_backward(dh, tape.pop())
            dh, _ = be.add(dh, dskips.pop())
            dh, demb = block.backward(dh, tape)
            dembs.append(demb)
        if self.input_emb is not None:
            dh, demb = self.input_emb.backward(dh, tape)
            dembs.append(demb)
        dx = self.conv_in.backward(dh, tape)
        self.time.backward(add_up(self.backend, dembs), tape)
        return dx
