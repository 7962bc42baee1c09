"""Both U-Nets against their PyTorch twins: output, input gradient and every parameter's gradient.

PyTorch in float64 decides: its float32 has errors of its own, which would count as ours. Errors are norms. Those of the
output, of the input's gradient and of all parameters' gradients as one vector are relative to the right norm: 5e-6. A
single parameter's gradient is a sum over images and pixels, and rounds as its terms do: where they cancel, nothing in
float32 is exact relative to what is left. So its error is relative to its norm, or to a fifth of what its terms amount
to, if that is more: 2e-5 with NumPy, 2.5e-5 with Numba, whatever the seed. At the first seed none cancels, and each is
held to 1e-5 and 2.5e-5 of its own norm.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import backends

torch = pytest.importorskip("torch", reason="parity with PyTorch needs the extra .[parity]")
gradients = pytest.importorskip("tests.twins.gradients")
CONFIGS, Problem, errors, relative = gradients.CONFIGS, gradients.Problem, gradients.errors, gradients.relative

SHARE = 0.2
# For a single parameter's gradient, and for the output, dx and all gradients as one vector. The worst of 756
# problems, 60 and more of each config but the default, were 1.7e-5 and 3.2e-6 with Numba, 1.5e-5 and 3.1e-6 with NumPy,
# 1.3e-5 and 6.4e-6 with PyTorch in float32; NumPy's in float64 5.4e-14 and 2.9e-14, of 96
LIMITS = {
    ("numpy", "float64"): (1e-12, 1e-12),
    ("numpy", "float32"): (2e-5, 5e-6),
    ("numba", "float32"): (2.5e-5, 5e-6),
}
NOT_PARAMETERS = ("output", "dx")
FIRST_SEED = 11
OF_ITSELF = {("numpy", "float64"): 1e-12, ("numpy", "float32"): 1e-5, ("numba", "float32"): 2.5e-5}


def as_one(found: Any) -> np.ndarray:
    """All parameters' gradients as one vector."""
    return np.concatenate([found[name].ravel() for name in sorted(found) if name not in NOT_PARAMETERS])


def failures(found: Any, exact: Any, terms: dict[str, float], limits: tuple[float, float]) -> dict[str, float]:
    """Names and errors of the tensors that are off by more than their limits."""
    single, whole = limits
    seen = errors(found, exact, {name: SHARE * size for name, size in terms.items()})
    return {name: error for name, error in seen.items() if not error <= (single if name in terms else whole)}


@pytest.mark.parametrize(("backend", "dtype"), list(LIMITS))
@pytest.mark.parametrize("config", list(CONFIGS.values()), ids=list(CONFIGS))
def test_forward_and_every_gradient(config: Any, backend: str, dtype: str) -> None:
    for seed in (FIRST_SEED, *(() if config is CONFIGS["default"] else (1, 2, 3))):
        problem = Problem.random(config, seed=seed)
        found, exact = problem.ours(backends.get(backend), dtype), problem.torch("float64")
        assert failures(found, exact, problem.terms(), LIMITS[backend, dtype]) == {}, seed
        assert relative(as_one(found), as_one(exact)) <= LIMITS[backend, dtype][1], seed
        if seed == FIRST_SEED:
            each = errors(found, exact)
            assert {name: error for name, error in each.items() if not error <= OF_ITSELF[backend, dtype]} == {}


@pytest.mark.parametrize("config", list(CONFIGS.values()), ids=list(CONFIGS))
def test_a_mistake_in_a_single_tensor_is_noticed(config: Any) -> None:
    """By the loosest limits: a factor of 1.001, one number's sign, and a pixel's loss that did not reach its sum."""
    problem = Problem.random(config)
    exact, terms, limits = problem.torch("float64"), problem.terms(), max(LIMITS.values())
    lacking = replace(problem, dy=problem.dy.copy())
    lacking.dy[0, 2, 1] = 0
    without = lacking.torch("float64")
    for name, value in exact.items():
        turned = value.copy()
        # Neither the largest number, nor one of those that are 0: labels without images, taps that see padding alone
        places = np.flatnonzero(turned)
        turned.flat[places[np.argsort(abs(turned.flat[places]))[len(places) // 2]]] *= -1
        for wrong in [value * 1.001, turned, *([without[name]] if name != "output" else [])]:
            assert name in failures({name: wrong}, {name: value}, terms, limits), name
