# ruff: noqa: D103
"""Random arguments at sizes where kernels' blocks, edges and remainders come into play: vectors of 16, panels of 32,
tiles that stick out, chunks of channels."""

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from backends.testing.cases import SMALL, bound_arguments
from backends.testing.strategies import SEEDS, Arguments

# Channels: vectors of 16, panels of 32, both with remainders, and too few for either
CHANNELS = st.sampled_from([1, 2, 3, 8, 16, 20, 32, 48, 64])
# Means of numbers whose standard deviation is 1: at 1000 a variance by E[x^2] - E[x]^2 is rounding errors alone
MEANS = st.sampled_from([0.0, 3.0, 1000.0])
SIDES = st.integers(1, 11)
EPSILONS = st.sampled_from([1e-5, 1e-3])


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape)


@st.composite
def conv2d(draw: st.DrawFn) -> Arguments:
    rng = np.random.default_rng(draw(SEEDS))
    c, k, kernel = draw(CHANNELS), draw(CHANNELS), draw(st.sampled_from([1, 3, 3, 3, 3]))
    stride = draw(st.sampled_from([1, 2]))
    return {
        # A side of one is too short for padding at its far end alone
        "x": normal(rng, draw(st.integers(1, 3)), 1 + draw(SIDES), 1 + draw(SIDES), c),
        "weight": normal(rng, kernel, kernel, c, k),
        "bias": normal(rng, k) if draw(st.booleans()) else None,
        "stride": stride,
        "padding": draw(st.sampled_from([1, (1, 1, 1, 1), (0, 1, 0, 1) if stride == 2 and kernel == 3 else 1])),
    }


@st.composite
def linear(draw: st.DrawFn) -> Arguments:
    rng = np.random.default_rng(draw(SEEDS))
    c, k = draw(CHANNELS), draw(CHANNELS)
    leading = [draw(st.integers(1, 9)) for _ in range(draw(st.integers(1, 3)))]
    bias = normal(rng, k) if draw(st.booleans()) else None
    return {"x": normal(rng, *leading, c), "weight": normal(rng, c, k), "bias": bias}


@st.composite
def group_norm(draw: st.DrawFn) -> Arguments:
    rng = np.random.default_rng(draw(SEEDS))
    groups, width = draw(st.sampled_from([1, 2, 4, 8])), draw(st.sampled_from([2, 4, 5, 8]))
    c = groups * width
    return {
        "x": normal(rng, draw(st.integers(1, 3)), draw(st.integers(2, 9)), draw(SIDES), c) + draw(MEANS),
        "gamma": normal(rng, c),
        "beta": normal(rng, c),
        "groups": groups,
        "eps": draw(EPSILONS),
    }


@st.composite
def norm_conv2d(draw: st.DrawFn) -> Arguments:
    rng = np.random.default_rng(draw(SEEDS))
    n, h, w = draw(st.integers(1, 3)), draw(st.integers(2, 9)), draw(SIDES)
    first, joined = draw(st.sampled_from([8, 16, 32, 64])), draw(st.sampled_from([0, 8, 16, 32]))
    c, k, groups = first + joined, draw(CHANNELS), draw(st.sampled_from([1, 2, 4, 8]))
    # Two numbers alone may be as close as they like, which their normalisation amplifies beyond what float32 can tell
    assume(c // groups * h * w >= 16)
    return {
        "x": normal(rng, n, h, w, first),
        "skip": normal(rng, n, h, w, joined) if joined else None,
        "gamma": normal(rng, c),
        "beta": normal(rng, c),
        "weight": normal(rng, 3, 3, c, k),
        "bias": normal(rng, k),
        "groups": groups,
        "eps": draw(EPSILONS),
        "shift": normal(rng, n, k) if draw(st.booleans()) else None,
        "residual": normal(rng, n, h, w, k) if draw(st.booleans()) else None,
        "mask": 2.0 * (normal(rng, n, h, w, c) > 0) if draw(st.booleans()) else None,
    }


@st.composite
def pointwise(draw: st.DrawFn) -> Arguments:
    rng = np.random.default_rng(draw(SEEDS))
    shape = draw(st.integers(1, 3)), draw(SIDES), draw(SIDES)
    c, joined, k = draw(CHANNELS), draw(st.sampled_from([0, 8, 16, 48])), draw(CHANNELS)
    return {
        "x": normal(rng, *shape, c),
        "skip": normal(rng, *shape, joined) if joined else None,
        "weight": normal(rng, c + joined, k),
        "bias": normal(rng, k),
    }


@st.composite
def even_images(draw: st.DrawFn) -> Arguments:
    rng = np.random.default_rng(draw(SEEDS))
    return {"x": normal(rng, draw(st.integers(1, 3)), 2 * draw(SIDES), 2 * draw(SIDES), draw(CHANNELS))}


@st.composite
def add_shift(draw: st.DrawFn) -> Arguments:
    rng = np.random.default_rng(draw(SEEDS))
    n, c = draw(st.integers(1, 3)), draw(CHANNELS)
    return {"x": normal(rng, n, draw(SIDES), draw(SIDES), c), "shift": normal(rng, n, c)}


@st.composite
def upsample_conv2d(draw: st.DrawFn) -> Arguments:
    rng = np.random.default_rng(draw(SEEDS))
    c, k = draw(CHANNELS), draw(CHANNELS)
    return {
        "x": normal(rng, draw(st.integers(1, 3)), draw(SIDES), draw(SIDES), c),
        "weight": normal(rng, 3, 3, c, k),
        "bias": normal(rng, k),
    }


@st.composite
def random_numbers(draw: st.DrawFn) -> Arguments:
    """Enough numbers for the kernel, beside the few of the common cases."""
    case = draw(SMALL["random_normal"])
    return {**case, "shape": draw(st.sampled_from([case["shape"], (4097,), (3, 50, 41), (8192,)]))}


@st.composite
def dropout(draw: st.DrawFn) -> Arguments:
    case = draw(SMALL["dropout"])
    shape = draw(st.sampled_from([case["x"].shape, (4097,), (3, 50, 41)]))
    return {**case, "x": normal(np.random.default_rng(draw(SEEDS)), *shape)}


@st.composite
def dropout_mask(draw: st.DrawFn) -> Arguments:
    return {**draw(random_numbers()), "rate": draw(st.sampled_from([0.0, 0.1, 0.5, 0.9]))}


@st.composite
def attention(draw: st.DrawFn) -> Arguments:
    rng = np.random.default_rng(draw(SEEDS))
    n, heads, width = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 5, 16, 32]))
    queries, keys, c = draw(st.integers(1, 70)), draw(st.integers(1, 70)), heads * width
    return {
        "q": normal(rng, n, queries, c),
        "k": normal(rng, n, keys, c),
        "v": normal(rng, n, keys, c),
        "num_heads": heads,
    }


@st.composite
def norm_attention(draw: st.DrawFn) -> Arguments:
    rng = np.random.default_rng(draw(SEEDS))
    c, heads = draw(st.sampled_from([16, 32, 48, 64])), draw(st.sampled_from([1, 2, 4]))
    return {
        "x": normal(rng, draw(st.integers(1, 3)), draw(SIDES), draw(SIDES), c),
        "gamma": normal(rng, c),
        "beta": normal(rng, c),
        "weight": normal(rng, c, 3 * c) / c**0.5,
        "bias": normal(rng, 3 * c),
        "groups": draw(st.sampled_from([1, 2, 4, 8])),
        "eps": draw(EPSILONS),
        "num_heads": heads,
    }


# Flat arrays: one vector of 16 and its neighbours; chunks of 2^13 and 2^14 numbers, a remainder, and several chunks
LENGTHS = st.sampled_from([1, 15, 16, 17, 33, 1000, 8191, 8192, 8193, 16_384, 16_391, 3 * 16_384 + 5])


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, ...]:
    """Flat ones, and images."""
    return draw(st.tuples(LENGTHS) | st.tuples(st.integers(1, 3), SIDES, SIDES, CHANNELS))


@st.composite
def any_shape(draw: st.DrawFn) -> Arguments:
    return {"x": normal(np.random.default_rng(draw(SEEDS)), *draw(shapes()))}


@st.composite
def add(draw: st.DrawFn) -> Arguments:
    rng, shape = np.random.default_rng(draw(SEEDS)), draw(shapes())
    return {"a": normal(rng, *shape), "b": normal(rng, *shape)}


@st.composite
def concat_channels(draw: st.DrawFn) -> Arguments:
    rng, shape = np.random.default_rng(draw(SEEDS)), (draw(st.integers(1, 3)), draw(SIDES), draw(SIDES))
    return {"a": normal(rng, *shape, draw(CHANNELS)), "b": normal(rng, *shape, draw(CHANNELS))}


@st.composite
def embedding(draw: st.DrawFn) -> Arguments:
    rng, rows = np.random.default_rng(draw(SEEDS)), draw(st.integers(1, 40))
    indices = rng.integers(0, rows, draw(st.integers(1, 300)))
    return {"table": normal(rng, rows, draw(CHANNELS)), "indices": indices}


@st.composite
def loss(draw: st.DrawFn, with_delta: bool = False) -> Arguments:
    rng, shape = np.random.default_rng(draw(SEEDS)), draw(shapes())
    delta = {"delta": draw(st.sampled_from([0.1, 1.0, 1.5, 100.0]))} if with_delta else {}
    weights = np.exp(rng.standard_normal(shape[0])) if draw(st.booleans()) else None
    return {"prediction": normal(rng, *shape), "target": normal(rng, *shape), **delta, "weights": weights}


@st.composite
def vlb_loss(draw: st.DrawFn) -> Arguments:
    shape = draw(st.integers(1, 3)), *draw(shapes())
    return bound_arguments(np.random.default_rng(draw(SEEDS)), shape, draw(st.booleans()))


@st.composite
def softmax_cross_entropy(draw: st.DrawFn) -> Arguments:
    rng, rows = np.random.default_rng(draw(SEEDS)), draw(st.integers(1, 600))
    classes = draw(st.integers(1, 40))
    return {"logits": 3 * normal(rng, rows, classes), "labels": rng.integers(0, classes, rows)}


@st.composite
def sinusoidal_embedding(draw: st.DrawFn) -> Arguments:
    t = np.random.default_rng(draw(SEEDS)).uniform(0, 1000, draw(st.integers(1, 300)))
    dim = draw(st.integers(4, 130))
    return {**draw(SMALL["sinusoidal_embedding"]), "t": t.astype(np.int64) if draw(st.booleans()) else t, "dim": dim}


def flat(name: str) -> st.SearchStrategy[Arguments]:
    """The small cases of an operation on flat arrays, these as long as LENGTHS."""

    def longer(case: Arguments, length: int, seed: int) -> Arguments:
        rng = np.random.default_rng(seed)
        arrays = {key: normal(rng, length) for key, value in case.items() if isinstance(value, np.ndarray)}
        # The second moment is not negative
        return {**case, **{key: value * value if key == "v" else value for key, value in arrays.items()}}

    return st.builds(longer, SMALL[name], LENGTHS, SEEDS)


# Every operation that a kernel overrides is here (`tests/backends/test_numba.py`)
WIDE: dict[str, st.SearchStrategy[Arguments]] = {
    "conv2d": conv2d(),
    "linear": linear(),
    "group_norm": group_norm(),
    "group_norm_silu": group_norm(),
    "norm_conv2d": norm_conv2d(),
    "pointwise": pointwise(),
    "upsample_conv2d": upsample_conv2d(),
    "upsample_nearest": even_images(),
    "average_pool": even_images(),
    "add_shift": add_shift(),
    "attention": attention(),
    "norm_attention": norm_attention(),
    "dropout": dropout(),
    "dropout_mask": dropout_mask(),
    "random_normal": random_numbers(),
    "random_uniform": random_numbers(),
    "silu": any_shape(),
    "add": add(),
    "concat_channels": concat_channels(),
    "embedding": embedding(),
    "mse_loss": loss(),
    "l1_loss": loss(),
    "huber_loss": loss(with_delta=True),
    "softmax_cross_entropy": softmax_cross_entropy(),
    "vlb_loss": vlb_loss(),
    "sinusoidal_embedding": sinusoidal_embedding(),
    **{name: flat(name) for name in ("adam", "ema", "adam_ema", "global_norm", "clip_by_global_norm")},
}
