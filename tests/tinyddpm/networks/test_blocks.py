"""Every block's backward against the complex step (see `test_layers.check_gradients`)."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tinyddpm.networks.test_layers import (
    BACKEND,
    batches,
    build,
    check_gradients,
    seeds,
    sides,
    simple,
    simple_backward,
)
from tinyddpm.networks.blocks import AttentionBlock, DoubleConv, Downsample, ResBlock
from tinyddpm.networks.conditioning import EmbeddingBias, TimeEmbedding
from tinyddpm.networks.layers import DropoutKey

keys = st.none() | st.builds(DropoutKey, st.integers(0, 2**40), st.integers(0, 1000), st.just(0))


@given(
    n=batches,
    base_channels=st.integers(2, 9),
    num_classes=st.none() | st.integers(1, 4),
    share=st.sampled_from([0.0, 0.4, 0.9]),
    cos_first=st.booleans(),
    seed=seeds,
)
@settings(max_examples=30, deadline=None)
def test_time_embedding(
    n: int, base_channels: int, num_classes: int | None, share: float, cos_first: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    t = rng.integers(0, 1000, n)
    labels = None if num_classes is None else rng.integers(0, num_classes + 1, n)
    shift = share * (base_channels // 2)

    def backward(block: TimeEmbedding, demb: np.ndarray, tape: list[Any]) -> list[np.ndarray]:
        assert block.backward(demb, tape) is None
        return []

    check_gradients(
        lambda scope: TimeEmbedding(scope, base_channels, num_classes, shift, cos_first),
        [],
        lambda block, tape: block.forward(t, labels, np.float64, tape),
        backward,
        rng,
    )


@given(n=batches, height=sides, width=sides, channels=st.integers(1, 4), emb=st.integers(1, 5), seed=seeds)
@settings(max_examples=20, deadline=None)
def test_embedding_bias(n: int, height: int, width: int, channels: int, emb: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs = [rng.standard_normal((n, height, width, channels)), rng.standard_normal((n, emb))]
    check_gradients(
        lambda scope: EmbeddingBias(scope, emb, channels),
        inputs,
        lambda block, x, emb, tape: block.forward(x, emb, tape),
        lambda block, dy, tape: list(block.backward(dy, tape)),
        rng,
    )


@pytest.mark.parametrize("kind", [ResBlock, DoubleConv])
@given(
    n=batches,
    height=sides,
    width=sides,
    groups=st.integers(1, 3),
    widths=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    emb=st.none() | st.integers(1, 5),
    eps=st.sampled_from([1e-3, 1e-5]),
    dropout=st.sampled_from([0.0, 0.5]),
    key=keys,
    joined=st.integers(0, 8),
    seed=seeds,
)
@settings(max_examples=40, deadline=None)
def test_convolution_blocks(
    kind: type,
    n: int,
    height: int,
    width: int,
    groups: int,
    widths: tuple[int, int],
    emb: int | None,
    eps: float,
    dropout: float,
    key: DropoutKey | None,
    joined: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    channels = [groups * w for w in widths]
    # A residual block that joins a skip connection always changes the number of channels
    joined = joined % channels[0] if kind is ResBlock and channels[0] != channels[1] else 0
    inputs = [rng.standard_normal((n, height, width, channels[0] - joined))]
    if emb is not None:
        inputs.append(rng.standard_normal((n, emb)))
    if joined:
        inputs.append(rng.standard_normal((n, height, width, joined)))

    def make(scope: Any) -> Any:
        more = (eps,) if kind is ResBlock else ()
        return kind(scope, *channels, emb, groups, *more, dropout)

    def forward(block: Any, *args: Any) -> Any:
        x, *rest, tape = args
        skip = {"skip": rest.pop()} if joined else {}
        return block.forward(x, rest[0] if rest else None, tape, key, **skip)

    def backward(block: Any, dy: np.ndarray, tape: list[Any]) -> list[np.ndarray]:
        gradients = block.backward(dy, tape)
        present = [True, emb is not None, *([joined > 0] if kind is ResBlock else [])]
        assert [gradient is not None for gradient in gradients] == present
        return [gradient for gradient in gradients if gradient is not None]

    check_gradients(make, inputs, forward, backward, rng)


@given(
    n=batches,
    height=sides,
    width=sides,
    heads=st.integers(1, 3),
    per_head=st.integers(1, 3),
    data=st.data(),
    seed=seeds,
)
@settings(max_examples=40, deadline=None)
def test_attention_block(
    n: int, height: int, width: int, heads: int, per_head: int, data: st.DataObject, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    channels = heads * per_head
    groups = data.draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
    x = rng.standard_normal((n, height, width, channels))

    def make(scope: Any) -> AttentionBlock:
        return AttentionBlock(scope, channels, heads, groups, 1e-5)

    check_gradients(make, [x], simple, simple_backward, rng)


@given(n=batches, height=sides, width=sides, channels=st.integers(1, 4), asymmetric=st.booleans(), seed=seeds)
@settings(max_examples=30, deadline=None)
def test_downsample(n: int, height: int, width: int, channels: int, asymmetric: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 2 * height, 2 * width, channels))
    block, _ = build(lambda scope: Downsample(scope, channels, asymmetric))
    assert block.forward(x, None).shape == (n, height, width, channels)
    check_gradients(lambda scope: Downsample(scope, channels, asymmetric), [x], simple, simple_backward, rng)


class TestAtInitialisation:
    X = np.random.default_rng(0).standard_normal((2, 4, 6, 4))

    def test_a_residual_block_is_its_shortcut(self) -> None:
        block, _ = build(lambda scope: ResBlock(scope, 4, 4, None, 2, 1e-5, 0.0))
        np.testing.assert_array_equal(block.forward(self.X, None, None, None), self.X)
        block, _ = build(lambda scope: ResBlock(scope, 4, 6, None, 2, 1e-5, 0.0))
        shortcut = block.shortcut.forward(self.X, None)
        np.testing.assert_array_equal(block.forward(self.X, None, None, None), shortcut)

    def test_an_attention_block_is_the_identity(self) -> None:
        block, _ = build(lambda scope: AttentionBlock(scope, 4, 2, 2, 1e-5))
        np.testing.assert_array_equal(block.forward(self.X, None), self.X)


def test_the_label_embedding_is_added_before_the_last_activation() -> None:
    block, parameters = build(lambda scope: TimeEmbedding(scope, 4, 2, 0.0, True))
    t, labels = np.array([3, 500]), np.array([2, 0])
    sinusoids, _ = BACKEND.sinusoidal_embedding(t, 4, dtype=np.float64)
    h, _ = BACKEND.silu(block.linear1.forward(sinusoids, None))
    h = block.linear2.forward(h, None) + parameters.values["layer.label.table"][labels]
    expected, _ = BACKEND.silu(h)
    np.testing.assert_allclose(block.forward(t, labels, np.float64, None), expected, rtol=1e-13)
