"""The loss of a network at each noise level."""

from dataclasses import dataclass

from tinyddpm import data, streams
from tinyddpm.checks import LARGEST_SEED, check_kind, check_network, check_whole
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.errors import InputError
from tinyddpm.networks.model import Model

EVALUATED_IMAGES = 512
BATCH = 64


@dataclass(frozen=True)
class NoiseLevelLoss:
    """The mean squared error of the network's prediction at timestep t of the schedule."""

    t: int
    alpha_bar: float
    loss: float


def loss_by_noise_level(
    model: Model, diffusion: Diffusion, dataset: data.Dataset, levels: int, seed: int = 0
) -> list[NoiseLevelLoss]:
    """Mean squared error at `levels` timesteps spread over the schedule, over up to 512 images.

    Each level sees the same images, and noise that depends on (seed, level) alone, so that models compare. levels: at
    least 1, or all of the schedule's if there are fewer. Raises InputError for others, and for a set without images.
    """
    check_network(model)
    check_kind("diffusion", diffusion, Diffusion, "Diffusion(Schedule.cosine(1000))")
    check_kind("dataset", dataset, data.Dataset, "data.load('digits', split='test')")
    levels, seed = check_whole("levels", levels), check_whole("seed", seed, 0, LARGEST_SEED)
    if len(dataset) == 0:
        raise InputError(f"{dataset.name} has no images; a loss needs at least one")
    be, dtype = model.backend, getattr(model, "dtype", "float32")
    images = dataset.images[:EVALUATED_IMAGES]
    labels = None
    if model.config.num_classes is not None and dataset.labels is not None:
        labels = dataset.labels[:EVALUATED_IMAGES]
    rows = []
    for t in diffusion.schedule.spaced_indices(min(levels, diffusion.schedule.T), "linspace"):
        total = 0.0
        for number, first in enumerate(range(0, len(images), BATCH)):
            x0 = be.asarray(data.to_unit(images[first : first + BATCH]), dtype)
            noise, _ = be.random_normal(tuple(x0.shape), seed, streams.EVALUATION_NOISE[number], int(t))
            noise = be.asarray(noise, dtype)
            output = model(
                diffusion.q_sample(x0, t, noise),
                int(diffusion.schedule.timesteps[t]),
                labels=None if labels is None else labels[first : first + BATCH],
            )
            prediction, _ = diffusion.split_output(output, x0.shape[-1])
            loss, _ = be.mse_loss(prediction, diffusion.target(x0, t, noise))
            total += float(loss) * x0.shape[0]
        rows.append(NoiseLevelLoss(int(t), float(diffusion.schedule.alpha_bars[t]), total / len(images)))
    return rows
