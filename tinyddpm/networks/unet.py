"""The U-Net of DDPM (Ho et al. 2020, appendix B): residual blocks, attention, time in every block."""

from dataclasses import dataclass
from typing import Any

from backends import Array
from tinyddpm.checks import (
    JsonConfig,
    both_sides,
    check_choice,
    check_flag,
    check_number,
    check_sides,
    check_tuple,
    check_whole,
    settle,
)
from tinyddpm.errors import InputError
from tinyddpm.networks.blocks import AttentionBlock, Downsample, DropoutKey, ResBlock
from tinyddpm.networks.conditioning import EmbeddingBias, TimeEmbedding
from tinyddpm.networks.layers import Conv2d, NormConv2d, Tape, UpsampleConv2d
from tinyddpm.networks.model import Model, add_up, check_size
from tinyddpm.networks.parameters import Scope

TIME_EMBEDDINGS = ("resblock", "input")
# A tuple of its own: where it is found, nobody chose it, and it gives way; a (8,) that was written does not
ATTENTION_AT_8 = tuple(range(8, 9))


@dataclass(frozen=True)
class UNetConfig(JsonConfig):
    """Shape of a `UNet`.

    image_size: height and width, or one number for both; len(channel_mults) - 1 halvings must divide it.
    base_channels: at full resolution; channel_mults: times these at each level; num_res_blocks: per level.
    attention_resolutions: sides in pixels (not down-sampling factors) of the levels with attention, by default 8, or
    the innermost level's where none has that; of an oblong image the shorter side counts. num_heads: of each attention,
    or head_channels: the channels of each head, in place of num_heads. groups: of each group normalisation.
    num_classes: for labels 0 … num_classes - 1; None: unconditional. time_embedding: "resblock", into each
    block, or "input", once, after the first convolution. dropout: in each block, in [0, 1). learned_variance: whether
    the output has twice in_channels, the latter half for `Diffusion(variance="learned")`.

    The rest is where codes of the same architecture differ, as in `load_diffusers`: norm_eps; whether the middle
    has attention; asymmetric padding when down-sampling; the sinusoids' frequency shift and order; whether the classes
    have "no label" beside them, without which every call needs labels.

    Raises InputError for values that do not fit together.
    """

    image_size: int | tuple[int, int] = 32
    in_channels: int = 1
    base_channels: int = 32
    channel_mults: tuple[int, ...] = (1, 2, 4)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = ATTENTION_AT_8
    num_heads: int = 4
    head_channels: int | None = None
    groups: int = 8
    num_classes: int | None = None
    time_embedding: str = "resblock"
    dropout: float = 0.0
    norm_eps: float = 1e-5
    middle_attention: bool = True
    asymmetric_padding: bool = False
    frequency_shift: float = 0.0
    cos_first: bool = True
    no_label: bool = True
    learned_variance: bool = False

    def __post_init__(self) -> None:
        check_unet_sizes(self)
        settle(self, "num_res_blocks", check_whole)
        settle(self, "num_heads", check_whole)
        if self.head_channels is not None:
            settle(self, "head_channels", check_whole)
        settle(self, "norm_eps", check_number, 0, 1, low_open=True)
        settle(self, "frequency_shift", check_number, 0, self.base_channels // 2, high_open=True)
        for name in ("middle_attention", "asymmetric_padding", "cos_first", "no_label"):
            settle(self, name, check_flag)
        if self.attention_resolutions is ATTENTION_AT_8:
            object.__setattr__(self, "attention_resolutions", levels_with_attention(ATTENTION_AT_8, self.resolutions))
        settle(self, "attention_resolutions", check_tuple, "(8,)")
        for side in self.attention_resolutions:
            if side not in self.resolutions:
                raise InputError(
                    f"attention_resolutions names {side}, but the levels of this U-Net have sides "
                    f"{', '.join(map(str, self.resolutions))}; resolutions are pixels, not down-sampling factors"
                )
        for channels in self.attention_channels:
            name = "num_heads" if self.head_channels is None else "head_channels"
            if channels % getattr(self, name):
                raise InputError(f"{name}={getattr(self, name)} does not divide a level of {channels} channels")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return both_sides(self.image_size)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The shorter side at each level."""
        return tuple(min(self.size) >> level for level in range(len(self.channel_mults)))

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels at each level."""
        return tuple(self.base_channels * mult for mult in self.channel_mults)

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return self.in_channels * (1 + self.learned_variance)

    @property
    def attention_channels(self) -> tuple[int, ...]:
        """Channels of every attention in the U-Net."""
        levels = [c for c, side in zip(self.channels, self.resolutions, strict=True) if self.attends(side)]
        return (*levels, self.channels[-1]) if self.middle_attention else tuple(levels)

    def attends(self, side: int) -> bool:
        """Whether levels of that side have attention."""
        return side in self.attention_resolutions

    def heads(self, channels: int) -> int:
        """Number of heads of an attention over this many channels."""
        return self.num_heads if self.head_channels is None else channels // self.head_channels


def levels_with_attention(wanted: tuple[int, ...], resolutions: tuple[int, ...]) -> tuple[int, ...]:
    """Those of the wanted sides that a level has, or the innermost level's where there is none."""
    return tuple(side for side in wanted if side in resolutions) or resolutions[-1:]


def check_unet_sizes(config: Any) -> None:
    """Checks what the configs of both U-Nets share. Raises InputError."""
    settle(config, "image_size", check_sides)
    settle(config, "in_channels", check_whole)
    # one sine and one cosine of the time at the least
    settle(config, "base_channels", check_whole, least=2)
    settle(config, "groups", check_whole)
    settle(config, "channel_mults", check_tuple, "(1, 2, 4)")
    if not config.channel_mults:
        raise InputError("channel_mults must name at least one level, such as (1, 2, 4), got ()")
    for mult in config.channel_mults:
        if config.base_channels * mult % config.groups:
            raise InputError(
                f"groups={config.groups} does not divide the {config.base_channels * mult} channels of a level "
                f"(base_channels={config.base_channels} times {mult})"
            )
    check_size(config.size, len(config.channel_mults))
    check_choice("time_embedding", config.time_embedding, TIME_EMBEDDINGS)
    settle(config, "dropout", check_number, 0, 1, high_open=True)
    settle(config, "learned_variance", check_flag)
    if config.num_classes is not None:
        settle(config, "num_classes", check_whole)


class Level:
    """The blocks of one resolution and, where there is one, the step to the next."""

    def __init__(
        self,
        blocks: list[ResBlock],
        attentions: list[AttentionBlock | None],
        resample: Downsample | UpsampleConv2d | None,
    ) -> None:
        self.blocks, self.attentions, self.resample = blocks, attentions, resample


class UNet(Model):
    """Predicts the noise (or x0, or v) in an image, (N, H, W, C) -> (N, H, W, C) or, with a learned variance, 2C; see
    `Model` for its use."""

    config_type = UNetConfig
    config: UNetConfig

    def build(self, scope: Scope) -> None:
        config = self.config
        emb_channels = 4 * config.base_channels
        block_emb = emb_channels if config.time_embedding == "resblock" else None

        def block(scope: Scope, inputs: int, outputs: int) -> ResBlock:
            return ResBlock(scope, inputs, outputs, block_emb, config.groups, config.norm_eps, config.dropout)

        def attention(scope: Scope, channels: int) -> AttentionBlock:
            return AttentionBlock(scope, channels, config.heads(channels), config.groups, config.norm_eps)

        self.time = TimeEmbedding(
            scope.scope("time"),
            config.base_channels,
            config.num_classes,
            config.frequency_shift,
            config.cos_first,
            config.no_label,
        )
        self.conv_in = Conv2d(scope.scope("conv_in"), config.in_channels, config.base_channels)
        self.input_emb = (
            EmbeddingBias(scope.scope("input_emb"), emb_channels, config.base_channels) if block_emb is None else None
        )

        levels = len(config.channels)
        skips, channels = [config.base_channels], config.base_channels
        self.down: list[Level] = []
        for i, (outputs, side) in enumerate(zip(config.channels, config.resolutions, strict=True)):
            here = scope.scope(f"down.{i}")
            blocks, attentions = [], []
            for j in range(config.num_res_blocks):
                blocks.append(block(here.scope(f"block.{j}"), channels, outputs))
                attentions.append(attention(here.scope(f"attention.{j}"), outputs) if config.attends(side) else None)
                channels = outputs
                skips.append(channels)
            down = None
            if i < levels - 1:
                down = Downsample(here.scope("downsample"), channels, config.asymmetric_padding)
                skips.append(channels)
            self.down.append(Level(blocks, attentions, down))

        middle = scope.scope("middle")
        self.middle1 = block(middle.scope("block1"), channels, channels)
        self.middle_attention = attention(middle.scope("attention"), channels) if config.middle_attention else None
        self.middle2 = block(middle.scope("block2"), channels, channels)

        self.up: list[Level] = []
        for i in reversed(range(levels)):
            here, outputs = scope.scope(f"up.{i}"), config.channels[i]
            blocks, attentions = [], []
            for j in range(config.num_res_blocks + 1):
                blocks.append(block(here.scope(f"block.{j}"), channels + skips.pop(), outputs))
                attends = config.attends(config.resolutions[i])
                attentions.append(attention(here.scope(f"attention.{j}"), outputs) if attends else None)
                channels = outputs
            up = UpsampleConv2d(here.scope("upsample").scope("conv"), channels) if i > 0 else None
            self.up.append(Level(blocks, attentions, up))

        self.out = NormConv2d(
            scope.scope("norm_out"),
            scope.scope("conv_out"),
            channels,
            config.out_channels,
            config.groups,
            config.norm_eps,
            zero=True,
        )

    def forward(self, x: Array, t: Array, labels: Array | None, tape: Tape, dropout_key: DropoutKey | None) -> Array:
        emb = self.time.forward(t, labels, self.sinusoid_dtype(), tape)
        h = self.conv_in.forward(x, tape)
        if self.input_emb is not None:
            h = self.input_emb.forward(h, emb, tape)
        skips = [h]
        for level in self.down:
            for block, attention in zip(level.blocks, level.attentions, strict=True):
                h = block.forward(h, emb, tape, dropout_key, recompute=self.recompute)
                if attention is not None:
                    h = attention.forward(h, tape)
                skips.append(h)
            if level.resample is not None:
                h = level.resample.forward(h, tape)
                skips.append(h)

        h = self.middle1.forward(h, emb, tape, dropout_key, recompute=self.recompute)
        if self.middle_attention is not None:
            h = self.middle_attention.forward(h, tape)
        h = self.middle2.forward(h, emb, tape, dropout_key, recompute=self.recompute)

        for level in self.up:
            for block, attention in zip(level.blocks, level.attentions, strict=True):
                h = block.forward(h, emb, tape, dropout_key, skips.pop(), self.recompute)
                if attention is not None:
                    h = attention.forward(h, tape)
            if level.resample is not None:
                h = level.resample.forward(h, tape)

        return self.out.forward(h, tape)

    def backward(self, dy: Array, tape: list[Any]) -> Array:
        """Undoes `forward` line by line. dy: like the output. Returns dx; `grads` holds the parameters' gradients."""
        add = self.backend.add
        dh, _, _, _ = self.out.backward(self.gradient(dy, tape), tape)
        dskips, dembs = [], []
        for level in reversed(self.up):
            if level.resample is not None:
                dh = level.resample.backward(dh, tape)
            for block, attention in zip(reversed(level.blocks), reversed(level.attentions), strict=True):
                if attention is not None:
                    dh = attention.backward(dh, tape)
                dh, demb, dskip = block.backward(dh, tape)
                dembs.append(demb)
                dskips.append(dskip)

        dh, demb, _ = self.middle2.backward(dh, tape)
        dembs.append(demb)
        if self.middle_attention is not None:
            dh = self.middle_attention.backward(dh, tape)
        dh, demb, _ = self.middle1.backward(dh, tape)
        dembs.append(demb)

        for level in reversed(self.down):
            if level.resample is not None:
                dh, _ = add(dh, dskips.pop())
                dh = level.resample.backward(dh, tape)
            for block, attention in zip(reversed(level.blocks), reversed(level.attentions), strict=True):
                dh, _ = add(dh, dskips.pop())
                if attention is not None:
                    dh = attention.backward(dh, tape)
                dh, demb, _ = block.backward(dh, tape)
                dembs.append(demb)
        dh, _ = add(dh, dskips.pop())

        if self.input_emb is not None:
            dh, demb = self.input_emb.backward(dh, tape)
            dembs.append(demb)
        dx = self.conv_in.backward(dh, tape)
        self.time.backward(add_up(self.backend, dembs), tape)
        return dx
