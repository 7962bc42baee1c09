"""An operation of one's own beside the built-in ones: what is known about each, and what is missing, told by name."""

import gc
import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from backends.backend import Backend
from backends.ops import OPS, Op
from backends.testing.cases import SMALL
from backends.testing.pairs import arrays_in
from backends.testing.strategies import Arguments
from backends.testing.wide_cases import WIDE

Strategy = st.SearchStrategy[Arguments]
# Operations of one pass over flat arrays return their results alone; every other one returns (y, ctx)
WITHOUT_CTX = {"adam", "ema", "adam_ema", "global_norm", "clip_by_global_norm"}
# What overrides of an operation may write their results to
OVERWRITES = {
    "adam": ("params", "m", "v"),
    "ema": ("average",),
    "adam_ema": ("params", "grads", "m", "v", "average"),
    "clip_by_global_norm": ("grads",),
}


class Table(dict[str, Any]):
    """A dictionary by operation, which tells by a sentence what an operation lacks."""

    def __init__(self, entries: Mapping[str, Any], lacks: str) -> None:
        super().__init__(entries)
        self.lacks = lacks

    def __missing__(self, name: str) -> Any:
        raise LookupError(f"{name} {self.lacks}" if name in OPS else f"there is no operation {name!r} in OPS")


CASES: dict[str, Strategy] = Table(
    SMALL,
    "has no cases: add a Hypothesis strategy of its arguments to SMALL in backends/testing/cases.py, "
    "or hand it to backends.testing.register as cases=",
)
# At sizes where kernels' blocks, edges and remainders come into play; a registered operation may have small cases alone
SHAPES: dict[str, Strategy] = Table(SMALL | WIDE, CASES.lacks)  # type: ignore[attr-defined]
# For each registered operation PyTorch's form of it, or the reason why there is none; arguments at sizes to be timed
REGISTERED_TWINS: dict[str, Callable[..., Any] | str] = {}
REGISTERED_BENCHMARKS: dict[str, dict[str, Callable[..., Arguments]]] = {}


def outputs(name: str, result: Any) -> tuple[Any, ...]:
    """The arrays that operation `name` computed, without its ctx."""
    if name in WITHOUT_CTX:
        return result if isinstance(result, tuple) else (result,)
    return (result[0],)


def check_context(op: Op, case: Arguments, ctx: Any) -> None:
    """Raises AssertionError unless the arrays in ctx are the declared ones: the arguments that `keeps` names, and
    arrays of as many elements as the shapes of `makes`."""
    arguments = {id(memory(a)): n for n, a in case.items() if isinstance(a, np.ndarray)}
    held = {id(memory(a)): memory(a) for _, a in arrays_in(ctx)}
    kept = {arguments[key] for key in held if key in arguments}
    declared = {n for n in op.keeps if case[n] is not None}
    for name in sorted(kept - declared):
        raise AssertionError(f"{op.name} keeps {name} in ctx, which its keeps={op.keeps} does not declare: add it")
    for name in sorted(declared - kept):
        raise AssertionError(
            f"{op.name} declares in keeps that ctx holds {name}, but ctx does not: it must hold {name} itself, "
            "no copy; where backward does not need it, take it out of keeps"
        )
    made = Counter(a.size for key, a in held.items() if key not in arguments)
    expected = Counter(math.prod(shape) for shape in (op.makes(**case) if op.makes else []))
    assert made == expected, (
        f"{op.name} keeps arrays of {sorted(made.elements())} elements in ctx besides its arguments, "
        f"its makes= declares {sorted(expected.elements())}: give Op a makes that returns their shapes"
    )


def memory(x: np.ndarray) -> np.ndarray:
    """The array that keeps x's memory alive: of a view what it is a view of."""
    while isinstance(x.base, np.ndarray):
        x = x.base
    return x


def flaws(op: Op) -> Iterator[str]:
    """What an `Op` says about itself that its functions do not, a sentence each."""
    parameters = inspect.signature(op.forward).parameters
    if op.forward.__name__ != op.name:
        yield f"{op.name} is the name of the Op, {op.forward.__name__} that of its forward: they are one"
    if op.backward is not None and op.backward.__name__ != f"{op.name}_backward":
        yield f"the backward of {op.name} is called {op.backward.__name__}: it is {op.name}_backward"
    if next(iter(parameters), "") != "xp":
        yield f"the first parameter of {op.name} is xp, the array namespace"
    for field in ("wrt", "keeps"):
        for name in getattr(op, field):
            if name not in parameters:
                yield f"{op.name} has no argument {name!r}, which its {field} names; it has {', '.join(parameters)}"
    if op.backward is not None and not op.wrt:
        yield f"{op.name} has a backward and no wrt: name the arguments whose gradients it returns, in their order"
    if op.backward is None:
        for field in ("wrt", "keeps", "makes"):
            if getattr(op, field):
                yield f"{op.name} has {field} and no backward, which alone needs them"


def missing(op: Op, cases: Any, twin: Any, benchmarks: Any) -> Iterator[str]:
    """What `register` lacks, a sentence each."""
    if cases is None:
        yield f"{op.name} has no cases: give cases=, a Hypothesis strategy of its arguments by name"
    elif not isinstance(cases, st.SearchStrategy):
        yield f"cases= of {op.name} is a Hypothesis strategy of its arguments by name, got a {type(cases).__name__}"
    if twin is None:
        yield f"{op.name} has no twin: give twin=, PyTorch's form of it, or a sentence why there is none"
    if not benchmarks:
        yield (
            f"{op.name} has no benchmark shapes: give benchmarks=, for each shape's name a function from normal "
            'numbers to arguments ({"32x32, 64": lambda normal: {"x": normal.images(32, 64)}}), or a sentence why none'
        )


def declarations_hold(op: Op, cases: Strategy) -> None:
    """Raises ValueError with a sentence if forward does not take the cases or keeps what is not declared."""

    @settings(
        max_examples=10,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(case=cases)
    def tried(case: Arguments) -> None:
        absent = [name for name in op.wrt if name not in case]
        if absent:
            raise ValueError(f"the cases of {op.name} have no {absent[0]!r}, which its wrt names")
        try:
            result = op.forward(np, **case)
        except TypeError as error:
            raise ValueError(f"{op.name} does not take its cases: {error}") from error
        if op.backward is not None:
            if not (isinstance(result, tuple) and len(result) == 2):
                raise ValueError(f"{op.name} returns (y, ctx), ctx being what {op.name}_backward needs")
            try:
                check_context(op, case, result[1])
            except AssertionError as error:
                raise ValueError(str(error)) from None

    tried()


def register(
    op: Op,
    *,
    cases: Strategy | None = None,
    wide: Strategy | None = None,
    twin: Callable[..., Any] | str | None = None,
    benchmarks: dict[str, Callable[..., Arguments]] | str | None = None,
) -> None:
    """Adds an operation to `OPS`, and what the gradient, parity, memory and benchmark loops need to walk it.

    cases: draws its arguments by name, small and in float64. wide: the same at sizes that a kernel's blocks and edges
    need; by default the small ones. twin: PyTorch's form, a function of the same arguments as tensors, or a sentence
    why there is none. benchmarks: for each shape's name a function from `benchmarks.operation_cases.Numbers` to
    arguments, or a sentence why it is not timed. Every backend has the operation from now on, as a method.

    Raises ValueError that says in a sentence each what is missing, or what the Op declares wrongly.
    """
    if op.name in OPS:
        raise ValueError(f"there is an operation {op.name} already; choose another name, or unregister it first")
    wrong = [*flaws(op), *missing(op, cases, twin, benchmarks)]
    if wrong:
        raise ValueError("\n".join(wrong))
    assert cases is not None and twin is not None and benchmarks is not None  # noqa: PT018
    declarations_hold(op, cases)
    OPS[op.name] = op
    CASES[op.name], SHAPES[op.name] = cases, cases if wide is None else wide
    REGISTERED_TWINS[op.name] = twin
    REGISTERED_BENCHMARKS[op.name] = {} if isinstance(benchmarks, str) else benchmarks


def unregister(name: str) -> None:
    """Takes a registered operation out again. Raises ValueError for any other."""
    if name not in REGISTERED_TWINS:
        raise ValueError(f"{name!r} was not registered; there are {', '.join(REGISTERED_TWINS) or 'none'}")
    for table in (OPS, CASES, SHAPES, REGISTERED_TWINS, REGISTERED_BENCHMARKS):
        del table[name]
    # By type: `isinstance` would ask weak proxies among all objects, whose own may be gone
    for backend in (b for b in gc.get_objects() if issubclass(type(b), Backend)):
        # Bound when they were first called
        for bound in (name, f"{name}_backward"):
            vars(backend).pop(bound, None)


@contextmanager
def registered(op: Op, **known: Any) -> Iterator[Op]:
    """`register`, and `unregister` when the context ends."""
    register(op, **known)
    try:
        yield op
    finally:
        unregister(op.name)
