"""Conditioning: what the blocks are told besides the image, timestep and label as one embedding."""

from typing import Any

from backends import Array, DType
from tinyddpm.networks.layers import (
    Embedding,
    Linear,
    Tape,
    keep,
)
from tinyddpm.networks.parameters import Scope


class TimeEmbedding:
    """Embedding of timestep and label, shared by all blocks: sinusoids, two linear layers with SiLU, a label's row.

    (N,) timesteps, (N,) labels or None -> (N, E) with E = 4 base channels (Ho et al. 2020, appendix B).
    The SiLU that every block applies first is applied here, once. Label `num_classes` means "no label",
    for which there is a row if no_label.
    """

    def __init__(
        self,
        scope: Scope,
        base_channels: int,
        num_classes: int | None,
        frequency_shift: float,
        cos_first: bool,
        no_label: bool = True,
    ) -> None:
        self.backend, self.dim = scope.backend, base_channels
        self.frequency_shift, self.cos_first = frequency_shift, cos_first
        self.linear1 = Linear(scope.scope("linear1"), base_channels, 4 * base_channels)
        self.linear2 = Linear(scope.scope("linear2"), 4 * base_channels, 4 * base_channels)
        self.label = Embedding(scope.scope("label"), num_classes + no_label, 4 * base_channels) if num_classes else None

    def forward(self, t: Array, labels: Array | None, dtype: DType, tape: Tape) -> Array:
        be = self.backend
        sinusoids, _ = be.sinusoidal_embedding(
            t, self.dim, frequency_shift=self.frequency_shift, cos_first=self.cos_first, dtype=dtype
        )
        h, ctx = be.silu(self.linear1.forward(sinusoids, tape))
        keep(tape, ctx)
        h = self.linear2.forward(h, tape)
        if self.label is not None:
            h, _ = be.add(h, self.label.forward(labels, tape))
        emb, ctx = be.silu(h)
        keep(tape, ctx)
        return emb

    def backward(self, demb: Array, tape: list[Any]) -> None:
        be = self.backend
        (dh,) = be.silu_backward(demb, tape.pop())
        if self.label is not None:
            self.label.backward(dh, tape)
        dh = self.linear2.backward(dh, tape)
        (dh,) = be.silu_backward(dh, tape.pop())
        self.linear1.backward(dh, tape)


class EmbeddingBias:
    """Adds a linear map of the embedding to every pixel: how the timestep reaches a block or the first convolution."""

    def __init__(self, scope: Scope, emb_channels: int, channels: int) -> None:
        self.backend = scope.backend
        self.linear = Linear(scope, emb_channels, channels)

    def forward(self, x: Array, emb: Array, tape: Tape) -> Array:
        y, _ = self.backend.add_shift(x, self.linear.forward(emb, tape))
        return y

    def backward(self, dy: Array, tape: list[Any]) -> tuple[Array, Array]:
        """(dx, demb); dx is dy itself."""
        dx, dshift = self.backend.add_shift_backward(dy, None)
        return dx, self.linear.backward(dshift, tape)
