"""What single operations are known to do beyond their gradients and their PyTorch twins."""

import math
import re

import numpy as np
import pytest
import scipy.signal
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from backends import OPS
from backends.ops.activation import silu, silu_backward
from backends.ops.attention import attention
from backends.ops.convolution import col2im, conv2d, im2col
from backends.ops.dropout import dropout
from backends.ops.embedding import embedding, embedding_backward, sinusoidal_embedding
from backends.ops.fused import group_norm_silu
from backends.ops.joining import concat_channels
from backends.ops.linear import linear
from backends.ops.losses import (
    huber_loss,
    huber_loss_backward,
    l1_loss,
    l1_loss_backward,
    mse_loss,
    mse_loss_backward,
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
)
from backends.ops.normalization import group_norm
from backends.ops.optimizer import adam, clip_by_global_norm, ema
from backends.ops.resampling import average_pool, average_pool_backward, upsample_nearest
from backends.testing import CASES, SEEDS, Arguments, directions
from backends.testing.registry import outputs


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("name", OPS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_float32_stays_float32_and_arguments_stay_as_they_were(name: str, data: st.DataObject):
    op, case = OPS[name], data.draw(CASES[name])
    case = {k: v.astype(np.float32) if isinstance(v, np.ndarray) and k != "indices" else v for k, v in case.items()}
    before = {k: v.copy() for k, v in case.items() if isinstance(v, np.ndarray)}
    result = op.forward(np, **case)
    if case.get("dtype") != "float64":
        assert {y.dtype for y in outputs(name, result)} == {np.dtype(np.float32)}
    if op.backward is not None:
        u = np.asarray(directions(data.draw(SEEDS)).standard_normal(np.shape(result[0])), np.float32)
        kept = u.copy()
        gradients = op.backward(np, u, result[1])
        assert {g.dtype for g in gradients if g is not None} == {np.dtype(np.float32)}
        np.testing.assert_array_equal(u, kept)
    for key, value in before.items():
        np.testing.assert_array_equal(case[key], value)


# --- convolution ---


@settings(max_examples=50, deadline=None)
@given(h=st.integers(5, 9), w=st.integers(5, 9), kh=st.integers(1, 5), kw=st.integers(1, 5), seed=SEEDS)
def test_conv2d_of_one_channel_is_a_cross_correlation(h: int, w: int, kh: int, kw: int, seed: int):
    rng = directions(seed)
    x, weight = rng.standard_normal((h, w)), rng.standard_normal((kh, kw))
    y, _ = conv2d(np, x[None, :, :, None], weight[:, :, None, None])
    np.testing.assert_allclose(y[0, :, :, 0], scipy.signal.correlate(x, weight, "valid", "direct"), atol=1e-12)
    full, _ = conv2d(np, x[None, :, :, None], weight[:, :, None, None], padding=(kh - 1, kh - 1, kw - 1, kw - 1))
    np.testing.assert_allclose(full[0, :, :, 0], scipy.signal.correlate(x, weight, "full", "direct"), atol=1e-12)


def test_conv2d_padding_is_top_bottom_left_right():
    x, weight = np.ones((1, 2, 3, 1)), np.ones((1, 1, 1, 1))
    y, _ = conv2d(np, x, weight, padding=(1, 2, 3, 4))
    expected = np.zeros((5, 10))
    expected[1:3, 3:6] = 1
    np.testing.assert_array_equal(y[0, :, :, 0], expected)


def test_conv2d_with_a_stride_reads_every_second_pixel():
    x = normal(2, 7, 8, 3)
    y, _ = conv2d(np, x, np.eye(3)[None, None], stride=2)
    np.testing.assert_array_equal(y, x[:, ::2, ::2])


def test_col2im_is_the_adjoint_of_im2col():
    x, kernel, stride, padding = normal(2, 5, 6, 3), (3, 2), 2, (0, 1, 2, 0)
    patches = im2col(np, x, kernel, stride, padding)
    u = normal(*patches.shape, seed=1)
    back = col2im(np, u, x.shape, kernel, stride, padding)
    np.testing.assert_allclose(np.sum(patches * u), np.sum(x * back), rtol=1e-12)


@pytest.mark.parametrize(
    ("x", "weight", "options", "message"),
    [
        ((1, 2, 5, 1), (3, 3, 1, 1), {}, "a kernel of 3 does not fit an axis of 2 padded by 0 + 0"),
        ((1, 5, 2, 1), (3, 5, 1, 1), {"padding": 1}, "a kernel of 5 does not fit an axis of 2 padded by 1 + 1"),
        ((1, 5, 5, 2), (3, 3, 4, 1), {}, "a convolution of 4 channels got x with 2"),
        ((1, 5, 5, 2), (3, 3, 2, 1), {"stride": 0}, "stride=0"),
        ((1, 5, 5, 2), (3, 3, 2, 1), {"padding": (0, 0, -1, 0)}, "padding=(0, 0, -1, 0)"),
    ],
)
def test_conv2d_says_what_does_not_fit(x: tuple, weight: tuple, options: dict, message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        conv2d(np, np.ones(x), np.ones(weight), **options)


# --- linear, normalisation, activation ---


def test_linear_says_which_channels_do_not_match():
    with pytest.raises(ValueError, match=r"2 channels got x with 4, shape \(3, 4\)"):
        linear(np, np.ones((3, 4)), np.ones((2, 5)))


@settings(max_examples=50, deadline=None)
@given(case=CASES["group_norm"])
def test_group_norm_leaves_mean_zero_and_variance_one(case: Arguments):
    channels, groups = case["x"].shape[-1], case["groups"]
    assume(case["x"].size >= 16 * groups * len(case["x"]))
    y, _ = group_norm(np, case["x"], np.ones(channels), np.zeros(channels), groups, eps=0.0)
    grouped = y.reshape(len(y), -1, groups, channels // groups)
    np.testing.assert_allclose(grouped.mean(axis=(1, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(grouped.var(axis=(1, 3)), 1, rtol=1e-12)


def test_group_norm_ignores_shift_and_scale_of_each_group():
    x, gamma, beta = normal(2, 4, 5, 6), normal(6, seed=1), normal(6, seed=2)
    y, _ = group_norm(np, x, gamma, beta, 2, eps=0.0)
    shifted = x * np.repeat([3.0, 0.5], 3) + np.repeat([7.0, -2.0], 3)
    np.testing.assert_allclose(group_norm(np, shifted, gamma, beta, 2, eps=0.0)[0], y, atol=1e-12)


def test_group_norm_of_a_constant_is_beta():
    y, _ = group_norm(np, np.full((2, 3, 3, 4), 5.0), normal(4), np.arange(4.0), 2)
    np.testing.assert_allclose(y, np.broadcast_to(np.arange(4.0), y.shape), atol=1e-9)


def test_group_norm_groups_neighbouring_channels():
    x = np.repeat([1.0, 2.0, 30.0, 50.0], 9).reshape(1, 4, 3, 3).transpose(0, 2, 3, 1)
    y, _ = group_norm(np, x, np.ones(4), np.zeros(4), 2, eps=0.0)
    np.testing.assert_allclose(y[0, 0, 0], [-1, 1, -1, 1], atol=1e-12)


@pytest.mark.parametrize("op", [group_norm, group_norm_silu])
@pytest.mark.parametrize("groups", [0, -1, 4, 12])
def test_group_norm_refuses_groups_that_do_not_divide(op, groups: int):
    with pytest.raises(ValueError, match=rf"groups={groups} does not divide 6 channels"):
        op(np, np.ones((2, 3, 6)), np.ones(6), np.ones(6), groups)


@pytest.mark.parametrize(("gamma", "beta"), [((1,), (6,)), ((6,), ()), ((2, 6), (2, 6))])
def test_group_norm_refuses_parameters_that_would_broadcast(gamma: tuple, beta: tuple):
    with pytest.raises(ValueError, match=re.escape(f"of shape (6,), got {gamma} and {beta}")):
        group_norm(np, np.ones((2, 3, 6)), np.ones(gamma), np.ones(beta), 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_silu_saturates_instead_of_overflowing(dtype: str):
    x = np.array([-1000, -100, 0, 100, 1000], dtype)
    y, ctx = silu(np, x)
    np.testing.assert_array_equal(y, [0, 0, 0, 100, 1000])
    (dx,) = silu_backward(np, np.ones_like(x), ctx)
    np.testing.assert_array_equal(dx, [0, 0, 0.5, 1, 1])


def test_silu_at_known_points():
    np.testing.assert_allclose(
        silu(np, np.array([1.0, -1.0]))[0], [0.7310585786300049, -0.2689414213699951], rtol=1e-15
    )


# --- attention ---


def test_attention_does_not_see_a_shift_of_the_scores():
    q, k, v = normal(2, 3, 4), normal(2, 5, 4, seed=1), normal(2, 5, 4, seed=2)
    y, _ = attention(np, q, k, v)
    # The same vector added to all keys adds the same number to all scores of a query
    np.testing.assert_allclose(attention(np, q, k + normal(4, seed=3), v)[0], y, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_attention_with_huge_scores_picks_the_best_key(dtype: str):
    q = np.array([[[1e10, 0], [0, 1e10]]], dtype)
    k = np.array([[[1, 0], [0, 1]]], dtype)
    v = np.array([[[1, 2], [3, 4]]], dtype)
    np.testing.assert_array_equal(attention(np, q, k, v)[0], v)


def test_attention_to_equal_keys_is_the_mean_of_the_values():
    q, v = normal(2, 3, 4), normal(2, 5, 4, seed=1)
    y, _ = attention(np, q, np.ones((2, 5, 4)), v, num_heads=2)
    np.testing.assert_allclose(y, np.broadcast_to(v.mean(axis=1, keepdims=True), y.shape), atol=1e-12)


def test_heads_are_neighbouring_channels_that_do_not_mix():
    q, k, v = normal(2, 3, 6), normal(2, 5, 6, seed=1), normal(2, 5, 6, seed=2)
    y, _ = attention(np, q, k, v, num_heads=2)
    for head in (slice(0, 3), slice(3, 6)):
        np.testing.assert_allclose(y[..., head], attention(np, q[..., head], k[..., head], v[..., head])[0], atol=1e-12)


@pytest.mark.parametrize("num_heads", [0, -2, 4])
def test_attention_refuses_heads_that_do_not_divide(num_heads: int):
    x = np.ones((1, 2, 6))
    with pytest.raises(ValueError, match=rf"num_heads={num_heads} does not divide 6 channels"):
        attention(np, x, x, x, num_heads)


@pytest.mark.parametrize(
    ("k", "v"), [((1, 3, 4), (1, 3, 4)), ((2, 3, 8), (2, 3, 8)), ((2, 3, 4), (2, 2, 4)), ((2, 3, 4), (2, 3, 2))]
)
def test_attention_refuses_shapes_that_do_not_match(k: tuple, v: tuple):
    with pytest.raises(ValueError, match=re.escape(f"got (2, 5, 4), {k}, {v}")):
        attention(np, np.ones((2, 5, 4)), np.ones(k), np.ones(v))


# --- resampling ---


def test_average_pool_undoes_upsample_nearest():
    x = normal(2, 3, 5, 4)
    up, _ = upsample_nearest(np, x)
    assert up.shape == (2, 6, 10, 4)
    np.testing.assert_array_equal(average_pool(np, up)[0], x)


def test_upsample_nearest_repeats_pixels():
    x = np.array([[1.0, 2.0], [3.0, 4.0]])[None, :, :, None]
    expected = [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    np.testing.assert_array_equal(upsample_nearest(np, x)[0][0, :, :, 0], expected)


def test_average_pool_backward_shares_equally():
    y, ctx = average_pool(np, np.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(average_pool_backward(np, np.full_like(y, 8.0), ctx)[0], np.full((1, 2, 2, 1), 2.0))


@pytest.mark.parametrize(("h", "w"), [(3, 4), (4, 3), (1, 1)])
def test_average_pool_refuses_odd_sizes(h: int, w: int):
    with pytest.raises(ValueError, match=f"not {h}x{w}"):
        average_pool(np, np.ones((1, h, w, 2)))


def test_concat_channels_puts_the_first_argument_first():
    y, _ = concat_channels(np, np.zeros((1, 1, 1, 2)), np.ones((1, 1, 1, 3)))
    np.testing.assert_array_equal(y.ravel(), [0, 0, 1, 1, 1])


# --- dropout, embeddings ---


def test_dropout_keeps_the_mean_and_drops_the_given_share():
    x = np.ones((300, 400))
    y, _ = dropout(np, x, 0.3, seed=1, stream=2, step=3)
    assert abs(np.mean(y == 0) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / x.size)
    np.testing.assert_allclose(y[y != 0], 1 / 0.7, rtol=1e-15)


def test_dropout_draws_one_mask_per_place_and_none_at_rate_zero():
    x = normal(20, 20)
    again = [dropout(np, x, 0.5, seed=1, stream=2, step=step)[0] for step in (3, 3, 4)]
    np.testing.assert_array_equal(again[0], again[1])
    assert np.any(again[0] != again[2])
    np.testing.assert_array_equal(dropout(np, x, 0.0, seed=1, stream=2, step=3)[0], x)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_dropout_refuses_other_rates(rate: float):
    with pytest.raises(ValueError, match=rf"rate in \[0, 1\), got {rate}"):
        dropout(np, np.ones(3), rate, seed=0, stream=0, step=0)


def test_embedding_backward_sums_repeated_rows():
    table = normal(4, 2)
    y, ctx = embedding(np, table, np.array([2, 0, 2]))
    np.testing.assert_array_equal(y, table[[2, 0, 2]])
    (dtable,) = embedding_backward(np, np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]]), ctx)
    np.testing.assert_array_equal(dtable, [[2, 20], [0, 0], [5, 50], [0, 0]])


def test_sinusoidal_embedding_at_known_points():
    y, _ = sinusoidal_embedding(np, np.array([0, 3]), 5, max_period=100.0, dtype=np.float64)
    # h = 2: frequencies 1 and 100^(-1/2) = 0.1; the odd fifth column is zero
    expected = [[1, 1, 0, 0, 0], [np.cos(3), np.cos(0.3), np.sin(3), np.sin(0.3), 0]]
    np.testing.assert_allclose(y, expected, atol=1e-15)
    sines_first, _ = sinusoidal_embedding(np, np.array([3]), 4, max_period=100.0, cos_first=False, dtype=np.float64)
    np.testing.assert_allclose(sines_first[0], [np.sin(3), np.sin(0.3), np.cos(3), np.cos(0.3)], atol=1e-15)
    # With a shift of one the last frequency is 1 / max_period itself
    shifted, _ = sinusoidal_embedding(np, np.array([3]), 4, max_period=100.0, frequency_shift=1.0, dtype=np.float64)
    np.testing.assert_allclose(shifted[0], [np.cos(3), np.cos(0.03), np.sin(3), np.sin(0.03)], atol=1e-15)


def test_sinusoidal_embedding_depends_on_t_and_not_on_the_row():
    y, _ = sinusoidal_embedding(np, np.array([5, 5, 9]), 8)
    np.testing.assert_array_equal(y[0], y[1])
    assert np.any(y[0] != y[2])
    np.testing.assert_array_equal(y[2:], sinusoidal_embedding(np, np.array([9]), 8)[0])


@pytest.mark.parametrize(("dim", "shift"), [(0, 0.0), (1, 0.0), (2, 1.0), (3, 1.0)])
def test_sinusoidal_embedding_refuses_dimensions_without_a_frequency(dim: int, shift: float):
    with pytest.raises(ValueError, match=f"got {dim} and {shift}"):
        sinusoidal_embedding(np, np.arange(3), dim, frequency_shift=shift)


# --- losses ---

PREDICTION, TARGET = np.array([[0.5, -1.0], [4.0, 2.0]]), np.array([[0.0, 1.0], [1.0, 2.0]])  # r: 0.5, -2, 3, 0


def test_losses_by_hand():
    assert mse_loss(np, PREDICTION, TARGET)[0] == (0.25 + 4 + 9 + 0) / 4
    assert l1_loss(np, PREDICTION, TARGET)[0] == (0.5 + 2 + 3 + 0) / 4
    assert huber_loss(np, PREDICTION, TARGET, delta=1.0)[0] == (0.125 + 1.5 + 2.5 + 0) / 4
    assert huber_loss(np, PREDICTION, TARGET, delta=2.0)[0] == (0.125 + 2 + 2 * (3 - 1) + 0) / 4


@pytest.mark.parametrize(
    ("forward", "backward", "expected"),
    [
        (mse_loss, mse_loss_backward, [[0.25, -1.0], [1.5, 0.0]]),
        (l1_loss, l1_loss_backward, [[0.25, -0.25], [0.25, 0.0]]),
        (huber_loss, huber_loss_backward, [[0.125, -0.25], [0.25, 0.0]]),
    ],
)
def test_gradients_of_losses_by_hand(forward, backward, expected: list):
    _, ctx = forward(np, PREDICTION, TARGET)
    np.testing.assert_array_equal(backward(np, 1.0, ctx)[0], expected)


@settings(max_examples=50, deadline=None)
@given(case=CASES["mse_loss"])
def test_huber_lies_between_mse_and_l1(case: Arguments):
    mse, l1 = mse_loss(np, **case)[0], l1_loss(np, **case)[0]
    np.testing.assert_allclose(huber_loss(np, **case, delta=1e6)[0], mse / 2, rtol=1e-12)
    np.testing.assert_allclose(huber_loss(np, **case, delta=1e-9)[0], 1e-9 * l1, rtol=1e-6)


@pytest.mark.parametrize("delta", [0.0, -1.0, float("nan")])
def test_huber_loss_refuses_other_deltas(delta: float):
    with pytest.raises(ValueError, match=f"delta > 0, got {delta}"):
        huber_loss(np, PREDICTION, TARGET, delta)


@pytest.mark.parametrize("loss", [mse_loss, l1_loss, huber_loss])
def test_losses_refuse_to_broadcast(loss):
    with pytest.raises(ValueError, match=r"prediction \(4, 1\) and target \(4,\)"):
        loss(np, np.ones((4, 1)), np.ones(4))


def test_cross_entropy_by_hand():
    """Equal logits give log K; a lead of log 3 over one other class gives the probability 3 / 4."""
    assert softmax_cross_entropy(np, np.zeros((2, 5)), np.array([0, 4]))[0] == pytest.approx(math.log(5), rel=1e-15)
    logits = np.array([[math.log(3), 0.0], [800.0, 800.0]])
    loss, ctx = softmax_cross_entropy(np, logits, np.array([0, 1]))
    assert loss == pytest.approx((math.log(4 / 3) + math.log(2)) / 2, rel=1e-15)
    np.testing.assert_allclose(
        softmax_cross_entropy_backward(np, 2.0, ctx)[0], [[-0.25, 0.25], [0.5, -0.5]], rtol=1e-14, atol=1e-16
    )


@pytest.mark.parametrize("labels", [[0, 3], [-1, 2]])
def test_cross_entropy_of_a_label_that_is_none_is_nan(labels: list):
    assert np.isnan(softmax_cross_entropy(np, np.ones((2, 3)), np.array(labels))[0])


@pytest.mark.parametrize(("logits", "labels"), [((4, 3), (3,)), ((4, 3), (4, 1)), ((4,), (4,))])
def test_cross_entropy_refuses_other_shapes(logits: tuple, labels: tuple):
    with pytest.raises(ValueError, match=r"takes logits \(N, K\) and labels \(N,\)"):
        softmax_cross_entropy(np, np.ones(logits), np.zeros(labels, np.int64))


# --- optimiser ---


def test_first_step_of_adam_moves_by_the_learning_rate():
    grads = np.array([3.0, -0.01, 200.0])
    params, m, v = adam(np, np.zeros(3), grads, np.zeros(3), np.zeros(3), step=1, lr=0.1)
    np.testing.assert_allclose(params, -0.1 * np.sign(grads), rtol=1e-5)
    np.testing.assert_allclose(m, 0.1 * grads)
    np.testing.assert_allclose(v, 0.001 * grads**2)


def test_adam_without_gradient_only_decays():
    zero = np.zeros(4)
    params, _, _ = adam(np, normal(4), zero, zero, zero, step=5, lr=0.1, weight_decay=0.5)
    np.testing.assert_allclose(params, normal(4) * 0.95, rtol=1e-15)


def test_ema_at_its_ends():
    a, p = normal(4), normal(4, seed=1)
    np.testing.assert_allclose(ema(np, a, p, 0.0), p, rtol=1e-15)
    np.testing.assert_array_equal(ema(np, a, p, 1.0), a)


@pytest.mark.equation("Pascanu et al. 2013, algorithm 1")
def test_clip_by_global_norm_scales_only_what_is_too_long():
    grads = np.array([3.0, 4.0])
    clipped, norm = clip_by_global_norm(np, grads, 1.0)
    np.testing.assert_allclose(clipped, [0.6, 0.8], rtol=1e-15)
    assert norm == 5
    for bound in (5.0, 6.0):
        np.testing.assert_array_equal(clip_by_global_norm(np, grads, bound)[0], grads)


def test_clip_by_global_norm_of_zero_and_nan():
    clipped, norm = clip_by_global_norm(np, np.zeros(3), 1.0)
    np.testing.assert_array_equal(clipped, 0)
    assert norm == 0
    clipped, norm = clip_by_global_norm(np, np.array([1.0, np.nan]), 1.0)
    assert np.all(np.isnan(clipped))
    assert np.isnan(norm)
