"""Attention, group normalisation and cross-entropy against their papers' formulas, one number at a time."""

import math

import numpy as np
import pytest
from hypothesis import given, settings

from backends.ops.attention import attention, attention_backward
from backends.ops.losses import softmax_cross_entropy, softmax_cross_entropy_backward
from backends.ops.normalization import group_norm
from backends.testing import CASES, Arguments


def softmax(scores: list[complex]) -> list[complex]:
    highest = max(score.real for score in scores)
    powers = [np.exp(score - highest) for score in scores]
    return [power / sum(powers) for power in powers]


def attention_by_hand(q: np.ndarray, k: np.ndarray, v: np.ndarray, num_heads: int) -> np.ndarray:
    """softmax(q k^T / sqrt(d)) v for (N, L, C), head by head and query by query."""
    y = np.zeros(q.shape, np.result_type(q, k, v))
    d = q.shape[-1] // num_heads
    for n in range(len(q)):
        for first in range(0, q.shape[-1], d):
            head = slice(first, first + d)
            for i, query in enumerate(q[n, :, head]):
                weights = softmax([query @ key / math.sqrt(d) for key in k[n, :, head]])
                y[n, i, head] = sum(w * value for w, value in zip(weights, v[n, :, head], strict=True))
    return y


@pytest.mark.equation("Vaswani et al. 2017, eq. 1")
@settings(max_examples=20, deadline=None)
@given(case=CASES["attention"])
def test_attention_is_softmax_of_scaled_products(case: Arguments):
    heads = case.get("num_heads", 1)
    y, _ = attention(np, **case)
    expected = attention_by_hand(case["q"], case["k"], case["v"], heads)
    np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.equation("Dao et al. 2022, algorithm 4")
@settings(max_examples=20, deadline=None)
@given(case=CASES["attention"])
def test_attentions_backward_is_the_gradient_of_that_formula(case: Arguments):
    rng = np.random.default_rng(0)
    y, ctx = attention(np, **case)
    dy = rng.standard_normal(y.shape)
    gradients = dict(zip("qkv", attention_backward(np, dy, ctx), strict=True))
    for name, gradient in gradients.items():
        along = rng.standard_normal(case[name].shape)
        moved = {key: case[key] + (1e-30j * along if key == name else 0) for key in "qkv"}
        seen = np.sum(dy * attention_by_hand(**moved, num_heads=case.get("num_heads", 1)).imag) / 1e-30
        # Cancellation in the sum, of which the gradient's size tells
        np.testing.assert_allclose(np.sum(gradient * along), seen, rtol=1e-9, atol=1e-12 * (1 + np.abs(dy).sum()))


@pytest.mark.equation("Wu & He 2018, eq. 1")
@settings(max_examples=20, deadline=None)
@given(case=CASES["group_norm"])
def test_group_norm_is_less_the_mean_over_the_deviation_of_each_group(case: Arguments):
    y, _ = group_norm(np, **case)
    x, groups, eps = case["x"], case["groups"], case.get("eps", 1e-5)
    width = x.shape[-1] // groups
    for n in range(len(x)):
        for first in range(0, x.shape[-1], width):
            group = slice(first, first + width)
            values = x[n, ..., group].reshape(-1).tolist()
            mean = math.fsum(values) / len(values)
            deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values) + eps)
            normal = (x[n, ..., group] - mean) / deviation
            expected = normal * case["gamma"][group] + case["beta"][group]
            np.testing.assert_allclose(y[n, ..., group], expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(case=CASES["softmax_cross_entropy"])
def test_cross_entropy_is_minus_the_log_of_the_labels_share(case: Arguments):
    loss, _ = softmax_cross_entropy(np, **case)
    shares = [softmax(row)[label] for row, label in zip(case["logits"], case["labels"], strict=True)]
    np.testing.assert_allclose(loss, -np.mean(np.log(shares)), rtol=1e-10, atol=1e-12)


def test_cross_entropy_of_logits_far_apart():
    """A label without a chance costs the difference, a certain one nothing; both have the gradients of certainty."""
    loss, ctx = softmax_cross_entropy(np, np.array([[0.0, 900.0], [-900.0, 3.0]]), np.array([0, 1]))
    assert loss == 450
    np.testing.assert_array_equal(softmax_cross_entropy_backward(np, 1.0, ctx)[0], [[-0.5, 0.5], [0, 0]])
