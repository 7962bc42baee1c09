# ruff: noqa: D103
"""Random arguments for every operation of `OPS`, small: the table that gradient, parity and namespace tests walk.

Each function is the strategy of one operation's arguments, by name, in float64. Sizes run from one to a few, so that
every branch and every empty or single axis comes up; `wide_cases` has the sizes at which kernels change their ways.
"""

import numpy as np
from hypothesis import strategies as st

from backends.testing.strategies import (
    Arguments,
    Normal,
    arrays,
    channels_in_groups,
    channels_in_heads,
    image_shapes,
    images,
    shapes,
    size,
)


@st.composite
def linear(draw: st.DrawFn) -> Arguments:
    normal = Normal(draw)
    c, k = size(draw, 1, 6), size(draw, 1, 6)
    leading = [size(draw, 1, 4) for _ in range(size(draw, 0, 3))]
    bias = normal(k) if draw(st.booleans()) else None
    return {"x": normal(*leading, c), "weight": normal(c, k), "bias": bias}


@st.composite
def conv2d(draw: st.DrawFn) -> Arguments:
    normal = Normal(draw)
    n, h, w = size(draw, 1, 3), size(draw, 1, 7), size(draw, 1, 7)
    c, k = size(draw, 1, 4), size(draw, 1, 4)
    padding = draw(st.integers(0, 2) | st.tuples(*[st.integers(0, 3)] * 4))
    top, bottom, left, right = (padding,) * 4 if isinstance(padding, int) else padding
    kernel = size(draw, 1, min(5, h + top + bottom)), size(draw, 1, min(5, w + left + right))
    return {
        "x": normal(n, h, w, c),
        "weight": normal(*kernel, c, k),
        "bias": normal(k) if draw(st.booleans()) else None,
        "stride": size(draw, 1, 3),
        "padding": padding,
    }


@st.composite
def group_norm(draw: st.DrawFn) -> Arguments:
    normal = Normal(draw)
    channels, groups = draw(channels_in_groups())
    spatial = draw(st.sampled_from([(), (1,), (7,), (1, 1), (2, 3), (4, 4), (5, 5), (6, 3)]))
    return {
        "x": normal(size(draw, 1, 3), *spatial, channels) + draw(st.sampled_from([0.0, 3.0])),
        "gamma": normal(channels),
        "beta": normal(channels),
        "groups": groups,
        "eps": draw(st.sampled_from([1e-3, 1e-5, 1e-6])),
    }


@st.composite
def norm_conv2d(draw: st.DrawFn) -> Arguments:
    normal = Normal(draw)
    n, h, w, outputs = size(draw, 1, 2), size(draw, 2, 4), size(draw, 2, 4), size(draw, 1, 4)
    # The joint may fall inside a group of channels
    channels, groups = draw(channels_in_groups(groups=(1, 3)))
    joined = size(draw, 0, channels - 1)
    kernel = draw(st.sampled_from([1, 3]))
    return {
        "x": normal(n, h, w, channels - joined),
        "skip": normal(n, h, w, joined) if joined else None,
        "gamma": normal(channels),
        "beta": normal(channels),
        "weight": normal(kernel, kernel, channels, outputs),
        "bias": normal(outputs),
        "groups": groups,
        "eps": draw(st.sampled_from([1e-3, 1e-5])),
        "shift": normal(n, outputs) if draw(st.booleans()) else None,
        "residual": normal(n, h, w, outputs) if draw(st.booleans()) else None,
        "mask": 2.0 * (normal(n, h, w, channels) > 0) if draw(st.booleans()) else None,
    }


@st.composite
def pointwise(draw: st.DrawFn) -> Arguments:
    normal = Normal(draw)
    shape = size(draw, 1, 2), size(draw, 1, 4), size(draw, 1, 4)
    c, joined, k = size(draw, 1, 4), size(draw, 0, 3), size(draw, 1, 4)
    return {
        "x": normal(*shape, c),
        "skip": normal(*shape, joined) if joined else None,
        "weight": normal(c + joined, k),
        "bias": normal(k),
    }


@st.composite
def upsample_conv2d(draw: st.DrawFn) -> Arguments:
    normal = Normal(draw)
    c, k, kernel = size(draw, 1, 4), size(draw, 1, 4), draw(st.sampled_from([1, 3]))
    shape = size(draw, 1, 2), size(draw, 1, 4), size(draw, 1, 4)
    return {"x": normal(*shape, c), "weight": normal(kernel, kernel, c, k), "bias": normal(k)}


@st.composite
def attention(draw: st.DrawFn) -> Arguments:
    normal = Normal(draw)
    channels, num_heads = draw(channels_in_heads())
    n, queries, keys = size(draw, 1, 3), size(draw, 1, 6), size(draw, 1, 6)
    return {
        "q": normal(n, queries, channels),
        "k": normal(n, keys, channels),
        "v": normal(n, keys, channels),
        "num_heads": num_heads,
    }


@st.composite
def norm_attention(draw: st.DrawFn) -> Arguments:
    normal = Normal(draw)
    groups, num_heads, width = size(draw, 1, 2), size(draw, 1, 2), size(draw, 1, 3)
    channels = groups * num_heads * width
    spatial = draw(st.sampled_from([(1,), (5,), (2, 3), (4, 2)]))
    return {
        "x": normal(size(draw, 1, 3), *spatial, channels),
        "gamma": normal(channels),
        "beta": normal(channels),
        # Small, so that the softmax is not so steep that it magnifies rounding
        "weight": 0.5 * normal(channels, 3 * channels) / channels**0.5,
        "bias": 0.5 * normal(3 * channels),
        "groups": groups,
        "eps": draw(st.sampled_from([1e-3, 1e-5])),
        "num_heads": num_heads,
    }


def image(multiple: int = 1) -> st.SearchStrategy[Arguments]:
    return st.fixed_dictionaries({"x": images(multiple=multiple)})


def any_shape() -> st.SearchStrategy[Arguments]:
    return st.fixed_dictionaries({"x": arrays()})


@st.composite
def add(draw: st.DrawFn) -> Arguments:
    normal = Normal(draw)
    shape = draw(shapes())
    return {"a": normal(*shape), "b": normal(*shape)}


@st.composite
def add_shift(draw: st.DrawFn) -> Arguments:
    normal = Normal(draw)
    shape = draw(image_shapes())
    return {"x": normal(*shape), "shift": normal(shape[0], shape[-1])}


@st.composite
def concat_channels(draw: st.DrawFn) -> Arguments:
    normal = Normal(draw)
    shape = draw(image_shapes())
    return {"a": normal(*shape), "b": normal(*shape[:-1], size(draw, 1, 4))}


@st.composite
def dropout(draw: st.DrawFn) -> Arguments:
    rate = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9]))
    return {**draw(any_shape()), "rate": rate, **draw(counters()), "first": draw(first_rows())}


@st.composite
def dropout_mask(draw: st.DrawFn) -> Arguments:
    return {**draw(random_numbers()), "rate": draw(st.sampled_from([0.0, 0.1, 0.5, 0.9]))}


@st.composite
def embedding(draw: st.DrawFn) -> Arguments:
    normal = Normal(draw)
    rows, count = size(draw, 1, 5), size(draw, 1, 8)
    indices = normal.rng.integers(0, rows, count)
    return {"table": normal(rows, size(draw, 1, 5)), "indices": indices}


@st.composite
def loss(draw: st.DrawFn, with_delta: bool = False) -> Arguments:
    normal = Normal(draw)
    shape = draw(shapes(sides=(1, 4)))
    delta = {"delta": draw(st.sampled_from([0.1, 1.0, 1.5, 100.0]))} if with_delta else {}
    weigh = draw(st.booleans()) and len(shape) > 0
    weights = np.exp(normal(shape[0])) if weigh else None
    return {"prediction": normal(*shape), "target": normal(*shape), **delta, "weights": weights}


@st.composite
def vlb_loss(draw: st.DrawFn) -> Arguments:
    rng, shape = Normal(draw).rng, draw(shapes(sides=(1, 4), axes=(2, 4)))
    return bound_arguments(rng, shape, draw(st.booleans()))


def bound_arguments(rng: np.random.Generator, shape: tuple[int, ...], hybrid: bool) -> Arguments:
    """Arguments of `vlb_loss` for images of that shape: black and white pixels, means far out, first steps."""
    n = shape[0]
    x0 = np.clip(1.5 * rng.standard_normal(shape), -1, 1)
    output, target = rng.standard_normal((*shape[:-1], 2 * shape[-1])), rng.standard_normal(shape)
    low = rng.uniform(-11, -1, n)
    gap = np.exp(0.5 * low) * rng.standard_normal(n) * rng.choice([1.0, 5.0], n)
    first, weights = rng.integers(0, 2, n), np.exp(rng.standard_normal((2, n)))
    steps = np.stack([gap, low, low + rng.uniform(0, 2, n), first, *weights], axis=1)
    return {"output": output, "target": target, "x0": np.where(np.abs(x0) < 0.99, x0, np.sign(x0)), "steps": steps,
            "hybrid": hybrid}  # fmt: skip


@st.composite
def softmax_cross_entropy(draw: st.DrawFn) -> Arguments:
    rng = Normal(draw).rng
    rows, classes = size(draw, 1, 6), size(draw, 1, 5)
    # Logits whose exponentials would not be finite, too, but near each other: where a label is all but certain, the
    # loss is the logarithm of nearly 1, and has few digits, which a tolerance would take for a mistake
    logits = rng.uniform(-4, 4, (rows, classes)) + draw(st.sampled_from([0.0, 1000.0]))
    return {"logits": logits, "labels": rng.integers(0, classes, rows)}


@st.composite
def sinusoidal_embedding(draw: st.DrawFn) -> Arguments:
    t = Normal(draw).rng.uniform(0, 1000, size(draw, 1, 5))
    return {
        "t": t.astype(np.int64) if draw(st.booleans()) else t,
        "dim": size(draw, 4, 17),
        "max_period": draw(st.sampled_from([100.0, 10000.0])),
        "frequency_shift": draw(st.sampled_from([0.0, 1.0])),
        "cos_first": draw(st.booleans()),
        "dtype": draw(st.sampled_from([None, "float32", "float64"])),
    }


@st.composite
def counters(draw: st.DrawFn) -> Arguments:
    word = st.integers(0, 2**32 - 1)
    return {"seed": draw(st.integers(0, 2**64 - 1)), "stream": draw(word), "step": draw(word)}


def first_rows() -> st.SearchStrategy[int]:
    """Rows at which an array of random numbers may begin: within a block, and past 2^32 blocks."""
    return st.sampled_from([0, 0, 1, 2, 3, 5, 10**6 + 1, 2**34 + 3, 2**50 + 1])


@st.composite
def random_numbers(draw: st.DrawFn) -> Arguments:
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    dtype = draw(st.sampled_from([None, "float32", "float64"]))
    return {"shape": shape, **draw(counters()), "dtype": dtype, "first": draw(first_rows())}


@st.composite
def adam(draw: st.DrawFn) -> Arguments:
    normal = Normal(draw)
    p = size(draw, 8, 40)
    return {
        "params": normal(p),
        "grads": normal(p),
        "m": normal(p),
        "v": normal(p) ** 2,
        "step": size(draw, 1, 2000),
        "lr": draw(st.sampled_from([1e-4, 1e-2])),
        "beta1": draw(st.sampled_from([0.5, 0.9])),
        "beta2": draw(st.sampled_from([0.99, 0.999])),
        "eps": draw(st.sampled_from([1e-8, 1e-3])),
        "weight_decay": draw(st.sampled_from([0.0, 0.1])),
    }


@st.composite
def ema(draw: st.DrawFn) -> Arguments:
    normal = Normal(draw)
    p = size(draw, 8, 40)
    return {
        "average": normal(p),
        "params": normal(p),
        "decay": draw(st.sampled_from([0.0, 0.5, 0.999])),
    }


@st.composite
def adam_ema(draw: st.DrawFn) -> Arguments:
    case = draw(adam())
    return {
        **case,
        "average": Normal(draw)(case["params"].size),
        "decay": draw(st.sampled_from([0.0, 0.5, 0.999])),
        "scale": draw(st.sampled_from([0.25, 1.0])),
    }


@st.composite
def global_norm(draw: st.DrawFn) -> Arguments:
    return {"grads": Normal(draw)(size(draw, 1, 40))}


@st.composite
def clip_by_global_norm(draw: st.DrawFn) -> Arguments:
    normal = Normal(draw)
    return {
        "grads": normal(size(draw, 1, 40)),
        "max_norm": draw(st.sampled_from([0.01, 1.0, 1000.0])),
    }


SMALL: dict[str, st.SearchStrategy[Arguments]] = {
    "linear": linear(),
    "conv2d": conv2d(),
    "group_norm": group_norm(),
    "silu": any_shape(),
    "group_norm_silu": group_norm(),
    "norm_conv2d": norm_conv2d(),
    "pointwise": pointwise(),
    "upsample_conv2d": upsample_conv2d(),
    "attention": attention(),
    "norm_attention": norm_attention(),
    "upsample_nearest": image(),
    "average_pool": image(multiple=2),
    "add": add(),
    "add_shift": add_shift(),
    "concat_channels": concat_channels(),
    "dropout": dropout(),
    "embedding": embedding(),
    "mse_loss": loss(),
    "l1_loss": loss(),
    "huber_loss": loss(with_delta=True),
    "softmax_cross_entropy": softmax_cross_entropy(),
    "vlb_loss": vlb_loss(),
    "sinusoidal_embedding": sinusoidal_embedding(),
    "dropout_mask": dropout_mask(),
    "random_normal": random_numbers(),
    "random_uniform": random_numbers(),
    "adam": adam(),
    "ema": ema(),
    "adam_ema": adam_ema(),
    "global_norm": global_norm(),
    "clip_by_global_norm": clip_by_global_norm(),
}
