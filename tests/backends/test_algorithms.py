"""The fast convolution algorithms in exact fractions: each equals its definition, each adjoint is the transpose."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from backends.numba_kernels.convolution import algorithms
from backends.numba_kernels.convolution.algorithms import Algorithm

Values = list[Fraction]


def fractions(rng: np.random.Generator, count: int) -> Values:
    return [
        Fraction(int(n), int(d)) for n, d in zip(rng.integers(-9, 10, count), rng.integers(1, 7, count), strict=True)
    ]


def convolved(x: Values, w: Values) -> Values:
    return [w[0] * x[i] + w[1] * x[i + 1] + w[2] * x[i + 2] for i in range(4)]


def halved(x: Values, w: Values) -> Values:
    return [w[0] * x[2 * i] + w[1] * x[2 * i + 1] + w[2] * x[2 * i + 2] for i in range(4)]


def halved_back(dy: Values, w: Values, first: int) -> Values:
    """Eight values from x_first on of the gradient of `halved`, whose dy start at dy_(first - 1)."""
    padded = [Fraction(0), Fraction(0), *dy, Fraction(0), Fraction(0)]

    def at(i: int) -> Fraction:
        return padded[i + 3 - first]

    return [
        w[0] * at(j // 2) + w[2] * at(j // 2 - 1) if j % 2 == 0 else w[1] * at(j // 2) for j in range(first, first + 8)
    ]


def doubled(x: Values, w: Values) -> Values:
    """x holds x_-1 … x_4; the convolution of x_-1, x_-1, x_0, x_0, x_1 …"""
    large = [value for value in x for _ in range(2)]
    return [w[0] * large[i + 1] + w[1] * large[i + 2] + w[2] * large[i + 3] for i in range(8)]


def doubled_back(dy: Values, w: Values) -> Values:
    """dy holds dy_-1 … dy_8; each x_i went into y_2i-1 … y_2i+2."""
    return [
        w[2] * dy[2 * i] + (w[1] + w[2]) * dy[2 * i + 1] + (w[0] + w[1]) * dy[2 * i + 2] + w[0] * dy[2 * i + 3]
        for i in range(4)
    ]


DEFINITIONS: dict[str, tuple[Algorithm, Callable[[Values, Values], Values]]] = {
    "CONV": (algorithms.CONV, convolved),
    "CONV_DX": (algorithms.CONV_DX, lambda x, w: convolved(x, w[::-1])),
    "DOWN0": (algorithms.DOWN0, halved),
    "DOWN1": (algorithms.DOWN1, halved),
    "DOWN_DX0": (algorithms.DOWN_DX0, lambda dy, w: halved_back(dy, w, 0)),
    "DOWN_DX1": (algorithms.DOWN_DX1, lambda dy, w: halved_back(dy, w, 1)),
    "UP": (algorithms.UP, doubled),
    "UP_DX": (algorithms.UP_DX, doubled_back),
}


def close(ours: Values, wanted: Values) -> bool:
    # g's thirds and sixths are floats, so that fractions come back as floats
    return np.allclose(np.array(ours, float), np.array(wanted, float), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize("seed", range(5))
def test_algorithm_equals_its_definition(name: str, seed: int):
    algorithm, definition = DEFINITIONS[name]
    rng = np.random.default_rng(seed)
    x, w = fractions(rng, algorithm.inputs), fractions(rng, 3)
    points = [a * b for a, b in zip(algorithm.g(w), algorithm.b(x), strict=True)]
    assert len(points) == algorithm.points
    assert close(algorithm.a(points), definition(x, w))


@pytest.mark.parametrize("name", [name for name, (a, _) in DEFINITIONS.items() if a.a_adjoint])
@pytest.mark.parametrize("seed", range(5))
def test_adjoints_are_transposes(name: str, seed: int):
    algorithm, _ = DEFINITIONS[name]
    rng = np.random.default_rng(seed)
    assert algorithm.a_adjoint is not None
    assert algorithm.g_adjoint is not None
    m, y, w = fractions(rng, algorithm.points), fractions(rng, algorithm.outputs), fractions(rng, 3)
    for left, right in (
        (zip(algorithm.a(m), y, strict=True), zip(m, algorithm.a_adjoint(y), strict=True)),
        (zip(algorithm.g(w), m, strict=True), zip(w, algorithm.g_adjoint(m), strict=True)),
    ):
        assert float(sum(p * q for p, q in left)) == pytest.approx(float(sum(p * q for p, q in right)), rel=1e-12)


@pytest.mark.parametrize("name", [name for name, (a, _) in DEFINITIONS.items() if a.a_adjoint])
def test_points_that_sum_the_output_gradients(name: str):
    algorithm, _ = DEFINITIONS[name]
    y = fractions(np.random.default_rng(0), algorithm.outputs)
    assert algorithm.a_adjoint is not None
    points = algorithm.a_adjoint(y)
    assert float(sum(points[i] for i in algorithm.ones)) == pytest.approx(float(sum(y)))
