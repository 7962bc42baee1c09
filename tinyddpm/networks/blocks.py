"""The U-Nets' building blocks, forward above backward. Images (N, H, W, C); embeddings (N, E)."""

from typing import Any, NamedTuple

from backends import Array, Backend
from tinyddpm.networks.conditioning import EmbeddingBias
from tinyddpm.networks.layers import (
    Conv2d,
    Dropout,
    DropoutKey,
    GroupNormSiLU,
    Linear,
    NormAttention,
    NormConv2d,
    Shortcut,
    Tape,
)
from tinyddpm.networks.parameters import Scope


class Recompute(NamedTuple):
    """What a block keeps so that its backward can recompute what its layers would have kept."""

    x: Array
    inputs: Any  # skip and shift of a residual block, the embedding of a double convolution
    dropout_key: DropoutKey | None


class ResBlock:
    """norm, SiLU, conv, + embedding, norm, SiLU, dropout, conv, + the input (Ho et al. 2020, appendix B).

    The input passes a 1x1 convolution where the channels change. emb_channels None: no embedding. A skip
    connection is joined to the input along channels; inputs counts both. recompute: the activations between the
    two convolutions are not kept but recomputed in backward (Chen et al. 2016, "Training deep nets with sublinear
    memory cost").
    """

    def __init__(
        self,
        scope: Scope,
        inputs: int,
        outputs: int,
        emb_channels: int | None,
        groups: int,
        eps: float,
        dropout: float,
    ) -> None:
        self.conv1 = NormConv2d(scope.scope("norm1"), scope.scope("conv1"), inputs, outputs, groups, eps)
        self.emb = Linear(scope.scope("emb"), emb_channels, outputs) if emb_channels else None
        self.dropout = Dropout(scope, dropout, scope.number())
        self.conv2 = NormConv2d(scope.scope("norm2"), scope.scope("conv2"), outputs, outputs, groups, eps, zero=True)
        self.shortcut = Shortcut(scope.scope("shortcut"), inputs, outputs) if inputs != outputs else None

    def forward(
        self,
        x: Array,
        emb: Array,
        tape: Tape,
        dropout_key: DropoutKey | None,
        skip: Array | None = None,
        recompute: bool = False,
    ) -> Array:
        residual = x if self.shortcut is None else self.shortcut.forward(x, tape, skip)
        shift = None if self.emb is None else self.emb.forward(emb, tape)
        h = self.conv1.forward(x, tape, skip=skip, shift=shift)
        y = self.conv2.forward(h, tape, residual=residual, mask=self.dropout.mask(h, dropout_key))
        if tape is not None and recompute:
            tape[-1] = tape[-1]._replace(x=None, mask=None)
            tape.append(Recompute(x, (skip, shift), dropout_key))
        return y

    def backward(self, dy: Array, tape: list[Any]) -> tuple[Array, Array, Array]:
        """(dx, demb, dskip); demb is None without an embedding, dskip without a skip."""
        kept = tape.pop() if isinstance(tape[-1], Recompute) else None
        if kept is not None:
            skip, shift = kept.inputs
            h = self.conv1.forward(kept.x, None, skip=skip, shift=shift)
            tape[-1] = tape[-1]._replace(x=h, mask=self.dropout.mask(h, kept.dropout_key))
            del kept, skip, h  # drop the references, or their arrays stay alive through the calls below
        dh, _, _, dresidual = self.conv2.backward(dy, tape)
        dx, dskip, dshift, _ = self.conv1.backward(dh, tape, dresidual if self.shortcut is None else None)
        demb = None if self.emb is None else self.emb.backward(dshift, tape)
        if self.shortcut is not None:
            dx, dskip = self.shortcut.backward(dresidual, tape, dx, dskip)
        return dx, demb, dskip


class DoubleConv:
    """Twice conv, norm, SiLU, with no way around them (Ronneberger, Fischer & Brox 2015, with group norm).

    The embedding, where there is one, is added to the first convolution's output. recompute: only the input is
    kept, and backward first runs forward again.
    """

    def __init__(
        self,
        scope: Scope,
        inputs: int,
        outputs: int,
        emb_channels: int | None,
        groups: int,
        dropout: float,
    ) -> None:
        self.conv1 = Conv2d(scope.scope("conv1"), inputs, outputs)
        self.emb = EmbeddingBias(scope.scope("emb"), emb_channels, outputs) if emb_channels else None
        self.norm1 = GroupNormSiLU(scope.scope("norm1"), outputs, groups, 1e-5)
        self.dropout = Dropout(scope, dropout, scope.number())
        self.conv2 = Conv2d(scope.scope("conv2"), outputs, outputs)
        self.norm2 = GroupNormSiLU(scope.scope("norm2"), outputs, groups, 1e-5)

    def forward(
        self, x: Array, emb: Array, tape: Tape, dropout_key: DropoutKey | None, recompute: bool = False
    ) -> Array:
        if tape is not None and recompute:
            tape.append(Recompute(x, emb, dropout_key))
            tape = None
        h = self.conv1.forward(x, tape)
        if self.emb is not None:
            h = self.emb.forward(h, emb, tape)
        h = self.norm1.forward(h, tape)
        h = self.dropout.forward(h, tape, dropout_key)
        h = self.conv2.forward(h, tape)
        return self.norm2.forward(h, tape)

    def backward(self, dy: Array, tape: list[Any]) -> tuple[Array, Array]:
        """(dx, demb); demb is None without an embedding."""
        kept = tape.pop() if isinstance(tape[-1], Recompute) else None
        if kept is not None:
            self.forward(kept.x, kept.inputs, tape, kept.dropout_key)
            del kept  # drop the reference, or its arrays stay alive through the calls below
        dh = self.norm2.backward(dy, tape)
        dh = self.conv2.backward(dh, tape)
        dh = self.dropout.backward(dh, tape)
        dh = self.norm1.backward(dh, tape)
        demb = None
        if self.emb is not None:
            dh, demb = self.emb.backward(dh, tape)
        return self.conv1.backward(dh, tape), demb


class AttentionBlock:
    """x + projection of multi-head self-attention over all pixels of the normalised x."""

    def __init__(self, scope: Scope, channels: int, num_heads: int, groups: int, eps: float) -> None:
        self.backend: Backend = scope.backend
        self.attention = NormAttention(scope.scope("norm"), scope.scope("qkv"), channels, num_heads, groups, eps)
        self.projection = Linear(scope.scope("projection"), channels, channels, zero=True)

    def forward(self, x: Array, tape: Tape) -> Array:
        h = self.projection.forward(self.attention.forward(x, tape), tape)
        y, _ = self.backend.add(x, self.backend.xp.reshape(h, x.shape))
        return y

    def backward(self, dy: Array, tape: list[Any]) -> Array:
        dh = self.backend.xp.reshape(dy, (dy.shape[0], -1, dy.shape[-1]))
        dh = self.attention.backward(self.projection.backward(dh, tape), tape)
        dx, _ = self.backend.add(dy, dh)
        return dx


class Downsample:
    """Half the resolution by a 3x3 convolution of stride 2.

    asymmetric: zeros after the last row and column only, as in Ho et al.'s code (`downsample`), instead of all round:
    https://github.com/hojonathanho/diffusion/blob/1e0dceb3b3495bbe19116a5e1b3596cd0706c543/diffusion_tf/models/unet.py
    """

    def __init__(self, scope: Scope, channels: int, asymmetric: bool) -> None:
        self.conv = Conv2d(scope.scope("conv"), channels, channels, stride=2, padding=(0, 1, 0, 1) if asymmetric else 1)

    def forward(self, x: Array, tape: Tape) -> Array:
        return self.conv.forward(x, tape)

    def backward(self, dy: Array, tape: list[Any]) -> Array:
        return self.conv.backward(dy, tape)
