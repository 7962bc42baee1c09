"""Proving operations: gradients by the complex step, kernels against their reference, tests against mutants.

To be read in this order: `gradients` (is a backward exact?), `comparison` (is a kernel right?), `refusals` (does its
guard let through only what it is written for?), `mutation` (would my test notice?), `strategies` (what to try it on),
`registry` (an operation of one's own beside the built-in ones). `cases` and `wide_cases` hold the arguments of the
built-in operations. `backends/README.md` goes through them.

Needs Hypothesis: pip install 'tinyddpm[test]'.
"""

try:
    import hypothesis  # noqa: F401
except ImportError as error:
    raise ImportError("backends.testing needs Hypothesis; run: pip install 'tinyddpm[test]'") from error

from backends.testing.comparison import check_against, unwritten_is_nan
from backends.testing.gradients import check_gradient
from backends.testing.mutation import Mutant, surviving_mutants
from backends.testing.pairs import double, single
from backends.testing.refusals import check_refusals
from backends.testing.registry import CASES, SHAPES, check_context, register, registered, unregister
from backends.testing.strategies import (
    SEEDS,
    Arguments,
    Normal,
    arrays,
    channels_in_groups,
    channels_in_heads,
    directions,
    image_shapes,
    images,
    shapes,
)

__all__ = [
    "CASES",
    "SEEDS",
    "SHAPES",
    "Arguments",
    "Mutant",
    "Normal",
    "arrays",
    "channels_in_groups",
    "channels_in_heads",
    "check_against",
    "check_context",
    "check_gradient",
    "check_refusals",
    "directions",
    "double",
    "image_shapes",
    "images",
    "register",
    "registered",
    "shapes",
    "single",
    "surviving_mutants",
    "unregister",
    "unwritten_is_nan",
]
