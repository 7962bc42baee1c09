"""The loss on images that are not trained on, with the same timesteps and noise every time."""

import math
from dataclasses import asdict, dataclass

import numpy as np

import backends
from backends import Array, NonFiniteError
from tinyddpm import data, streams
from tinyddpm.diffusion.objective import Loss, mean_of
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.errors import InputError
from tinyddpm.networks.model import Model
from tinyddpm.training.run_config import DataConfig
from tinyddpm.training.trainer import Metrics

MOST_IMAGES = 512
BATCH = 64
# A set so small that `data.load` splits off no test images gives up every tenth
EVERY = 10
FEWEST_WITH_TEST_SPLIT = 20
# Not the run's, so that runs compare
SEED = 0


@dataclass(frozen=True)
class ValidatedMetrics(Metrics):
    """A step after which the held-out images were looked at: their loss with the weights, and with the average."""

    validation_loss: float
    validation_loss_ema: float

    def __str__(self) -> str:
        return f"held-out loss {self.validation_loss:.4f}, of the averaged weights {self.validation_loss_ema:.4f}"


class Validation:
    """The loss of a network on held-out images: up to 512, spread evenly over the set.

    diffusion says which loss. Timesteps are spread evenly over the schedule and dealt to the images at random; these
    and the noise are the same at every call and in every run. Labels are given where the network knows classes, and
    nothing is dropped. source: where the images come from, as words after "images".
    """

    def __init__(self, dataset: data.Dataset, diffusion: Diffusion, source: str) -> None:
        count = min(len(dataset), MOST_IMAGES)
        # The images of a folder come class by class
        self.dataset = dataset.take(np.arange(count) * len(dataset) // count)
        self.diffusion, self.source = diffusion, source

    def __str__(self) -> str:
        count = len(self.dataset)
        return f"on {count} image{'s' * (count > 1)} {self.source}, not trained on"

    def loss(self, model: Model) -> float:
        """The mean loss over the images."""
        be, diffusion, images, labels = model.backend, self.diffusion, self.dataset.images, self.dataset.labels
        compare, t = Loss(diffusion.loss, diffusion.huber_delta), spread_timesteps(diffusion.schedule.T, len(images))
        total = 0.0
        for number, first in enumerate(range(0, len(images), BATCH)):
            part = slice(first, first + BATCH)
            x0 = be.asarray(data.to_unit(images[part]))
            noise, _ = be.random_normal(tuple(x0.shape), SEED, streams.VALIDATION_NOISE, number, dtype=x0.dtype)
            known = None if model.config.num_classes is None or labels is None else labels[part]
            output: Array = model(
                diffusion.q_sample(x0, t[part], noise), diffusion.schedule.timesteps[t[part]], labels=known
            )
            weights, bound = (None if a is None else be.asarray(a) for a in diffusion.weights_and_bound(t[part], x0))
            references = diffusion.target(x0, t[part], noise), weights, None if bound is None else x0, bound
            total += float(mean_of(compare(be, output, *references)[0])) * x0.shape[0]
        return total / len(images)

    def measure(self, metrics: Metrics, model: Model, average: Array) -> ValidatedMetrics:
        """The metrics of a step with the losses of model, and of model over the averaged weights.

        Raises NonFiniteError where a loss is NaN or infinite.
        """
        losses = self.loss(model), self.loss(model.with_params(average))
        if not all(map(math.isfinite, losses)):
            raise NonFiniteError(f"after step {metrics.step} the loss on held-out images is not finite; lower lr")
        return ValidatedMetrics(**asdict(metrics), validation_loss=losses[0], validation_loss_ema=losses[1])


def spread_timesteps(T: int, n: int) -> np.ndarray:
    """(n,) int64 indices of the schedule, as evenly spread over 0 … T-1 as n allow, in a fixed random order."""
    u, _ = backends.get("numpy").random_uniform((n,), SEED, streams.VALIDATION_TIMESTEPS, 0, dtype=np.float64)
    ranks = np.argsort(np.argsort(u))
    return ((ranks + 0.5) / n * T).astype(np.int64)


def hold_out(config: DataConfig, dataset: data.Dataset) -> tuple[data.Dataset, data.Dataset, str]:
    """The images to train on, those held out, and where the latter come from.

    dataset: the config's training images. Held out are its test images; a folder of fewer than 20 has none, and gives
    up every tenth of its images, or its last one. Raises InputError for a single image, and as `data.load` does.
    """
    test = None
    try:
        test = config.load("test")
    except InputError:
        if len(dataset) >= FEWEST_WITH_TEST_SPLIT:
            raise
    if test is not None:
        if dataset.class_names is not None and test.class_names is not None:
            test = test.with_classes(dataset.class_names)  # labels of a resumed run may have an older order
        return dataset, test, "of the test split"
    if len(dataset) < 2:
        raise InputError(f"{dataset.name} has one image, so none can be held out; leave out --validate-every")
    numbers = np.arange(len(dataset))
    held = numbers % EVERY == min(EVERY, len(dataset)) - 1
    return dataset.take(numbers[~held]), dataset.take(numbers[held]), f"held out of the {len(dataset)}"
