"""Adam and the moving average of weights: each one pass over the flat parameter array."""

import math
from typing import Any

import backends
from backends import Array
from tinyddpm.checks import as_floats, check_flat, check_kind, check_number, told
from tinyddpm.errors import InputError


def like_params(name: str, array: Array, params: Array) -> Array:
    """The array in the dtype of the flat params.

    Raises InputError unless it is real, floating-point and of their shape: a shorter one might be broadcast.
    """
    shape = getattr(array, "shape", None)
    if shape != params.shape:
        seen = repr(array) if shape is None else f"shape {shape}"
        raise InputError(f"{name} must be an array of the parameters' shape {params.shape}, got {seen}")
    if array.dtype == params.dtype:
        return array
    xp = backends.namespace(params)
    if xp.isdtype(array.dtype, "complex floating"):
        raise InputError(f"{name} must be real numbers, as the parameters are, got {array.dtype}")
    return as_floats(name, array, "float32" if params.dtype == xp.float32 else "float64")


def check_part(name: str, part: "Adam | EMA", params: Array) -> None:
    """Raises InputError unless an optimiser's or average's own parameters have the shape and dtype of params."""
    if part.params.shape != params.shape or part.params.dtype != params.dtype:
        raise InputError(f"{name} must be of the parameters, {told(params)}, got one of {told(part.params)}")


def backend_of(params: Array, backend: Any) -> backends.Backend:
    """The backend, by default the one of params. Raises InputError for what is none."""
    if backend is None:
        return backends.of(params)
    return check_kind("backend", backend, backends.Backend, "backends.get('numpy')")


def clip_scale(norm: Any, max_norm: float) -> Any:
    """The factor that brings gradients of this norm to at most max_norm (Pascanu et al. 2013, algorithm 1).

    norm: a float, or a scalar array on a device, where the factor then is as well.
    """
    if isinstance(norm, float):
        return max_norm / norm if norm > max_norm else 1.0
    return backends.namespace(norm).where(norm > max_norm, max_norm / norm, 1.0)


class Adam:
    """Adam with bias correction (Kingma & Ba 2015, algorithm 1); weight_decay is decoupled (AdamW).

    params: the flat array that `step` updates in place. m, v: first and second moments, steps: how many were
    taken; together the state that a checkpoint keeps. Raises InputError for rates outside their ranges, and for params
    of other precisions than float32 and float64: in float16, eps and most squared gradients are zero.
    """

    def __init__(
        self,
        params: Array,
        lr: float = 2e-4,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        backend: backends.Backend | None = None,
    ) -> None:
        self.params = check_flat("params", params, written=True)
        self.lr = check_number("lr", lr, 0, float("inf"), high_open=True)
        self.beta1 = check_number("beta1", beta1, 0, 1, high_open=True)
        self.beta2 = check_number("beta2", beta2, 0, 1, high_open=True)
        self.eps = check_number("eps", eps, 0, float("inf"), low_open=True, high_open=True)
        self.weight_decay = check_number("weight_decay", weight_decay, 0, float("inf"), high_open=True)
        self.backend = backend_of(params, backend)
        self.m = self.backend.xp.zeros_like(params)
        self.v = self.backend.xp.zeros_like(params)
        self.steps = 0

    def step(self, grads: Array, lr: float | None = None, scale: float = 1.0, ema: "EMA | None" = None) -> None:
        """Moves the parameters against grads, an array like them, times scale; lr: for this step, else its own.

        grads of another precision are cast to the parameters'. ema: an average of these parameters, which is updated in
        the same pass over memory. Raises InputError, with nothing moved, for grads or an average of another shape, or
        an lr outside its range.
        """
        lr = self.lr if lr is None else lr
        grads = like_params("grads", grads, self.params)
        if ema is not None:
            check_kind("ema", ema, EMA, "EMA(model.params)")
            check_part("ema", ema, self.params)
        lr = check_number("lr", lr, 0, float("inf"), high_open=True)
        scale = check_number("scale", scale, 0, float("inf"), high_open=True)
        self.steps += 1
        if ema is not None:
            self.move(grads, self.steps, lr, scale, ema, ema.decay_now())
            ema.updates += 1
            return
        grads = grads if scale == 1.0 else grads * scale
        params, self.m, self.v = self.backend.adam(self.params, grads, self.m, self.v, self.steps, lr, *self.rates)
        # A backend may update in place
        if params is not self.params:
            self.params[...] = params

    @property
    def rates(self) -> tuple[float, float, float, float]:
        """What stays the same from step to step."""
        return self.beta1, self.beta2, self.eps, self.weight_decay

    def move(self, grads: Array, step: Any, lr: Any, scale: Any, ema: "EMA", decay: Any) -> None:
        """The arithmetic of the step-th `step`, without its checks and counts: nothing but arrays change.

        The numbers may be scalar arrays on a device, from where a backend that replays this reads them. A scale of NaN
        moves nothing.
        """
        if isinstance(scale, float) and math.isnan(scale):
            return
        params, m, v, average = self.backend.adam_ema(
            self.params, grads, self.m, self.v, ema.params, step, lr, decay, scale, *self.rates
        )
        # A backend may update in place
        if params is not self.params:
            self.backend.not_recordable()
            if not math.isnan(float(scale)):
                self.params[...], self.m[...], self.v[...], ema.params[...] = params, m, v, average


class EMA:
    """Exponential moving average of the weights, with warm-up so that it does not stay at initialisation.

    After n updates the decay is min(decay, (1 + n) / (10 + n)), as TensorFlow's ExponentialMovingAverage with
    num_updates has it. params: the average, a flat array of its own, at first a copy. updates: how many were made.
    Raises InputError for a decay outside [0, 1), and for params of other precisions than float32 and float64.
    """

    def __init__(self, params: Array, decay: float = 0.999, backend: backends.Backend | None = None) -> None:
        check_flat("params", params)
        self.decay = check_number("decay", decay, 0, 1, high_open=True)
        self.backend = backend_of(params, backend)
        self.params = 1.0 * params  # a copy; asarray(copy=True) is not CuPy's
        self.updates = 0

    def decay_now(self) -> float:
        """The decay of the next update."""
        return min(self.decay, (1 + self.updates) / (10 + self.updates))

    def update(self, params: Array) -> None:
        """Moves the average towards params, cast to its precision. Raises InputError for params of another shape."""
        params = like_params("params", params, self.params)
        average = self.backend.ema(self.params, params, self.decay_now())
        # A backend may update in place
        if average is not self.params:
            self.params[...] = average
        self.updates += 1
