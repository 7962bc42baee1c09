"""Parameters and gradients as two flat arrays with named views."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from backends import Array, Backend
from tinyddpm import streams
from tinyddpm.checks import check_flat


@dataclass
class Declaration:
    """One parameter before it has a place: its name, shape, and half the width of its uniform initial values."""

    name: str
    shape: tuple[int, ...]
    bound: float
    constant: float = 0.0


@dataclass
class Parameters:
    """Declared one by one while a model is built, then laid out in one flat array.

    `scope("down.0")` gives the view through which a layer declares and later reads its own parameters.
    """

    backend: Backend
    declarations: list[Declaration] = field(default_factory=list)
    flat: Array | None = None
    grads: Array | None = None
    numbered: int = 0
    values: dict[str, Array] = field(default_factory=dict)
    gradients: dict[str, Array] = field(default_factory=dict)

    def scope(self, name: str) -> "Scope":
        """The view of the parameters whose names begin with `name`."""
        return Scope(self, name)

    @property
    def size(self) -> int:
        """Number of scalars."""
        return sum(math.prod(d.shape) for d in self.declarations)

    def lay_out(self, seed: int, dtype: str, flat: Array | None = None) -> None:
        """Allocates values and gradients, or takes `flat` as the values, and names their views.

        Raises InputError unless `flat` is a float32 or float64 array (or complex, to differentiate by the complex step)
        of the length that the declarations add up to.
        """
        xp = self.backend.xp
        if flat is None:
            parts = [xp.reshape(self.initial(d, i, seed, dtype), (-1,)) for i, d in enumerate(self.declarations)]
            flat = xp.concat(parts)
        else:
            flat = check_flat("this model's parameters", flat, self.size, complex_too=True)
        self.flat, self.grads = flat, xp.zeros(flat.shape, dtype=flat.dtype)
        self.name_views()

    def name_views(self) -> None:
        """Cuts the flat arrays into parameters."""
        self.values, self.gradients = dict(self.views(self.flat)), dict(self.views(self.grads))

    def __getstate__(self) -> dict[str, Any]:
        # A view alone would be copied as an array by itself
        return {**vars(self), "values": {}, "gradients": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.flat is not None:
            self.name_views()

    def initial(self, declaration: Declaration, number: int, seed: int, dtype: str) -> Array:
        """Initial value of a parameter, drawn by its number in the order of declaration."""
        xp, shape = self.backend.xp, declaration.shape
        kind = getattr(xp, dtype)
        if declaration.bound == 0:
            return xp.zeros(shape, dtype=kind) + declaration.constant
        u, _ = self.backend.random_uniform(shape, seed, streams.PARAMETERS[number], 0, dtype=xp.float64)
        return xp.astype(declaration.bound * (2.0 * u - 1.0), kind)

    def views(self, flat: Array) -> Iterator[tuple[str, Array]]:
        """(name, view) for every parameter, into any flat array of this layout."""
        start = 0
        for d in self.declarations:
            stop = start + math.prod(d.shape)
            yield d.name, self.backend.xp.reshape(flat[start:stop], d.shape)
            start = stop


@dataclass(frozen=True)
class Scope:
    """A prefix of parameter names, and through it the backend: what a layer is built from."""

    parameters: Parameters
    prefix: str

    @property
    def backend(self) -> Backend:
        return self.parameters.backend

    def scope(self, name: str) -> "Scope":
        """A scope within this one."""
        return Scope(self.parameters, f"{self.prefix}.{name}" if self.prefix else name)

    def number(self) -> int:
        """1, 2, 3 … for whatever is counted through the model, such as its dropout layers."""
        self.parameters.numbered += 1
        return self.parameters.numbered

    def declare(self, name: str, shape: tuple[int, ...], bound: float = 0.0, constant: float = 0.0) -> "Parameter":
        """Declares a parameter uniform in ±bound, or constant where bound is 0."""
        full = self.scope(name).prefix
        self.parameters.declarations.append(Declaration(full, shape, bound, constant))
        return Parameter(self.parameters, full)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a layer: a view of the flat arrays by name."""

    parameters: Parameters
    name: str

    @property
    def value(self) -> Array:
        """The array of its values, of the declared shape."""
        return self.parameters.values[self.name]

    def write(self, gradient: Array) -> None:
        """Stores the gradient, an array of the declared shape: once per backward, overwriting the last one."""
        self.parameters.backend.store(gradient, self.parameters.gradients[self.name])
