"""Would my test notice? Small mistakes in a function's source, one at a time, each under one's own test.

A test that passes has shown something only if it fails for wrong code. `surviving_mutants` drops a term, flips a
sign, forgets a factor, sums over another axis, and tells which of these the test lets pass, by line and text.
"""

import ast
import copy
import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

from hypothesis import Phase, is_hypothesis_test, settings

# What a mutant is asked of a Hypothesis test: any counterexample, not the smallest
EXAMPLES = 30


@dataclass(frozen=True)
class Mutant:
    """One change: in `file` at `line`, the text `before` became `after`."""

    file: str
    line: int
    before: str
    after: str

    @property
    def text(self) -> str:
        """The change without its place: "a - b -> a"."""
        return f"{self.before} -> {self.after}"

    def __repr__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


def surviving_mutants(function: Callable[..., Any], check: Callable[[], Any]) -> list[Mutant]:
    """The mutants of a function that a check lets pass; none, if the check is good.

    function: a Python function, of a backward say, or a helper of one. check: called without arguments while the
    function's code is the mutant's, wherever the function is stored; it notices by raising any exception. A Hypothesis
    test is one: it runs EXAMPLES examples, the same each time. Some mutants compute the same as the original (a sum
    in another order): look at these, and list them by their `text` with the reason.

    Raises ValueError if the function has no source or is compiled, if the check fails before anything is changed, or
    if it never calls the function.
    """
    if not isinstance(function, FunctionType):
        raise ValueError(
            f"{function!r} is not a Python function; mutate the function that it was compiled or bound from "
            "(py_func of a Numba function, __func__ of a method)"
        )
    tree, first = source_of(function)
    try:
        quickly(check)
    except Exception as error:
        raise ValueError(f"the check fails before anything is changed: {error}") from error
    if survives(function, crashing(function), check):
        raise ValueError(f"the check never calls {function.__qualname__}: nothing that is changed in it can be noticed")
    file = inspect.getsourcefile(function) or ""
    found = []
    for node, before, after, mutated in mutants_of(tree):
        mutant = Mutant(file.rpartition("/")[2], first + node.lineno - 1, before, after)
        if survives(function, compiled(function, mutated, repr(mutant)), check):
            found.append(mutant)
    return found


def quickly(check: Callable[..., Any], *args: Any, **named: Any) -> None:
    """Calls a check; a Hypothesis test with few examples, the same each time, that are not made smaller."""
    if not is_hypothesis_test(check):
        check(*args, **named)
        return
    attribute = "_hypothesis_internal_use_settings"
    before = getattr(check, attribute)
    few = settings(
        before,
        max_examples=min(EXAMPLES, before.max_examples),
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        report_multiple_bugs=False,
    )
    setattr(check, attribute, few)
    try:
        check(*args, **named)
    finally:
        setattr(check, attribute, before)


def survives(function: FunctionType, code: CodeType, check: Callable[[], Any]) -> bool:
    """Whether the check passes with that code in the function."""
    with exchanged(function, code):
        try:
            quickly(check)
        except Exception:
            return False
    return True


@contextmanager
def exchanged(function: FunctionType, code: CodeType) -> Iterator[None]:
    """The function object stays the same and takes another code: whatever imported, bound or stored it sees that."""
    original = function.__code__
    function.__code__ = code
    try:
        yield
    finally:
        function.__code__ = original


def source_of(function: FunctionType) -> tuple[ast.FunctionDef, int]:
    """(the definition, the number of its first line in the file)."""
    try:
        lines, first = inspect.getsourcelines(function)
    except (OSError, TypeError) as error:
        raise ValueError(f"the source of {function.__qualname__} is not to be had: {error}") from error
    (definition,) = ast.parse(textwrap.dedent("".join(lines))).body
    if not isinstance(definition, ast.FunctionDef):
        raise ValueError(f"{function.__qualname__} is not written by def")
    if function.__closure__:
        raise ValueError(
            f"{function.__qualname__} holds variables of the function around it "
            f"({', '.join(function.__code__.co_freevars)}); mutate one that is defined at the top of its module"
        )
    definition.decorator_list = []
    return definition, first


def compiled(function: FunctionType, definition: ast.FunctionDef, where: str) -> CodeType:
    """The code of a definition, its names those of the function's module."""
    module = ast.fix_missing_locations(ast.Module([definition], []))
    namespace = dict(function.__globals__)
    exec(compile(module, f"<{where}>", "exec"), namespace)
    code: CodeType = namespace[definition.name].__code__
    return code


def crashing(function: FunctionType) -> CodeType:
    """Code of the same parameters that does nothing but fail."""
    definition, _ = source_of(function)
    definition.body = ast.parse("raise AssertionError('called')").body
    return compiled(function, definition, "crashing")


def mutants_of(tree: ast.FunctionDef) -> Iterator[tuple[Any, str, str, ast.FunctionDef]]:
    """(node, its text, the text in its place, the whole definition with that) for every mistake."""
    for number, node in enumerate(walked(tree)):
        for mistake in mistakes(node):
            mutated = copy.deepcopy(tree)
            target = next(n for i, n in enumerate(walked(mutated)) if i == number)
            changed = Exchange(target, copy.deepcopy(mistake)).visit(mutated)
            yield node, ast.unparse(node), ast.unparse(mistake), changed


class Exchange(ast.NodeTransformer):
    """Puts one node in the place of another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> Any:
        return self.new if node is self.old else super().visit(node)


def walked(tree: ast.AST) -> Iterator[ast.AST]:
    """What a gradient is computed by: not annotations, defaults, assertions and error messages."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.arguments | ast.Raise | ast.Assert) or child is getattr(tree, "returns", None):
            continue
        yield child
        yield from walked(child)


def mistakes(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in a node's place by mistake."""
    if isinstance(node, ast.BinOp):
        yield from wrong_arithmetic(node)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        if not isinstance(node.operand, ast.Constant):
            yield node.operand
    elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add | ast.Sub):
        yield ast.Assign([node.target], node.value, lineno=node.lineno)
        flipped = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        yield ast.AugAssign(node.target, flipped, node.value)
    elif isinstance(node, ast.Call):
        yield from other_axes(node)
    elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
        values = node.value.elts
        for i in range(len(values) - 1):
            swapped = [*values[:i], values[i + 1], values[i], *values[i + 2 :]]
            yield ast.Return(ast.Tuple(swapped, ast.Load()))


def wrong_arithmetic(node: ast.BinOp) -> Iterator[ast.AST]:
    """A term or factor forgotten, a sign flipped, operands swapped."""
    left, op, right = node.left, node.op, node.right
    if isinstance(op, ast.Add | ast.Sub):
        yield left
        yield right if isinstance(op, ast.Add) else ast.UnaryOp(ast.USub(), right)
        yield ast.BinOp(left, ast.Sub() if isinstance(op, ast.Add) else ast.Add(), right)
    elif isinstance(op, ast.Mult):
        yield left
        yield right
    elif isinstance(op, ast.Div):
        yield left
        yield ast.BinOp(left, ast.Mult(), right)
    elif isinstance(op, ast.MatMult):
        yield ast.BinOp(right, op, left)
    elif isinstance(op, ast.Pow):
        yield left
        yield ast.BinOp(left, op, ast.UnaryOp(ast.USub(), right))


def other_axes(node: ast.Call) -> Iterator[ast.AST]:
    """The call with another `axis`: the neighbour of a number, a tuple less one of its members."""
    for i, keyword in enumerate(node.keywords):
        if keyword.arg != "axis":
            continue
        for axis in axes_beside(keyword.value):
            keywords = [*node.keywords[:i], ast.keyword("axis", axis), *node.keywords[i + 1 :]]
            yield ast.Call(node.func, node.args, keywords)


def axes_beside(value: ast.expr) -> Iterator[ast.expr]:
    """Wrong values of an `axis`."""
    try:
        axis = ast.literal_eval(value)
    except ValueError:
        return  # computed
    if isinstance(axis, int):
        yield ast.parse(repr(axis - 1 if axis else 1), mode="eval").body
    elif isinstance(axis, tuple):
        for i in range(len(axis)):
            yield ast.parse(repr(axis[:i] + axis[i + 1 :]), mode="eval").body
