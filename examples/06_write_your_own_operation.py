"""An operation of your own: RMS normalisation, from its formula to a Numba kernel, each step proven.

y = x r gamma with r = 1 / sqrt(mean(x^2) + eps), the mean over channels (Zhang & Sennrich 2019, eq. 4).
backends/README.md goes through the steps one by one.
"""

import numba
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import backends
from backends.testing import SEEDS, Normal, check_against, check_gradient, registered, shapes, surviving_mutants


def rms_norm(xp, x, gamma, eps=1e-5):
    """x: (..., C), gamma: (C,). Returns y of x's shape and ctx for `rms_norm_backward`."""
    r = 1.0 / xp.sqrt(xp.mean(x * x, axis=-1, keepdims=True) + eps)
    return x * r * gamma, (x, gamma, r)


def rms_norm_backward(xp, dy, ctx):
    """(dx, dgamma): with dn = dy gamma, dx = r dn - x r^3 mean(dn x)."""
    x, gamma, r = ctx
    dn = dy * gamma
    dx = r * dn - x * r**3 * xp.mean(dn * x, axis=-1, keepdims=True)
    return dx, xp.sum(dy * x * r, axis=tuple(range(x.ndim - 1)))


def forgetful_backward(xp, dy, ctx):
    """As if r did not depend on x: a usual mistake."""
    x, gamma, r = ctx
    return r * dy * gamma, xp.sum(dy * x * r, axis=tuple(range(x.ndim - 1)))


@st.composite
def cases(draw):
    """Arguments by name: 1 to 3 axes before the channels."""
    normal, shape = Normal(draw), draw(shapes(axes=(2, 4)))
    return {"x": normal(*shape), "gamma": normal(shape[-1]), "eps": draw(st.sampled_from([1e-5, 1e-3]))}


@settings(max_examples=50, deadline=None)
@given(case=cases(), seed=SEEDS)
def test_gradient(case, seed):
    """For any case and any cotangent."""
    check_gradient(rms_norm, rms_norm_backward, case, seed=seed)


test_gradient()
print("1. backward is exact, at 50 random shapes")
case = {"x": np.random.default_rng(0).standard_normal((2, 3, 4)), "gamma": np.array([1.0, -2.0, 0.5, 3.0])}
try:
    check_gradient(rms_norm, forgetful_backward, case)
except AssertionError as error:
    print(f"2. one that forgets a term is not:\n   {error}")
print(
    f"3. small mistakes in backward that the test would let pass: {surviving_mutants(rms_norm_backward, test_gradient)}"
)


@numba.njit
def kernel(x, gamma, eps, y, r):
    """Row by row; x, y: (rows, C), r: (rows,), all float32."""
    for i in range(x.shape[0]):
        total = np.float32(0)
        for j in range(x.shape[1]):
            total += x[i, j] * x[i, j]
        r[i] = 1 / np.sqrt(total / x.shape[1] + eps)
        for j in range(x.shape[1]):
            y[i, j] = x[i, j] * r[i] * gamma[j]


class WithRmsNorm(backends.NumbaBackend):
    """The Numba backend, whose `rms_norm` runs the kernel; backward is still the reference."""

    def rms_norm(self, x, gamma, eps=1e-5):
        """As the operation; what the kernel is not written for runs the reference."""
        if not (x.dtype == gamma.dtype == np.float32 and x.flags.c_contiguous):
            return rms_norm(np, x, gamma, eps)
        y, r = np.empty_like(x), np.empty((*x.shape[:-1], 1), np.float32)
        kernel(x.reshape(-1, x.shape[-1]), gamma, np.float32(eps), y.reshape(-1, x.shape[-1]), r.reshape(-1))
        return y, (x, gamma, r)


operation = backends.Op("rms_norm", rms_norm, rms_norm_backward, wrt=("x", "gamma"), keeps=("x", "gamma"))
known = {"cases": cases(), "twin": "torch.nn.functional.rms_norm, not compared here"}
known["benchmarks"] = {"64 tokens, 128": lambda normal: {"x": normal(normal.batch, 64, 128), "gamma": normal(128)}}
try:
    backends.testing.register(operation, **known)
except ValueError as error:
    print(f"4. what an operation lacks is told when it is registered:\n   {error}")
operation = backends.Op(**vars(operation) | {"makes": lambda x, **rest: [(*x.shape[:-1], 1)]})
with registered(operation, **known):
    backend = WithRmsNorm()
    settings(max_examples=50, deadline=None)(
        given(case=cases())(lambda case: check_against(operation, backend, case))
    )()
    print(f"5. the kernel equals the reference, at 50 random shapes; now {backend.name} has {backend.overrides()[-1]}")
