"""An operation of your own: RMS normalisation, from its formula to a proven backward pass.

y = x r gamma with r = 1 / sqrt(mean(x^2) + eps), the mean over channels (Zhang & Sennrich 2019, eq. 4).
backends/README.md goes through the steps one by one. Writes operation.png: for one row of 16 channels, what the term
that is easily forgotten contributes to dx.
"""

import matplotlib.pyplot as plt
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.testing import SEEDS, Normal, check_gradient, shapes, surviving_mutants


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


if __name__ == "__main__":
    test_gradient()
    print("1. backward is exact, at 50 random shapes")
    rng = np.random.default_rng(0)
    case = {"x": rng.standard_normal((1, 16)), "gamma": rng.standard_normal(16)}
    try:
        check_gradient(rms_norm, forgetful_backward, case)
    except AssertionError as error:
        print(f"2. one that forgets a term is not:\n   {error}")
    survivors = surviving_mutants(rms_norm_backward, test_gradient)
    print(f"3. small mistakes in backward that the test would let pass: {survivors}")

    dy, ctx = rng.standard_normal((1, 16)), rms_norm(np, **case)[1]
    for backward, look in ((rms_norm_backward, "o"), (forgetful_backward, "x")):
        plt.plot(backward(np, dy, ctx)[0][0], look, label=backward.__name__)
    steps = 1j * 1e-30 * np.eye(16)
    plt.plot(rms_norm(np, case["x"] + steps, case["gamma"])[0].imag @ dy[0] * 1e30, "k", lw=0.8, label="complex step")
    plt.gca().set(title="dx of one row, by channel", xlabel="channel", ylabel="dx")
    plt.legend()
    plt.savefig("operation.png", dpi=100)
    print("wrote operation.png")
