"""The fast convolution algorithms in exact fractions: each equals its definition, each adjoint is the transpose."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from backends.numba_kernels.convolution import algorithms
from backends.numba_kernels.convolution.algorithms import Algorithm

Values = list[Fraction]
Transform = Callable[[Values], Values]


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


@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize("seed", range(5))
def test_algorithm_equals_its_definition(name: str, seed: int):
    algorithm, definition = DEFINITIONS[name]
    rng = np.random.default_rng(seed)
    x, w = fractions(rng, algorithm.inputs), fractions(rng, 3)
    points = [a * b for a, b in zip(algorithm.g(w), algorithm.b(x), strict=True)]
    assert len(points) == algorithm.points
    assert algorithm.a(points) == definition(x, w)


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
        assert sum(p * q for p, q in left) == sum(p * q for p, q in right)


def amplification(a: Transform, b: Transform, g: Transform, inputs: int, points: int, taps: int) -> float:
    """The sum that `algorithms` gives, of the transforms' matrices."""

    def matrix(transform: Transform, columns: int) -> np.ndarray:
        units = [[Fraction(int(i == j)) for i in range(columns)] for j in range(columns)]
        return np.array([transform(unit) for unit in units], float).T

    of_a, of_b, of_g = matrix(a, points), matrix(b, inputs), matrix(g, taps)
    products = (of_a**2).sum(axis=0) * (of_b**2).sum(axis=1) * (of_g**2).sum(axis=1)
    return float(products.sum()) / (len(of_a) * taps)


def test_rounding_is_amplified_as_little_as_is_said() -> None:
    assert amplification(algorithms.a43, algorithms.b43, algorithms.g43, 6, 6, 3) == pytest.approx(4.8, abs=0.05)
    g42 = algorithms.g42
    assert amplification(algorithms.a42, algorithms.b42, lambda w: g42(*w), 5, 5, 2) == pytest.approx(2.8, abs=0.05)


def test_constants_but_reciprocals_are_exact_in_float32() -> None:
    for p, q in ((algorithms.P3, algorithms.Q3), (algorithms.P2, algorithms.Q2)):
        for value in (p, q, p**2, q**2, p**2 + q**2, (p * q) ** 2, p**3):
            assert Fraction(float(np.float32(float(value)))) == value
