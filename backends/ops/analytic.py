"""Comparisons that stay out of the way of complex-step differentiation.

The reference operations are analytic, so that `Im f(x + ih v) / h` is the exact derivative along v
(Martins, Sturdza & Alonso 2003, "The complex-step derivative approximation", section 2). Anything that
is not analytic (a maximum, a sign, a branch) looks at the real part only.
"""

from backends.array import Array, Namespace


def real_part(xp: Namespace, x: Array) -> Array:
    """Real part of x; x itself where it is real (the standard's `real` refuses real input)."""
    return xp.real(x) if xp.isdtype(x.dtype, "complex floating") else x
