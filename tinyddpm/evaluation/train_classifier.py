"""Training the classifiers that come with the package: `python -m tinyddpm.evaluation.train_classifier DATA`."""

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

import backends
from tinyddpm import data
from tinyddpm.evaluation.classifier import Classifier, ClassifierConfig, load_classifier, look, save_classifier
from tinyddpm.training.optimizers import Adam


@dataclass(frozen=True)
class Recipe:
    """How a data set's classifier is trained.

    channels, depth: of the network. aside: how many training images are kept aside, for choosing these settings without
    a look at the test images. epochs, batch_size: of the training. lr: the highest learning rate; it rises for a tenth
    of the steps, then falls to 0 along half a cosine. weight_decay: decoupled. shift: pixels by which each image moves
    at most, in both directions; flip: whether half of them are mirrored.
    """

    channels: tuple[int, ...]
    epochs: int
    depth: int = 1
    aside: int = 5_000
    batch_size: int = 128
    lr: float = 3e-3
    weight_decay: float = 0.02
    shift: int = 1
    flip: bool = False


RECIPES = {
    "digits": Recipe((32, 64, 64), 60, aside=0, batch_size=64),
    "mnist": Recipe((32, 64, 128, 128), 6, shift=2),
    "fashion-mnist": Recipe((32, 64, 128, 128), 10, flip=True),
}


def shifted(x0: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Images (N, H, W, C), each moved by up to `most` pixels in both directions; black, -1, follows at the edges."""
    n, height, width, _ = x0.shape
    padded = np.pad(x0, ((0, 0), (most, most), (most, most), (0, 0)), constant_values=-1)
    top, left = rng.integers(0, 2 * most + 1, (2, n, 1))
    rows, columns = top + np.arange(height), left + np.arange(width)
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def rate(step: int, steps: int, lr: float) -> float:
    """The learning rate of a step: a linear rise over a tenth of the steps, then half a cosine down to 0."""
    warmup = max(1, steps // 10)
    if step < warmup:
        return lr * (step + 1) / warmup
    return lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def trained(
    train: data.Dataset,
    recipe: Recipe,
    be: backends.Backend,
    seed: int = 0,
    steps: int | None = None,
    tell: Callable[[int, int, float, Classifier], None] = lambda step, steps, loss, classifier: None,
) -> Classifier:
    """A classifier of the labelled images, trained by the recipe for its epochs, or for `steps`.

    tell: called once an epoch with the steps done, all of them, the last loss, and the classifier as it is.
    """
    _, height, width, channels = train.images.shape
    config = ClassifierConfig((height, width), channels, recipe.channels, train.num_classes or 0, recipe.depth)
    classifier = Classifier(config, be, seed)
    optimizer = Adam(classifier.params, weight_decay=recipe.weight_decay, backend=be)
    batches = data.Batches(train, recipe.batch_size, seed, recipe.flip)
    steps = recipe.epochs * batches.steps_per_epoch if steps is None else steps
    for step in range(steps):
        x0, labels = batches.at(step)
        # Keys of two numbers are the batches' own
        x0 = shifted(x0, recipe.shift, np.random.default_rng([seed, step, 2]))
        loss = classifier.learn(be.asarray(x0), be.asarray(labels))
        optimizer.step(classifier.grads, rate(step, steps, recipe.lr))
        if (step + 1) % batches.steps_per_epoch == 0 or step + 1 == steps:
            tell(step + 1, steps, float(loss), classifier)
    return classifier


def accuracy(classifier: Classifier, images: data.Dataset) -> float:
    """The share of labelled images that it gives to their class."""
    return float(np.mean(look(classifier, images.images).probabilities.argmax(axis=1) == images.labels))


@click.command()
@click.argument("name", metavar="DATA", type=click.Choice(list(RECIPES)))
@click.option("--data-dir", help="Folder of the data sets; by default TINYDDPM_DATA, otherwise a download.")
@click.option("--seed", type=int, default=0, help="Of the weights, the order and the shifts.")
@click.option("--steps", type=int, help="Instead of the recipe's epochs.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="By default the file in this package.")
def main(name: str, data_dir: str | None, seed: int, steps: int | None, output: Path | None) -> None:
    """Train the classifier of DATA, print its accuracy on the test images, and write its weights in float16."""
    be = backends.get("auto")
    train, test = (data.load(name, split=split, data_dir=data_dir) for split in data.SPLITS)
    recipe = RECIPES[name]
    learnt = len(train) - recipe.aside
    aside = train.take(range(learnt, len(train)))

    def tell(step: int, steps: int, loss: float, classifier: Classifier) -> None:
        right = f", {accuracy(classifier, aside):.2%} of {len(aside):,} images kept aside right" if len(aside) else ""
        click.echo(f"step {step} of {steps}, loss {loss:.4f}{right}")

    classifier = trained(train.take(range(learnt)), recipe, be, seed, steps, tell)
    output = output or Path(__file__).with_name("classifiers") / f"{name}.safetensors"
    options = ["--seed", str(seed)] + ([] if steps is None else ["--steps", str(steps)])
    command = shlex.join(["python", "-m", "tinyddpm.evaluation.train_classifier", name, *options])
    about = {"data": name, "digest": train.summary.digest, "command": command}
    save_classifier(output, classifier, about)
    # What is read back has been rounded
    rounded, _ = load_classifier(output, be)
    reached = accuracy(rounded, test)
    save_classifier(output, rounded, {**about, "accuracy": reached})
    click.echo(f"wrote {output}: {reached:.2%} of {len(test):,} test images right, {rounded.config.features} features")


if __name__ == "__main__":
    main()
