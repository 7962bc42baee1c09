"""What the two U-Nets share: flat parameters, checks at the entrance, and their backward's bookkeeping."""

from collections.abc import Callable, Hashable
from functools import cached_property, partial
from typing import Any, ClassVar, Self

import numpy as np

import backends
from backends import Array, DType
from tinyddpm.checks import LARGEST_SEED, as_floats, check_choice, check_labels, check_whole, told
from tinyddpm.errors import InputError
from tinyddpm.networks.blocks import DropoutKey
from tinyddpm.networks.layers import Tape
from tinyddpm.networks.parameters import Declaration, Parameters, Scope

# (backend, output, what it is compared with …) -> (loss, its gradient with respect to output)
Objective = Callable[..., tuple[Array, Array]]


class Model:
    """A noise-prediction network: `model(x, t)` forward, `model.backward(dy, tape)` backward.

    config: what the subclass builds from. backend: where it computes. seed: of the initial parameters.
    params: a flat array to use (shared, not copied) instead of initial values; dtype: of the initial values,
    float32 or float64. Raises InputError for arguments of another kind, params in other precisions among them.

    A copy, by `copy.deepcopy` or pickle, has parameters and gradients of its own.

    recompute: set to True, blocks keep less for backward and recompute it there: less memory for more time, with
    bit-identical gradients. recordable: whether the backend may run `forward` and `backward` again without calling
    them; of a subclass elsewhere only if it says so, a promise that they depend on arguments and parameters alone.
    """

    config_type: ClassVar[type[Any]]
    recordable: ClassVar[bool] = True
    recompute: bool = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "recordable" not in vars(cls):
            cls.recordable = cls.__module__.partition(".")[0] == __name__.partition(".")[0]

    def __init__(
        self,
        config: Any,
        backend: backends.Backend | None = None,
        seed: int = 0,
        params: Array | None = None,
        dtype: str = "float32",
    ) -> None:
        if not isinstance(config, self.config_type):
            raise InputError(f"{type(self).__name__} takes a {self.config_type.__name__}, got {config!r}")
        if not isinstance(backend, backends.Backend | None):
            raise InputError(f"backend must be a Backend, such as backends.get('numpy'), got {backend!r}")
        seed = check_whole("seed", seed, 0, LARGEST_SEED)
        check_choice("dtype", dtype, ("float32", "float64"))
        self.config = config
        self.backend = backend or backends.get("auto")
        self.parameters = Parameters(self.backend)
        self.build(Scope(self.parameters, ""))
        self.parameters.lay_out(seed, dtype, params)

    @cached_property
    def recorder(self) -> backends.Recorder:
        """What runs functions that use this model's parameters."""
        return self.backend.recorder(self.params, self.grads)

    @classmethod
    def declarations(cls, config: Any) -> list[Declaration]:
        """Name and shape of every parameter that a model of this config has, without allocating any."""
        return cls.laid_out(config).parameters.declarations

    @classmethod
    def laid_out(cls, config: Any) -> Self:
        """The layers of a model of this config, without parameters: to be looked at, not called."""
        model = cls.__new__(cls)
        model.config, model.backend = config, backends.get("numpy")
        model.parameters = Parameters(model.backend)
        model.build(Scope(model.parameters, ""))
        return model

    def build(self, scope: Scope) -> None:
        """Makes the layers, which declare their parameters through `scope`."""
        raise NotImplementedError

    def forward(self, x: Array, t: Array, labels: Array | None, tape: Tape, dropout_key: DropoutKey | None) -> Array:
        """The network itself, on arguments already checked."""
        raise NotImplementedError

    def backward(self, dy: Array, tape: list[Any]) -> Array:
        """Undoes `forward`: writes every parameter's gradient and returns dx; the tape is empty afterwards."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        # Recordings hold addresses
        return {name: value for name, value in vars(self).items() if name != "recorder"}

    @property
    def dtype(self) -> str:
        """What real inputs are cast to: "float32" for float32 parameters, else "float64"."""
        return "float32" if self.params.dtype == self.backend.xp.float32 else "float64"

    def sinusoid_dtype(self) -> DType:
        """The real dtype in which the time embedding starts."""
        return getattr(self.backend.xp, self.dtype)

    @property
    def params(self) -> Array:
        """All parameters, one flat array; writing to it changes the model."""
        return self.parameters.flat

    @property
    def grads(self) -> Array:
        """All gradients of the last backward, in the layout of `params`."""
        return self.parameters.grads

    def named_params(self) -> dict[str, Array]:
        """Views into `params` by name."""
        return self.parameters.values

    def named_grads(self) -> dict[str, Array]:
        """Views into `grads` by name."""
        return self.parameters.gradients

    def with_params(self, params: Array, backend: backends.Backend | None = None) -> "Model":
        """This network over another flat parameter array (say an average's), not copied."""
        return type(self)(self.config, backend=backend or self.backend, params=params)

    def __call__(
        self,
        x: Array,
        t: Array,
        labels: Array | None = None,
        tape: Tape = None,
        dropout_key: tuple[int, int] | DropoutKey | None = None,
    ) -> Array:
        """Predicts from a noised image.

        x: (N, H, W, C) floating-point, cast to the parameters' dtype if it is another; t: (N,) timesteps, or one for
        all; labels: (N,) integers in 0 … num_classes, where num_classes, like None, means "no label". tape: a list
        that takes what backward needs; None keeps nothing. dropout_key: (seed, step) turns dropout on, (seed, step,
        first) that of a batch's images first … . Returns (N, H, W, C'). Raises InputError for shapes, sizes, timesteps
        or labels that do not fit the config, and for integer images.
        """
        if not isinstance(tape, list | None):
            raise InputError(f"tape must be a list, such as [], or None, got {told(tape)}")
        if not (dropout_key is None or (isinstance(dropout_key, tuple) and len(dropout_key) in (2, 3))):
            raise InputError(f"dropout_key must be a tuple (seed, step), or None, got {told(dropout_key)}")
        x, t, labels = (None if a is None else self.backend.asarray(a) for a in self.checked(x, t, labels))
        if tape is None and dropout_key is None:
            return self.run("prediction", lambda x, t, labels: self.forward(x, t, labels, None, None), x, t, labels)
        return self.forward(x, t, labels, tape, None if dropout_key is None else DropoutKey(*dropout_key))

    def learn(
        self,
        x_t: Array,
        t: Array,
        labels: Array | None,
        references: tuple[Array | None, ...],
        loss: Objective,
        dropout_key: DropoutKey,
    ) -> Array:
        """Predicts from x_t, compares with the references, and goes back: leaves the gradients in `grads`, returns the
        loss.

        x_t, t, labels: as for a call, checked, and arrays of the backend. loss: (backend, output, *references) ->
        (loss, one array; its gradient with respect to output); equal ones must compute the same.
        """
        step = partial(forward_and_backward, self.forward, self, loss, dropout_key)
        # Dropout's mask differs from step to step, so that a recording would not be of the next one
        steady = self.config.dropout == 0
        return self.run(("training", loss), step, x_t, t, labels, *references, steady=steady)

    def run(self, name: Hashable, function: Callable[..., Any], *inputs: Any, steady: bool = True) -> Array:
        """function(*inputs), one array.

        Recorded by the backend, if it can, under `name`, unless `steady` is False: then it may do something else each
        time, such as dropout.
        """
        if not self.recordable:
            self.backend.not_recordable()
        steady = steady and self.recordable
        return self.recorder.run((name, self.recompute), function, *inputs) if steady else function(*inputs)

    def checked(self, x: Array, t: Array, labels: Array | None) -> tuple[Array, Array, Array]:
        """The arguments of a call, t and labels as arrays in host memory, x where it is. Raises InputError as there."""
        config, be = self.config, self.backend
        x = as_floats("images", x, self.dtype)
        if len(x.shape) != 4 or x.shape[3] != config.in_channels:
            raise InputError(
                f"the model takes floating-point images (N, H, W, {config.in_channels}), got {x.dtype} of shape "
                f"{tuple(x.shape)}; images are NHWC, channels last, in [-1, 1]"
            )
        check_size((x.shape[1], x.shape[2]), len(config.channel_mults))
        n = x.shape[0]
        t = np.asarray(be.to_numpy(t))
        if t.shape not in ((), (n,)):
            raise InputError(f"t must be one timestep or one for each of the {n} images, got shape {t.shape}")
        if t.dtype.kind not in "iuf" or not np.all((t >= 0) & (t < np.inf)):
            raise InputError(f"timesteps are numbers from 0 up, got {np.array2string(t, threshold=6)}")
        t = np.broadcast_to(t, (n,)).astype(np.float64 if t.dtype.kind == "f" else np.int64)
        return x, t, self.checked_labels(labels, n)

    def checked_labels(self, labels: Array | None, n: int) -> np.ndarray | None:
        """Labels as an array in host memory; "no label" where None; None for an unconditional model."""
        classes = self.config.num_classes
        if classes is None:
            if labels is not None:
                raise InputError("this model was built without classes, so it takes no labels; set num_classes")
            return None
        no_label = getattr(self.config, "no_label", True)
        if labels is None and not no_label:
            raise InputError(f'this model has no embedding for "no label"; pass labels=, in 0 … {classes - 1}')
        labels = check_labels(np.full(n, classes) if labels is None else self.backend.to_numpy(labels), n, classes)
        if n and labels.max() == classes and not no_label:
            raise InputError(
                f"this model has labels 0 … {classes - 1} and none beyond; to train it, set label_dropout=0"
            )
        return labels

    def gradient(self, dy: Array, tape: list[Any]) -> Array:
        """The output's gradient as backward takes it, of the parameters' dtype. Raises InputError for an empty tape."""
        if not tape:
            raise InputError("the tape is empty; call the model with tape=[], and backward once for each such call")
        return as_floats("dy", dy, self.dtype)


def forward_and_backward(
    predict: Callable[..., Any],
    model: Any,
    loss: Objective,
    dropout_key: DropoutKey,
    x_t: Array,
    t: Array,
    labels: Array | None,
    *references: Array | None,
) -> Array:
    """The loss of predict(x_t, t, labels, tape, dropout_key); `model.backward` takes its gradient."""
    tape: list[Any] = []
    output = predict(x_t, t, labels, tape, dropout_key)
    value, doutput = loss(model.backend, output, *references)
    with model.backend.storing():
        model.backward(doutput, tape)
    return value


def check_size(size: tuple[int, int], levels: int) -> None:
    """Raises InputError, naming sizes that work, unless the U-Net's halvings divide both sides."""
    factor = 2 ** (levels - 1)
    if any(side < factor or side % factor for side in size):
        near = sorted({max(factor, side // factor * factor + extra) for side in size for extra in (0, factor)})
        raise InputError(
            f"an image of {size[0]}x{size[1]} cannot be halved {levels - 1} times; sides must be multiples of "
            f"{factor}, such as {' or '.join(map(str, near))} (or use fewer channel_mults)"
        )


def add_up(be: backends.Backend, parts: list[Array | None]) -> Array | None:
    """The sum of the parts that are not None; None if there is none."""
    total = None
    for part in parts:
        if part is not None:
            total = part if total is None else be.add(total, part)[0]
    return total
