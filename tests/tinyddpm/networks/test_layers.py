"""Every layer's backward against the complex step, at random parameters and with random cotangents.

`check_gradients` is the check; the tests of the blocks use it as well.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import backends
from tinyddpm.networks.layers import (
    Conv2d,
    Dropout,
    DropoutKey,
    Embedding,
    GroupNormSiLU,
    Linear,
    NormConv2d,
    Shortcut,
    UpsampleConv2d,
)
from tinyddpm.networks.parameters import Declaration, Parameter, Parameters

BACKEND = backends.get("numpy")
H = 1e-30
TOLERANCE = 1e-9

seeds = st.integers(0, 2**32 - 1)
batches = st.integers(1, 3)
sides = st.integers(1, 6)


def random_values(declarations: list[Declaration], rng: np.random.Generator) -> np.ndarray:
    """Flat random parameters, no weight zero, no gamma one; weights scaled so that activations stay of order 1."""
    parts = [rng.standard_normal(math.prod(d.shape)) / math.sqrt(math.prod(d.shape[:-1])) for d in declarations]
    return np.concatenate(parts) if parts else np.zeros(0)


@contextmanager
def counted_writes() -> Iterator[Counter[str]]:
    """How often each parameter's gradient is written while the context lasts."""
    writes: Counter[str] = Counter()
    write = Parameter.write

    def counting(parameter: Parameter, gradient: Any) -> None:
        writes[parameter.name] += 1
        write(parameter, gradient)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parameter, "write", counting)
        yield writes


def state_of(value: Any, path: str = "") -> dict[str, int]:
    """Identities of all that hangs on a layer, by path, backends apart: a hidden state would change them."""
    if isinstance(value, list | tuple):
        members = {str(i): member for i, member in enumerate(value)}
    elif type(value).__module__.startswith("tinyddpm") and not isinstance(value, Parameters):
        members = vars(value)
    else:
        members = {}
    state = {path: id(value)}
    for name, member in members.items():
        state |= state_of(member, f"{path}.{name}")
    return state


def build(make: Callable[..., Any], flat: np.ndarray | None = None, seed: int = 0) -> tuple[Any, Parameters]:
    parameters = Parameters(BACKEND)
    layer = make(parameters.scope("layer"))
    if flat is None and not parameters.declarations:
        flat = np.zeros(0)
    parameters.lay_out(seed, "float64", flat)
    return layer, parameters


def check_gradients(
    make: Callable[..., Any],
    inputs: list[np.ndarray],
    forward: Callable[..., Any],
    backward: Callable[..., list[np.ndarray]],
    rng: np.random.Generator,
) -> None:
    """<f'(x) v, u> by one complex step against <v, backward(u)>, for each input and each parameter on its own.

    make(scope) gives a layer, forward(layer, *inputs, tape) its output, backward(layer, dy, tape) the gradients
    of the inputs. Also: the tape ends empty, every parameter's gradient is written once and in full, nothing is
    kept without a tape, and neither pass changes what it was given.
    """
    layer, parameters = build(make)
    flat = parameters.flat
    flat[...] = random_values(parameters.declarations, rng)
    given_flat, given_inputs = flat.copy(), [x.copy() for x in inputs]

    before = state_of(layer)
    without_tape = forward(layer, *inputs, None)
    tape: list[Any] = []
    y = forward(layer, *inputs, tape)
    np.testing.assert_array_equal(y, without_tape)
    assert tape, "forward kept nothing for backward"

    parameters.grads[...] = np.nan
    u = rng.standard_normal(y.shape)
    given_u = u.copy()
    with counted_writes() as writes:
        dinputs = backward(layer, u, tape)
    assert tape == []
    assert state_of(layer) == before
    assert writes == {d.name: 1 for d in parameters.declarations}
    assert np.isfinite(parameters.grads).all()
    np.testing.assert_array_equal(flat, given_flat)
    np.testing.assert_array_equal(u, given_u)
    for x, given_x in zip(inputs, given_inputs, strict=True):
        np.testing.assert_array_equal(x, given_x)

    gradients = dict(enumerate(dinputs)) | parameters.gradients
    total = math.sqrt(sum(np.sum(g * g) for g in gradients.values()))
    for key, gradient in gradients.items():
        complex_inputs = [x.astype(complex) for x in inputs]
        complex_flat = flat.astype(complex)
        tensor = complex_inputs[key] if isinstance(key, int) else dict(parameters.views(complex_flat))[key]
        assert gradient.shape == tensor.shape, key
        v = rng.standard_normal(tensor.shape)
        tensor += 1j * H * v
        shifted, _ = build(make, complex_flat)
        exact = np.sum(forward(shifted, *complex_inputs, None).imag * u) / H
        # a gradient that is zero in exact arithmetic is rounding, to be judged by the others' size
        scale = max(np.linalg.norm(gradient), 1e-3 * total)
        assert abs(exact - np.sum(v * gradient)) <= TOLERANCE * scale, key


def simple(layer: Any, x: np.ndarray, tape: list[Any] | None) -> Any:
    return layer.forward(x, tape)


def simple_backward(layer: Any, dy: np.ndarray, tape: list[Any]) -> list[np.ndarray]:
    return [layer.backward(dy, tape)]


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 5),
    zero=st.booleans(),
    seed=seeds,
)
@settings(max_examples=30, deadline=None)
def test_linear(shape: list[int], inputs: int, outputs: int, zero: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((*shape, inputs))
    check_gradients(lambda scope: Linear(scope, inputs, outputs, zero), [x], simple, simple_backward, rng)


@given(
    n=batches,
    height=sides,
    width=sides,
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2) | st.tuples(*[st.integers(0, 2)] * 4),
    seed=seeds,
)
@settings(max_examples=60, deadline=None)
def test_conv2d(
    n: int, height: int, width: int, channels: tuple[int, int], kernel: int, stride: int, padding: Any, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, height + kernel - 1, width + kernel - 1, channels[0]))

    def make(scope: Any) -> Conv2d:
        return Conv2d(scope, *channels, kernel=kernel, stride=stride, padding=padding)

    check_gradients(make, [x], simple, simple_backward, rng)


@given(
    shape=st.lists(sides, min_size=0, max_size=3),
    n=batches,
    groups=st.integers(1, 4),
    width=st.integers(1, 3),
    eps=st.sampled_from([1e-3, 1e-5, 1e-6]),
    seed=seeds,
)
@settings(max_examples=60, deadline=None)
def test_group_norm_silu(shape: list[int], n: int, groups: int, width: int, eps: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, *shape, groups * width)) + rng.standard_normal()
    check_gradients(lambda scope: GroupNormSiLU(scope, groups * width, groups, eps), [x], simple, simple_backward, rng)


@given(n=st.integers(1, 6), count=st.integers(1, 4), channels=st.integers(1, 4), seed=seeds)
@settings(max_examples=30, deadline=None)
def test_embedding(n: int, count: int, channels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, count, n)

    def backward(layer: Embedding, dy: np.ndarray, tape: list[Any]) -> list[np.ndarray]:
        assert layer.backward(dy, tape) is None
        return []

    check_gradients(
        lambda scope: Embedding(scope, count, channels),
        [],
        lambda layer, tape: layer.forward(indices, tape),
        backward,
        rng,
    )


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    rate=st.floats(0, 0.9),
    key=st.none() | st.tuples(st.integers(0, 2**40), st.integers(0, 1000)),
    seed=seeds,
)
@settings(max_examples=40, deadline=None)
def test_dropout(shape: list[int], rate: float, key: tuple[int, int] | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    check_gradients(
        lambda scope: Dropout(scope, rate, 3),
        [x],
        lambda layer, x, tape: layer.forward(x, tape, None if key is None else DropoutKey(*key)),
        simple_backward,
        rng,
    )


class TestDropout:
    X = np.ones((4, 50, 50))

    def out(self, number: int, key: tuple[int, ...] | None, rate: float = 0.3) -> np.ndarray:
        layer, _ = build(lambda scope: Dropout(scope, rate, number))
        return layer.forward(self.X, None, None if key is None else DropoutKey(*key))

    def test_it_passes_all_through_without_a_key(self) -> None:
        assert self.out(1, None) is self.X

    def test_it_zeroes_its_rate_and_keeps_the_mean(self) -> None:
        y = self.out(1, (0, 0))
        assert abs(np.mean(y == 0) - 0.3) < 0.02
        np.testing.assert_array_equal(y[y != 0], 1 / (1 - 0.3))

    def test_its_mask_depends_on_seed_step_and_layer_alone(self) -> None:
        y = self.out(1, (0, 0))
        np.testing.assert_array_equal(y, self.out(1, (0, 0)))
        for other in (self.out(2, (0, 0)), self.out(1, (1, 0)), self.out(1, (0, 1))):
            # independent masks agree at a share of 0.3² + 0.7²
            assert abs(np.mean((y == 0) == (other == 0)) - 0.58) < 0.03

    @pytest.mark.parametrize("key", [(0, 0), (5, 0), (0, 7), (5, 7), (5, 7, 3)])
    def test_the_mask_that_a_block_multiplies_by_is_the_same(self, key: tuple[int, ...]) -> None:
        layer, _ = build(lambda scope: Dropout(scope, 0.3, 2))
        np.testing.assert_array_equal(layer.mask(self.X, DropoutKey(*key)) * self.X, self.out(2, key))
        assert layer.mask(self.X, None) is None

    def test_images_of_a_later_place_in_the_batch_get_the_masks_of_that_place(self) -> None:
        whole = self.out(1, (5, 7))
        later, _ = build(lambda scope: Dropout(scope, 0.3, 1))
        for first in range(1, 4):
            np.testing.assert_array_equal(later.forward(self.X[first:], None, DropoutKey(5, 7, first)), whole[first:])


class TestInitialValues:
    def test_weights_are_uniform_within_one_over_the_root_of_the_fan_in(self) -> None:
        for make, fan_in in (
            (lambda scope: Linear(scope, 64, 100), 64),
            (lambda scope: Conv2d(scope, 7, 100, kernel=3), 63),
        ):
            _, parameters = build(make)
            bound = 1 / math.sqrt(fan_in)
            for name in ("layer.weight", "layer.bias"):
                assert np.abs(parameters.values[name]).max() <= bound
            weight = parameters.values["layer.weight"]
            assert np.abs(weight).max() > 0.99 * bound
            assert abs(weight.mean()) < 0.03 * bound
            assert abs(weight.std() - bound / math.sqrt(3)) < 0.03 * bound

    def test_zero_means_zero(self) -> None:
        for make in (lambda scope: Linear(scope, 4, 3, zero=True), lambda scope: Conv2d(scope, 4, 3, zero=True)):
            assert not build(make)[1].flat.any()

    def test_a_normalisation_starts_as_the_identity_of_its_scale(self) -> None:
        _, parameters = build(lambda scope: GroupNormSiLU(scope, 6, 2, 1e-5))
        assert (parameters.values["layer.gamma"] == 1).all()
        assert (parameters.values["layer.beta"] == 0).all()

    def test_each_parameter_and_each_seed_draws_its_own(self) -> None:
        def make(scope: Any) -> list[Linear]:
            return [Linear(scope.scope(name), 5, 5) for name in "ab"]

        _, one = build(make, seed=1)
        _, same = build(make, seed=1)
        _, other = build(make, seed=2)
        np.testing.assert_array_equal(one.flat, same.flat)
        assert np.unique(np.concatenate([one.flat, other.flat])).size == 2 * one.size

    def test_float32_is_float64_rounded(self) -> None:
        drawn = {}
        for dtype in ("float32", "float64"):
            parameters = Parameters(BACKEND)
            Linear(parameters.scope(""), 9, 8)
            parameters.lay_out(3, dtype)
            drawn[dtype] = parameters.flat
            assert parameters.flat.dtype == parameters.grads.dtype == dtype
        np.testing.assert_array_equal(drawn["float32"], drawn["float64"].astype(np.float32))


@given(n=batches, height=sides, width=sides, channels=st.integers(1, 4), seed=seeds)
@settings(max_examples=20, deadline=None)
def test_upsample_conv2d(n: int, height: int, width: int, channels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, height, width, channels))
    block, _ = build(lambda scope: UpsampleConv2d(scope, channels))
    assert block.forward(x, None).shape == (n, 2 * height, 2 * width, channels)
    check_gradients(lambda scope: UpsampleConv2d(scope, channels), [x], simple, simple_backward, rng)


@given(
    n=batches, height=sides, width=sides, groups=st.integers(1, 3), widths=st.integers(1, 3), joined=st.integers(0, 8),
    outputs=st.integers(1, 4), with_shift=st.booleans(), with_residual=st.booleans(), seed=seeds,
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_norm_conv2d(
    n: int, height: int, width: int, groups: int, widths: int, joined: int, outputs: int,
    with_shift: bool, with_residual: bool, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    channels = groups * widths
    joined %= channels
    shapes = {
        "x": (n, height, width, channels - joined),
        "skip": (n, height, width, joined) if joined else None,
        "shift": (n, outputs) if with_shift else None,
        "residual": (n, height, width, outputs) if with_residual else None,
    }
    names = [name for name, shape in shapes.items() if shape]

    def forward(layer: Any, *args: Any) -> Any:
        *inputs, tape = args
        return layer.forward(tape=tape, **dict(zip(names, inputs, strict=True)))

    def backward(layer: Any, dy: np.ndarray, tape: list[Any]) -> list[np.ndarray]:
        return [gradient for gradient in layer.backward(dy, tape) if gradient is not None]

    check_gradients(
        lambda scope: NormConv2d(scope.scope("norm"), scope.scope("conv"), channels, outputs, groups, 1e-5),
        [rng.standard_normal(shapes[name]) for name in names],
        forward,
        backward,
        rng,
    )


@given(n=batches, side=sides, inputs=st.integers(1, 5), joined=st.integers(0, 4), outputs=st.integers(1, 4), seed=seeds)
@settings(max_examples=30, deadline=None)
def test_shortcut(n: int, side: int, inputs: int, joined: int, outputs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    joined %= inputs
    parts = [inputs - joined, joined] if joined else [inputs]

    def forward(layer: Any, x: Any, *rest: Any) -> Any:
        *skip, tape = rest
        return layer.forward(x, tape, *skip)

    check_gradients(
        lambda scope: Shortcut(scope, inputs, outputs),
        [rng.standard_normal((n, side, side, part)) for part in parts],
        forward,
        lambda layer, dy, tape: [gradient for gradient in layer.backward(dy, tape) if gradient is not None],
        rng,
    )


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("joined", [0, 4, 16])
def test_gradients_from_elsewhere_are_added(backend: str, joined: int) -> None:
    rng = np.random.default_rng(0)
    be, dtype = backends.get(backend), "float32" if backend == "numba" else "float64"

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    c = 16 + joined
    x, skip, dy = normal(2, 3, 3, 16), normal(2, 3, 3, joined) if joined else None, normal(2, 3, 3, 16)
    more, more_skip = normal(*x.shape), normal(2, 3, 3, joined) if joined else None
    _, ctx = be.norm_conv2d(x, skip, normal(c), normal(c), normal(3, 3, c, 16), normal(16), 4)
    given = more.copy()
    plain, added = be.norm_conv2d_backward(dy, ctx), be.norm_conv2d_backward(dy, ctx, dx=more)
    np.testing.assert_array_equal(more, given)
    np.testing.assert_allclose(added[0], plain[0] + more, rtol=1e-4, atol=1e-4)
    for one, other in zip(plain[1:], added[1:], strict=True):
        assert one is None or np.array_equal(one, other)

    _, ctx = be.pointwise(x, skip, normal(c, 16), normal(16))
    expected = be.pointwise_backward(dy, ctx)
    expected = [expected[0] + more, None if skip is None else expected[1] + more_skip, *expected[2:]]
    # As a backend may write to them: copies; and as the reference cuts them, from one array
    whole = np.concatenate([more, more if skip is None else more_skip], axis=-1)
    for dx, dskip in ((more.copy(), more_skip), (whole[..., :16], None if skip is None else whole[..., 16:])):
        for one, other in zip(expected, be.pointwise_backward(dy, ctx, dx=dx, dskip=dskip), strict=True):
            assert (one is None) == (other is None)
            assert one is None or np.allclose(one, other, rtol=1e-4, atol=1e-4)
