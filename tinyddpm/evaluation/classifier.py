"""A small convolutional classifier, whose features the scores of samples compare: forward above backward."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as safetensors_bytes

import backends
from backends import Array
from tinyddpm.checks import LARGEST_SEED, JsonConfig, check_choice, check_kind, check_tuple, check_whole, settle, told
from tinyddpm.data import NAMES, to_unit
from tinyddpm.errors import DamagedFileError, InputError, MissingDataError
from tinyddpm.files import write_atomically
from tinyddpm.networks.layers import Conv2d, GroupNormSiLU, Linear, Tape, keep
from tinyddpm.networks.parameters import Parameters, Scope
from tinyddpm.training.checkpoint import ENTRY, digest, read_checked

BATCH = 256


@dataclass(frozen=True)
class ClassifierConfig(JsonConfig):
    """What a `Classifier` is built from.

    size: (height, width) of its images, in_channels: 1 or 3. channels: of each level; the first keeps the resolution,
    each other's first convolution halves it, rounding up. num_classes: at least 2. depth: convolutions of each level.
    groups: of the normalisations, dividing all channels. Raises InputError for other values, and for a size that does
    not end in a square to be halved to one.
    """

    size: tuple[int, int]
    in_channels: int
    channels: tuple[int, ...]
    num_classes: int
    depth: int = 1
    groups: int = 8

    def __post_init__(self) -> None:
        for name in ("size", "channels"):
            settle(self, name, check_tuple, "(28, 28)")
        settle(self, "in_channels", check_whole)
        settle(self, "num_classes", check_whole, 2)
        settle(self, "depth", check_whole)
        settle(self, "groups", check_whole)
        if len(self.size) != 2 or not self.channels:
            raise InputError(f"a classifier needs a height, a width and channels, got {self.size}, {self.channels}")
        if any(count % self.groups for count in self.channels):
            raise InputError(f"groups must divide all channels, got {self.groups} and {self.channels}")
        height, width = self.last_size
        if height != width or height & (height - 1):
            raise InputError(
                f"{len(self.channels) - 1} halvings bring {self.size[0]}x{self.size[1]} to {height}x{width}; "
                "the last must be 1x1, 2x2, 4x4 …"
            )

    @property
    def last_size(self) -> tuple[int, int]:
        """(height, width) after the last convolution."""
        halvings = 2 ** (len(self.channels) - 1)
        return math.ceil(self.size[0] / halvings), math.ceil(self.size[1] / halvings)

    @property
    def features(self) -> int:
        """The number of features: channels of the last convolution."""
        return self.channels[-1]


class Classifier:
    """Convolutions, each with group normalisation and SiLU, then the mean over pixels, then a linear map to logits.

    config: what it is built from. backend: where it computes. seed: of the initial parameters. params: a flat array to
    use instead. Raises InputError for arguments of another kind.
    """

    def __init__(
        self,
        config: ClassifierConfig,
        backend: backends.Backend | None = None,
        seed: int = 0,
        params: Array | None = None,
        dtype: str = "float32",
    ) -> None:
        self.config = check_kind("config", config, ClassifierConfig, "ClassifierConfig((28, 28), 1, (32, 64), 10)")
        check_choice("dtype", dtype, ("float32", "float64"))
        self.backend = backend or backends.get("auto")
        self.parameters = Parameters(self.backend)
        self.build(Scope(self.parameters, ""))
        self.parameters.lay_out(check_whole("seed", seed, 0, LARGEST_SEED), dtype, params)

    def build(self, scope: Scope) -> None:
        """Makes the layers, which declare their parameters through `scope`."""
        config, before = self.config, self.config.in_channels
        self.stages = []
        for number, after in enumerate(np.repeat(config.channels, config.depth).tolist()):
            stage = scope.scope(f"stages.{number}")
            halves = number > 0 and number % config.depth == 0
            conv = Conv2d(stage.scope("conv"), before, after, stride=2 if halves else 1)
            self.stages.append((conv, GroupNormSiLU(stage.scope("norm"), after, config.groups, 1e-5)))
            before = after
        self.head = Linear(scope.scope("head"), before, config.num_classes)
        self.halvings = config.last_size[0].bit_length() - 1

    @property
    def params(self) -> Array:
        """All parameters, one flat array; writing to it changes the classifier."""
        return self.parameters.flat

    @property
    def grads(self) -> Array:
        """All gradients of the last backward, in the layout of `params`."""
        return self.parameters.grads

    def features(self, x: Array, tape: Tape = None) -> Array:
        """The penultimate layer: (N, H, W, C) in [-1, 1] -> (N, config.features)."""
        for conv, norm in self.stages:
            x = norm.forward(conv.forward(x, tape), tape)
        for _ in range(self.halvings):
            x, ctx = self.backend.average_pool(x)
            keep(tape, ctx)
        return self.backend.xp.reshape(x, (x.shape[0], self.config.features))

    def forward(self, x: Array, tape: Tape = None) -> Array:
        """Logits: (N, H, W, C) in [-1, 1] -> (N, config.num_classes)."""
        return self.head.forward(self.features(x, tape), tape)

    def backward(self, dlogits: Array, tape: list[Any]) -> Array:
        """Undoes `forward`: writes every parameter's gradient and returns dx; the tape is empty afterwards."""
        dx = self.head.backward(dlogits, tape)
        dx = self.backend.xp.reshape(dx, (dx.shape[0], 1, 1, self.config.features))
        for _ in range(self.halvings):
            (dx,) = self.backend.average_pool_backward(dx, tape.pop())
        for conv, norm in reversed(self.stages):
            dx = conv.backward(norm.backward(dx, tape), tape)
        return dx

    def learn(self, x: Array, labels: Array) -> Array:
        """Forward, cross-entropy and backward: leaves the gradients in `grads`, returns the loss, a scalar array.

        x: (N, H, W, C) in [-1, 1]; labels: (N,) integers.
        """
        tape: list[Any] = []
        loss, ctx = self.backend.softmax_cross_entropy(self.forward(x, tape), labels)
        (dlogits,) = self.backend.softmax_cross_entropy_backward(1.0, ctx)
        with self.backend.storing():
            self.backward(dlogits, tape)
        return loss


@dataclass(frozen=True)
class Seen:
    """What a classifier sees in N images: features (N, D) and the probability of each class (N, K), float64."""

    features: np.ndarray
    probabilities: np.ndarray

    def first(self, count: int) -> "Seen":
        """The same of the first images alone."""
        return Seen(self.features[:count], self.probabilities[:count])


def look(classifier: Classifier, images: np.ndarray) -> Seen:
    """Shows bytes (N, H, W, C), real or drawn, to the classifier: both the same way, or their scores would not compare.

    Raises InputError for another dtype or size: images that were never rounded differ from all that were.
    """
    wanted = (*classifier.config.size, classifier.config.in_channels)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != wanted or not len(images):
        sizes = ", ".join(map(str, wanted))
        raise InputError(f"the classifier sees uint8 of shape (N, {sizes}), got {told(images)}")
    be, features, logits = classifier.backend, [], []
    for first in range(0, len(images), BATCH):
        found = classifier.features(be.asarray(to_unit(images[first : first + BATCH])))
        features.append(be.to_numpy(found).astype(np.float64))
        logits.append(be.to_numpy(classifier.head.forward(found, None)).astype(np.float64))
    scores = np.concatenate(logits)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return Seen(np.concatenate(features), powers / powers.sum(axis=1, keepdims=True))


def save_classifier(path: str | os.PathLike[str], classifier: Classifier, about: dict[str, Any]) -> None:
    """Writes the weights in float16, with the config and `about`, JSON values, in the header."""
    be = classifier.backend
    tensors = {
        name: np.ascontiguousarray(be.to_numpy(value)).astype(np.float16)
        for name, value in classifier.parameters.values.items()
    }
    text = json.dumps({"config": classifier.config.to_dict(), "about": about}, sort_keys=True)
    write_atomically(path, safetensors_bytes(tensors, {ENTRY: f"{digest(text, tensors)} {text}"}))


def load_classifier(
    path: str | os.PathLike[str], be: backends.Backend | None = None
) -> tuple[Classifier, dict[str, Any]]:
    """The classifier that `save_classifier` wrote, and its `about`.

    Raises MissingDataError where there is no file, DamagedFileError where its content is not what was written.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingDataError(f"no classifier at {path}; give a file that `save_classifier` wrote")
    text, tensors = read_checked(path)
    description = json.loads(text)
    if "about" not in description:
        raise DamagedFileError(f"{path} is no classifier; give a file that `save_classifier` wrote")
    classifier = Classifier(ClassifierConfig.from_dict(description["config"]), be)
    for name, value in classifier.parameters.values.items():
        value[...] = classifier.backend.asarray(tensors[name].astype(np.float32))
    return classifier, description["about"]


def shipped(name: str) -> Path | None:
    """The file of the classifier that comes with the package for a data set of that name; None where none does."""
    path = Path(__file__).with_name("classifiers") / f"{name}.safetensors"
    return path if name in NAMES and path.is_file() else None
