"""Both U-Nets against their PyTorch twins: output, input gradient and every parameter's gradient."""

from typing import Any

import pytest

import backends

torch = pytest.importorskip("torch", reason="parity with PyTorch needs the extra .[parity]")
gradients = pytest.importorskip("tests.twins.gradients")
CONFIGS, Problem, errors = gradients.CONFIGS, gradients.Problem, gradients.errors

# Relative, by norm, of every single tensor: rounding of sums of some thousand terms, and in Winograd's transforms
LIMITS = {("numpy", "float64"): 1e-10, ("numpy", "float32"): 1e-5, ("numba", "float32"): 2.5e-5}


@pytest.mark.parametrize(("backend", "dtype"), list(LIMITS))
@pytest.mark.parametrize("config", list(CONFIGS.values()), ids=list(CONFIGS))
def test_forward_and_every_gradient(config: Any, backend: str, dtype: str) -> None:
    """Against PyTorch in float64: its float32 has errors of its own, up to 9e-6, which would count as ours."""
    problem = Problem.random(config)
    found = errors(problem.ours(backends.get(backend), dtype), problem.torch("float64"))
    limit = LIMITS[backend, dtype]
    assert {name: error for name, error in found.items() if not error <= limit} == {}
