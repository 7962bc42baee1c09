"""What training minimises, and the random draws that Algorithm 1 of Ho et al. 2020 makes.

Everything here is drawn from Philox by seed, step and number of the image in the step's batch alone, so that a resumed
run needs no generator state, and processes that share a batch draw what one alone would.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

import backends
from backends import Array
from tinyddpm import streams
from tinyddpm.checks import check_choice, check_number
from tinyddpm.errors import InputError
from tinyddpm.networks.layers import DropoutKey, Tape
from tinyddpm.networks.model import Model, forward_and_backward

LOSSES = ("mse", "l1", "huber", "vlb")
WEIGHTINGS = ("uniform", "min_snr")
# The weight of the bound in the hybrid loss (Nichol & Dhariwal 2021, section 3.1)
LAMBDA = 0.001


@dataclass(frozen=True)
class Loss:
    """A loss between the network's output and its target, the mean over all elements.

    name: "mse" (L_simple of Ho et al. 2020, eq. 14), "l1" or "huber" (Huber 1964, quadratic up to `delta`), or "vlb",
    the bound of a network that also predicts variances, whose "mse" is L_hybrid (Nichol & Dhariwal 2021, eq. 16).
    Equal losses compute the same, so that a backend may record a step under one. Raises InputError for another name
    or a delta that is not positive and finite.
    """

    name: str = "mse"
    delta: float = 1.0

    def __post_init__(self) -> None:
        check_choice("loss", self.name, LOSSES)
        delta = check_number("huber_delta", self.delta, 0, float("inf"), low_open=True, high_open=True)
        object.__setattr__(self, "delta", delta)

    def __call__(
        self,
        be: backends.Backend,
        output: Array,
        target: Array,
        weights: Array | None = None,
        x0: Array | None = None,
        steps: Array | None = None,
    ) -> tuple[Array, Array]:
        """(loss, a scalar array; its gradient with respect to output, of output's shape).

        weights: (N,), of each image's loss, or None. x0, steps: as of `vlb_loss`, for an output of 2C channels; the
        loss is (1 + N,) then, followed by each image's.
        """
        if steps is not None:
            loss, ctx = be.vlb_loss(output, target, x0, steps, self.name == "mse")
            (doutput,) = be.vlb_loss_backward(1.0, ctx)
            return loss, doutput
        more = {"delta": self.delta} if self.name == "huber" else {}
        loss, ctx = getattr(be, f"{self.name}_loss")(output, target, weights=weights, **more)
        (doutput,) = getattr(be, f"{self.name}_loss_backward")(1.0, ctx)
        return loss, doutput


class Trainable(Protocol):
    """What `learn` trains: a `Model`, or any object with its own backend and backward pass.

    Called with x (N, H, W, C), timesteps (N,), labels (N,) or None, a tape that takes what backward needs, and the
    key of its dropout; backward takes the output's gradient and that tape, and leaves the parameters'
    gradients in a place of the object's own.
    """

    backend: backends.Backend
    config: Any

    def __call__(
        self,
        x: Array,
        t: Array,
        labels: Array | None = None,
        tape: Tape = None,
        dropout_key: DropoutKey | None = None,
        /,
    ) -> Array: ...

    def backward(self, dy: Array, tape: list[Any], /) -> Array: ...


class Drawn(NamedTuple):
    """A batch, or a share of one, and what Algorithm 1 draws for it but the noise, which follows from step and first.

    Arrays of the backend or in host memory. x0: (N, H, W, C). timesteps: (N,), as the network is told them. signal,
    sigma: (N, 1, 1, 1), the weights of x0 and noise in x_t. labels: (N,) or None. step: (), int64. first: (),
    int64, the number of the first image in the batch. weights: (N,), of each image's loss, or None for 1. bound:
    (N, 6), what the timesteps say of the bound, the weights among it, for a network that also predicts variances
    (`backends.ops.bound`); else None.
    """

    x0: Array
    timesteps: Array
    signal: Array
    sigma: Array
    labels: Array | None
    step: Array
    first: Array
    weights: Array | None
    bound: Array | None


def random_timesteps(
    T: int, n: int, step: int, seed: int, first: int = 0, chances: np.ndarray | None = None
) -> np.ndarray:
    """The (n,) indices of a training step, int64, uniform on 0 … T-1 (Algorithm 1, line 3), or by chances (T,); of its
    images first … ."""
    u, _ = backends.get("numpy").random_uniform((n,), seed, streams.TIMESTEPS, step, dtype=np.float64, first=first)
    if chances is None:
        return (u * T).astype(np.int64)
    # Rounding may leave the sum below u
    return np.minimum(np.searchsorted(np.cumsum(chances), u, side="right"), T - 1)


def noise_like(be: backends.Backend, x0: Array, step: Any, seed: int, first: Any = 0) -> Array:
    """Standard normal noise of x0's shape and dtype (Algorithm 1, line 4). step, first: as of `Backend.number`."""
    return be.random_normal(tuple(x0.shape), seed, streams.TRAINING_NOISE, step, dtype=x0.dtype, first=first)[0]


def drop_labels(
    labels: Array, num_classes: int | None, share: float, step: int, seed: int, first: int = 0
) -> np.ndarray:
    """The (N,) labels of images first … , each replaced by num_classes, "no label", with probability `share`.

    So the unconditional branch that guidance needs is trained as well (Ho & Salimans 2022, algorithm 1, line 3).
    Raises InputError for a model without classes (num_classes None).
    """
    if num_classes is None:
        raise InputError("labels were given, but the model was built without classes; set num_classes")
    numpy, n = backends.get("numpy"), len(labels)
    u, _ = numpy.random_uniform((n,), seed, streams.LABEL_DROPOUT, step, dtype=np.float64, first=first)
    return np.where(u < share, num_classes, np.asarray(labels))


def learn(
    model: Trainable,
    x_t: Array,
    t: Array,
    labels: Array | None,
    references: tuple[Array | None, ...],
    loss: Loss,
    dropout_key: DropoutKey,
) -> Array:
    """The loss between the prediction from x_t and the references, its gradients left in the model (Algorithm 1,
    line 5).

    x_t: (N, H, W, C); t: (N,) timesteps of the schedule; labels: (N,) or None; all checked. references: what `Loss`
    takes after the output. Returns what `Loss` does.
    """
    if isinstance(model, Model):
        return model.learn(x_t, t, labels, references, loss, dropout_key)
    return forward_and_backward(model, model, loss, dropout_key, x_t, t, labels, *references)


def mean_of(losses: Array) -> Array:
    """The loss in what `Loss` gives: a scalar array."""
    return losses if losses.ndim == 0 else losses[0]
