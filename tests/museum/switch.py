"""Switching a mistake on: a function's source with one piece exchanged, for as long as a context lasts.

The function object stays the same and takes another code: whatever imported it, bound it or stored it (the list of
operations, a backend's bound operations, class attributes) sees the mistake, and nothing has to be found and patched.
Sources of CUDA kernels are compiled from a copy that has the mistake.
"""

import ast
import functools
import gc
import importlib
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import pytest

from backends.numba_kernels.runtime.launch import CFunction
from tests.museum.kernels import tiles_made_anew
from tests.museum.sources import compiled_from, sources

KERNELS = "backends.numba_kernels."


@dataclass(frozen=True)
class Edit:
    """In the source of `function`, "package.module:name" or "package.module:Class.name", `old` becomes `new`."""

    function: str
    old: str
    new: str

    @property
    def place(self) -> str:
        """What messages call it."""
        return self.function


@dataclass(frozen=True)
class SourceEdit:
    """In a source of the CUDA kernels, "name.cu" or "name.cuh", `old` becomes `new`."""

    file: str
    old: str
    new: str

    @property
    def place(self) -> str:
        """What messages call it."""
        return self.file


def replaced(source: str, edit: Edit | SourceEdit) -> str:
    """The source with the edit, whose `old` must occur in it exactly once."""
    count = source.count(edit.old)
    assert count == 1, f"the source of {edit.place} holds {edit.old!r} {count} times: adapt the mutant"
    return source.replace(edit.old, edit.new)


def named(path: str) -> tuple[Any, Any]:
    """What "package.module:Class.name" names, as it is defined, and what it is defined in."""
    module, _, names = path.partition(":")
    owner: Any = None
    value: Any = importlib.import_module(module)
    for name in names.split("."):
        owner, value = value, inspect.getattr_static(value, name)
    return owner, value


def found(path: str) -> tuple[type | None, FunctionType]:
    """The function itself, free of decorators, and the class whose cached tables it fills, if it does."""
    owner, value = named(path)
    if isinstance(value, CFunction):
        return None, value.function
    if isinstance(value, functools.cached_property):
        return owner, value.func
    if isinstance(value, property):
        value = value.fget
    if isinstance(value, classmethod | staticmethod):
        value = value.__func__
    return None, inspect.unwrap(value)


def edited(function: FunctionType, edits: list[Edit]) -> FunctionType:
    """A function like the given one, of the source with the edits."""
    source = functools.reduce(replaced, edits, textwrap.dedent(inspect.getsource(function)))
    tree = ast.parse(source)
    (definition,) = tree.body
    assert isinstance(definition, ast.FunctionDef)
    definition.decorator_list = []
    namespace = dict(function.__globals__)
    exec(compile(tree, f"<{edits[0].function}, mutated>", "exec"), namespace)
    return namespace[definition.name]


def forget(paths: Iterable[str], kinds: Iterable[type]) -> None:
    """Empties the caches of functions, and of classes' objects."""
    for path in paths:
        _, value = named(path)
        getattr(value, "cache_clear", lambda: None)()
    for kind in kinds:
        forget_tables(kind)


def forget_tables(kind: type) -> None:
    """Deletes what the living objects of a class have cached: right tables from before, or wrong ones after."""
    cached = [name for name, value in vars(kind).items() if isinstance(value, functools.cached_property)]
    for candidate in gc.get_objects():
        if type(candidate) is kind:
            for name in cached:
                vars(candidate).pop(name, None)


@contextmanager
def switched_on(edits: tuple[Edit | SourceEdit, ...]) -> Iterator[None]:
    """The edits hold while the context lasts; afterwards everything is as it was."""
    kinds: set[type] = set()
    of_sources = [edit for edit in edits if isinstance(edit, SourceEdit)]
    of_functions = [edit for edit in edits if isinstance(edit, Edit)]
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        if of_sources:
            texts = sources()
            for edit in of_sources:
                texts[edit.file] = replaced(texts[edit.file], edit)
            stack.enter_context(compiled_from(texts))
        paths = dict.fromkeys(edit.function for edit in of_functions)
        for path in paths:
            kind, function = found(path)
            mutant = edited(function, [edit for edit in of_functions if edit.function == path])
            for attribute in ("__code__", "__defaults__", "__kwdefaults__"):
                patch.setattr(function, attribute, getattr(mutant, attribute))
            if kind is not None:
                kinds.add(kind)
            if isinstance(named(path)[1], CFunction):
                patch.setattr(named(path)[1], "compiled", None)
        if any(edit.function.startswith(KERNELS) for edit in of_functions):
            stack.enter_context(tiles_made_anew())
        forget(paths, kinds)
        try:
            yield
        finally:
            patch.undo()
            forget(paths, kinds)
